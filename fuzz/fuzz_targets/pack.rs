//! Any trits and scales through every packing.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bitnet_fuzz::pack::run(data));
