//! libFuzzer's way to `checks/find_request.rs`.
#![no_main]

#[path = "../checks/find_request.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
