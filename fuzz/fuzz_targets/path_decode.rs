//! libFuzzer's way to `checks/path_decode.rs`.
#![no_main]

#[path = "../checks/path_decode.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
