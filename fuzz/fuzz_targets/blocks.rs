//! Any bytes as blocks of floats.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bitnet_fuzz::blocks::run(data));
