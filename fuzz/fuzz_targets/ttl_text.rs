//! libFuzzer's way to `checks/ttl_text.rs`.
#![no_main]

#[path = "../checks/ttl_text.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::run(bytes));
