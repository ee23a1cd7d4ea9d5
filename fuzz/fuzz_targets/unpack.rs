//! Any bytes as a packed ternary matrix.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bitnet_fuzz::unpack::run(data));
