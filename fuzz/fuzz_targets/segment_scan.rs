//! libFuzzer's way to `checks/segment_scan.rs`.
#![no_main]

#[path = "../checks/segment_scan.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
