//! libFuzzer's way to `checks/set_body.rs`.
#![no_main]

#[path = "../checks/set_body.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
