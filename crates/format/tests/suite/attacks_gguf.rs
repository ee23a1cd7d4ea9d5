//! GGUF files made to hurt. One test an attack.

use bitnet_format::gguf::{Array, Value};
use bitnet_format::{Checkpoint, FormatError, StorageType};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};

use crate::common::{assert_says, f32_bytes, gguf_bytes, gguf_keys, open_gguf, trits};

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A file by hand: what `Writer` refuses to write.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, pairs: u64) -> Self {
        Self([b"GGUF", &3u32.to_le_bytes()[..], &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat())
    }

    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn bytes(mut self, v: &[u8]) -> Self {
        self.0.extend(v);
        self
    }

    fn str(self, v: &str) -> Self {
        self.u64(v.len() as u64).bytes(v.as_bytes())
    }

    fn architecture(self) -> Self {
        self.str("general.architecture").u32(STRING).str("bitnet")
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let begun = self.str(name).u32(dims.len() as u32);
        dims.iter().fold(begun, |raw, dim| raw.u64(*dim)).u32(kind).u64(offset)
    }

    /// Pads to the data section and adds that many bytes of it.
    fn data(mut self, len: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }

    fn open(self) -> Result<Checkpoint, FormatError> {
        open_gguf(self.0)
    }
}

#[test]
fn empty_and_foreign_files() {
    assert_says(open_gguf(Vec::new()), &["model.gguf", "empty"]);
    assert_says(open_gguf(b"GGU".to_vec()), &["model.gguf", "magic"]);
    assert_says(open_gguf(vec![0; 64]), &["model.gguf", "GGUF"]);
}

#[test]
fn versions_that_are_not_read() {
    for (version, words) in [(1u32, "version 1"), (4, "version 4"), (3u32.swap_bytes(), "big-endian")] {
        let mut bytes = Raw::new(0, 0).0;
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert_says(open_gguf(bytes), &[words]);
    }
}

#[test]
fn version_2_is_read() {
    let mut bytes = gguf_bytes(&gguf_keys("bitnet"), &[]);
    bytes[4] = 2;
    assert!(open_gguf(bytes).is_ok());
}

#[test]
fn counts_beyond_the_file() {
    assert_says(Raw::new(u64::MAX, 0).open(), &["18446744073709551615 tensors"]);
    assert_says(Raw::new(0, u64::MAX).open(), &["18446744073709551615 metadata pairs"]);
    assert_says(Raw::new(0, 1 << 40).open(), &["metadata pairs"]);
}

#[test]
fn strings_beyond_the_file() {
    assert_says(Raw::new(0, 1).u64(u64::MAX).data(64).open(), &["metadata key", "18446744073709551615 bytes"]);
    let value = Raw::new(0, 1).str("k").u32(STRING).u64(u64::MAX - 7).data(64);
    assert_says(value.open(), &["inside k"]);
}

#[test]
fn strings_that_are_not_utf8() {
    assert_says(Raw::new(0, 1).u64(2).bytes(&[0xff, 0xfe]).data(64).open(), &["UTF-8", "byte 32"]);
    assert_says(Raw::new(0, 1).str("k").u32(STRING).u64(1).bytes(&[0x80]).data(64).open(), &["k", "UTF-8"]);
}

#[test]
fn arrays_beyond_the_file() {
    for kind in 0..=12 {
        for count in [u64::MAX, u64::MAX / 8 + 1, 1 << 32, 1000] {
            assert_says(Raw::new(0, 1).str("k").u32(ARRAY).u32(kind).u64(count).data(64).open(), &["k"]);
        }
    }
}

#[test]
fn arrays_that_nest_without_end() {
    let mut raw = Raw::new(0, 1).str("k").u32(ARRAY);
    for _ in 0..10_000 {
        raw = raw.u32(ARRAY).u64(1);
    }
    assert_says(raw.data(64).open(), &["`k`", "deeper than 4"]);
}

#[test]
fn unknown_value_types_and_truth_values() {
    assert_says(Raw::new(0, 1).str("k").u32(13).data(64).open(), &["`k`", "type 13"]);
    assert_says(Raw::new(0, 1).str("k").u32(ARRAY).u32(99).u64(0).data(64).open(), &["`k`", "type 99"]);
    assert_says(Raw::new(0, 1).str("k").u32(7).bytes(&[2]).data(64).open(), &["`k`", "truth value 2"]);
}

#[test]
fn keys_given_twice() {
    let raw = Raw::new(0, 2).architecture().architecture();
    assert_says(raw.data(0).open(), &["general.architecture", "twice"]);
}

#[test]
fn alignments_no_file_has() {
    for alignment in [0u32, 1, 4, 3, 48, u32::MAX] {
        let raw = Raw::new(0, 1).str("general.alignment").u32(4).u32(alignment);
        assert_says(raw.data(64).open(), &["general.alignment", "power of two"]);
    }
    let text = Raw::new(0, 1).str("general.alignment").u32(STRING).str("32");
    assert_says(text.data(64).open(), &["general.alignment"]);
}

#[test]
fn an_alignment_of_the_files_own() {
    let mut raw = Raw::new(1, 10).str("general.alignment").u32(4).u32(128);
    for (key, value) in gguf_keys("bitnet") {
        raw = raw.str(&key);
        raw = match value {
            Value::String(text) => raw.u32(STRING).str(&text),
            Value::U32(n) => raw.u32(4).u32(n),
            Value::F32(x) => raw.u32(6).bytes(&x.to_le_bytes()),
            other => panic!("{other:?}"),
        };
    }
    let mut bytes = raw.tensor("output_norm.weight", &[2], 0, 128).0;
    bytes.resize(bytes.len().next_multiple_of(128) + 128, 0);
    bytes.extend(f32_bytes(&[1.5, -2.5]));
    assert_eq!(open_gguf(bytes).unwrap().floats("model.norm.weight").unwrap(), [1.5, -2.5]);
}

#[test]
fn tensor_names_of_no_or_absurd_length() {
    assert_says(Raw::new(1, 0).tensor("", &[1], 0, 0).data(64).open(), &["tensor name", "0 bytes"]);
    assert_says(Raw::new(1, 0).tensor(&"x".repeat(2000), &[1], 0, 0).data(64).open(), &["2000 bytes"]);
}

#[test]
fn shapes_no_tensor_has() {
    assert_says(Raw::new(1, 0).tensor("t", &[1; 5], 0, 0).data(64).open(), &["`t`", "5 dimensions"]);
    assert_says(Raw::new(1, 0).str("t").u32(u32::MAX).data(64).open(), &["`t`", "4294967295 dimensions"]);
    assert_says(Raw::new(1, 0).tensor("t", &[0, 4], 0, 0).data(64).open(), &["`t`", "dimension of 0"]);
    let huge = Raw::new(1, 1).architecture().tensor("t", &[u64::MAX / 2, 4, 4], 0, 0);
    assert_says(huge.data(64).open(), &["`t`", "shape"]);
    // 2^62 values of 4 bytes: the product wraps around to nothing.
    let wrapping = Raw::new(1, 1).architecture().tensor("t", &[1 << 31, 1 << 31], 0, 0);
    assert_says(wrapping.data(64).open(), &["`t`", "cannot store"]);
}

#[test]
fn rows_that_are_not_whole_blocks() {
    for (kind, cols) in [(2, 33), (8, 31), (12, 128), (14, 255), (34, 128), (35, 100), (42, 65), (134, 63), (135, 65)] {
        let raw = Raw::new(1, 1).architecture().tensor("t", &[cols, 4], kind, 0);
        assert_says(raw.data(4096).open(), &["`t`"]);
    }
}

#[test]
fn types_nobody_knows() {
    let open = |kind| Raw::new(1, 1).architecture().tensor("t", &[256, 4], kind, 0).data(4096).open();
    assert_says(open(4242), &["`t`", "unknown type 4242"]);
    assert_says(open(u32::MAX), &["`t`", "4294967295"]);
    assert_says(open(13), &["`t`", "Q5_K"]);
    assert_says(open(41), &["`t`", "Q1_0"]);
    assert_says(open(143), &["`t`", "PTQ1_0"]);
}

#[test]
fn lookup_table_types_say_what_to_use_instead() {
    assert_says(Raw::new(1, 1).architecture().tensor("t", &[256, 4], 38, 0).data(4096).open(), &["`t`", "TL1", "I2_S"]);
    let with_type = |file_type| {
        let raw = Raw::new(1, 2).architecture().str("general.file_type").u32(4).u32(file_type);
        raw.tensor("t", &[256, 4], 39, 0).data(4096).open()
    };
    assert_says(with_type(39), &["`t`", "TL2", "I2_S"]);
    assert_says(with_type(1), &["`t`", "MXFP4"]);
}

#[test]
fn offsets_beyond_the_file() {
    let open = |offset| Raw::new(1, 1).architecture().tensor("t", &[4], 0, offset).data(64).open();
    assert!(matches!(open(0), Err(FormatError::Config { .. })), "only keys are missing");
    assert_says(open(64), &["`t`", "16 bytes", "0 are there"]);
    assert_says(open(96), &["`t`", "beyond the file"]);
    assert_says(open(u64::MAX - 31), &["`t`", "beyond the file"]);
    assert_says(open(7), &["`t`", "multiple of 32"]);
}

#[test]
fn tensors_on_top_of_each_other() {
    let two = |second_name, second_offset| {
        let raw = Raw::new(2, 1).architecture().tensor("a", &[16], 0, 0);
        raw.tensor(second_name, &[16], 0, second_offset).data(256).open()
    };
    assert_says(two("b", 0), &["same byte"]);
    assert_says(two("b", 32), &["`a`", "64 bytes", "32 are there"]);
    assert_says(two("a", 64), &["`a`", "twice"]);
}

#[test]
fn one_tensor_under_two_names() {
    let data = || f32_bytes(&[1.0; 256]);
    let both = [
        ("blk.0.attn_norm.weight", StorageType::F32, vec![256], data()),
        ("blk.0.attn_norm.weight2", StorageType::F32, vec![256], data()),
    ];
    assert!(open_gguf(gguf_bytes(&gguf_keys("bitnet"), &both)).is_ok());
    let clash = [
        ("output_norm.weight", StorageType::F32, vec![256], data()),
        ("model.norm.weight", StorageType::F32, vec![256], data()),
    ];
    assert_says(open_gguf(gguf_bytes(&gguf_keys("bitnet"), &clash)), &["model.norm.weight", "output_norm.weight"]);
}

#[test]
fn i2_s_of_another_program() {
    // 64 rows of 32 values in 18 bytes: what id 36 was upstream.
    let raw = Raw::new(2, 1).architecture().tensor("t", &[32, 64], 36, 0).tensor("u", &[4], 0, 1152);
    assert_says(raw.data(1184).open(), &["`t`", "type 36", "1152", "544", "another program"]);
}

#[test]
fn i2_s_that_threads_cut_up() {
    // 256 rows of 256 weights in four parts: what bitnet.cpp's quantizer leaves of them with two threads.
    let raw = Raw::new(2, 1).architecture().tensor("t", &[256, 256], 36, 0).tensor("u", &[4], 0, 16_512);
    assert_says(raw.data(16_544).open(), &["`t`", "16512", "16416", "several threads"]);
}

#[test]
fn i2_s_scales_nobody_writes() {
    for scale in [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e5] {
        let matrix = TernaryMatrix::from_trits(4, 256, &trits(1024), Scale::Tensor(1.0)).unwrap();
        let mut bytes = Packing::I2S.encode(&matrix).unwrap();
        bytes[256..260].copy_from_slice(&scale.to_le_bytes());
        let tensor = ("blk.0.attn_q.weight", StorageType::Ternary(Packing::I2S), vec![4, 256], bytes);
        let model = open_gguf(gguf_bytes(&gguf_keys("bitnet"), &[tensor])).unwrap();
        assert_says(
            model.ternary("model.layers.0.self_attn.q_proj", 4, 256),
            &["model.gguf", "blk.0.attn_q.weight", "scale"],
        );
    }
}

#[test]
fn code_3_in_every_two_bit_packing() {
    use Packing::*;
    for packing in [I2S, I2SArm64, I2SFourRows, Tq2_0, Iq2Bn, Iq2BnR4, Q2_0 { group: 64 }] {
        let matrix = TernaryMatrix::from_trits(4, 256, &trits(1024), Scale::Tensor(1.0)).unwrap();
        let mut bytes = packing.encode(&matrix).unwrap();
        bytes[40] = 0xff;
        let tensor = ("blk.0.attn_q.weight", StorageType::Ternary(packing), vec![4, 256], bytes);
        let model = open_gguf(gguf_bytes(&gguf_keys("bitnet"), &[tensor])).unwrap();
        let decoded = model.ternary("model.layers.0.self_attn.q_proj", 4, 256);
        assert_says(decoded, &["model.gguf", "blk.0.attn_q.weight", "code 3"]);
    }
}

#[test]
fn tokenizers_that_contradict_themselves() {
    let open = |key: &str, value: Value| {
        let mut keys = gguf_keys("bitnet");
        keys.push(("tokenizer.ggml.model".to_string(), "gpt2".into()));
        keys.push(("tokenizer.ggml.tokens".to_string(), vec!["a".to_string(), "b".to_string()].into()));
        keys.retain(|(known, _)| known != key);
        keys.push((key.to_string(), value));
        let model = open_gguf(gguf_bytes(&keys, &[]))?;
        model.tokenizer_files()
    };
    assert!(open("tokenizer.ggml.scores", vec![0f32, 1.0].into()).is_ok());
    assert!(open("tokenizer.ggml.token_type", vec![1u8, 3].into()).is_ok());
    assert_says(open("tokenizer.ggml.scores", vec![0f32; 3].into()), &["scores", "3 entries for 2 tokens"]);
    assert_says(open("tokenizer.ggml.scores", vec![0i32; 2].into()), &["scores", "f32"]);
    assert_says(open("tokenizer.ggml.token_type", vec![1i32].into()), &["token_type", "1 entries"]);
    assert_says(open("tokenizer.ggml.token_type", vec![-1i8; 2].into()), &["token_type"]);
    assert_says(open("tokenizer.ggml.tokens", vec![1u32].into()), &["tokens", "strings"]);
    assert_says(open("tokenizer.ggml.tokens", "a b".into()), &["tokens", "array"]);
    assert_says(open("tokenizer.ggml.merges", Array::Bool(vec![true]).into()), &["merges", "strings"]);
    assert_says(open("tokenizer.ggml.pre", 3u32.into()), &["tokenizer.ggml.pre", "string"]);
    assert_says(open("tokenizer.ggml.add_bos_token", 1u32.into()), &["add_bos_token"]);
    assert_says(open("tokenizer.ggml.bos_token_id", (-1i32).into()), &["bos_token_id"]);
    assert_says(open("tokenizer.ggml.eos_token_id", u64::MAX.into()), &["eos_token_id"]);
}

#[test]
fn lengths_of_u64_max_in_a_file_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    std::fs::write(&path, Raw::new(1, 1).u64(u64::MAX).data(64).0).unwrap();
    assert_says(bitnet_format::open(&path), &["bad.gguf", "ends inside"]);
}
