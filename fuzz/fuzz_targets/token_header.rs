//! libFuzzer's way to `checks/token_header.rs`.
#![no_main]

#[path = "../checks/token_header.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
