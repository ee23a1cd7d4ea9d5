//! A tokenizer from a Hugging Face folder.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bitnet_fuzz::tokenizer_json::run(data));
