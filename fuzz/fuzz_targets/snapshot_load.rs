//! libFuzzer's way to `checks/snapshot_load.rs`.
#![no_main]

#[path = "../checks/snapshot_load.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
