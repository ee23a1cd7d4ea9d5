//! Safetensors files and folders made to hurt. One test an attack.

use bitnet_format::{Checkpoint, FormatError, open};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::common::{assert_says, bf16_bytes, f32_bytes, hf_config, leak, open_hf, safetensors_bytes};

fn open_bytes(bytes: Vec<u8>) -> Result<Checkpoint, FormatError> {
    let config = leak(hf_config().to_string().into_bytes());
    Checkpoint::from_memory(&[("config.json", config), ("model.safetensors", leak(bytes))])
}

fn raw(header: &Value, data: usize) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; data]].concat()
}

#[test]
fn empty_and_short_files() {
    assert_says(open_bytes(Vec::new()), &["model.safetensors", "empty"]);
    assert_says(open_bytes(vec![1; 7]), &["model.safetensors", "damaged"]);
}

#[test]
fn header_lengths_beyond_the_file() {
    for len in [u64::MAX, u64::MAX - 7, 1 << 62, 1 << 40, 100, 9] {
        assert_says(open_bytes([len.to_le_bytes(), *b"{}      "].concat()), &["model.safetensors", "damaged"]);
    }
}

#[test]
fn headers_that_are_not_json() {
    for header in [&b"\xff\xfe"[..], b"[]", b"nonsense", b"{\"t\":1}"] {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
        assert_says(open_bytes(bytes), &["model.safetensors", "damaged"]);
    }
}

#[test]
fn tensors_that_do_not_fit_their_bytes() {
    let tensor = |shape: Value, begin: u64, end: u64| {
        open_bytes(raw(&json!({ "t": { "dtype": "F32", "shape": shape, "data_offsets": [begin, end] } }), 16))
    };
    assert!(tensor(json!([4]), 0, 16).is_ok());
    assert_says(tensor(json!([3]), 0, 16), &["damaged"]);
    assert_says(tensor(json!([4]), 0, 32), &["damaged"]);
    assert_says(tensor(json!([4]), 16, 0), &["damaged"]);
    assert_says(tensor(json!([2]), 8, 16), &["damaged"]);
    assert_says(tensor(json!([u64::MAX, 2]), 0, 16), &["damaged"]);
    assert_says(tensor(json!([1u64 << 62]), 0, 16), &["damaged"]);
}

#[test]
fn tensors_on_top_of_each_other() {
    let header = json!({
        "a": { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] },
        "b": { "dtype": "F32", "shape": [2], "data_offsets": [4, 12] },
    });
    assert_says(open_bytes(raw(&header, 12)), &["damaged"]);
}

#[test]
fn empty_tensors_do_no_harm() {
    let header = json!({ "t": { "dtype": "F32", "shape": [0, u64::MAX, 2], "data_offsets": [0, 0] } });
    let model = open_bytes(raw(&header, 0)).unwrap();
    assert!(model.floats("t").unwrap().is_empty());
    assert_says(model.ternary("t", 1, 1), &["no tensor"]);
}

#[test]
fn dtypes_nobody_asked_for() {
    let header = json!({ "t": { "dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4] } });
    assert_says(open_bytes(raw(&header, 4)), &["model.safetensors", "`t`", "F8_E4M3"]);
}

#[test]
fn integers_are_not_floats_and_not_weights() {
    let tensor = ("model.layers.0.mlp.up_proj.weight", Dtype::I32, vec![2, 4], vec![0; 32]);
    let model = open_hf(&hf_config(), &[tensor]).unwrap();
    assert_says(model.floats("model.layers.0.mlp.up_proj.weight"), &["I32"]);
    assert_says(model.ternary("model.layers.0.mlp.up_proj", 2, 4), &["model.safetensors", "I32"]);
}

/// An open model with one packed linear of [8, 4] and this scale.
fn packed(codes: [u8; 8], scale: Option<(Dtype, Vec<usize>, Vec<u8>)>) -> Checkpoint {
    let mut tensors = vec![("model.layers.0.mlp.up_proj.weight", Dtype::U8, vec![2, 4], codes.to_vec())];
    if let Some((dtype, shape, bytes)) = scale {
        tensors.push(("model.layers.0.mlp.up_proj.weight_scale", dtype, shape, bytes));
    }
    open_hf(&hf_config(), &tensors).unwrap()
}

const UP: &str = "model.layers.0.mlp.up_proj";

#[test]
fn packed_weights_without_scale() {
    assert_says(packed([0; 8], None).ternary(UP, 8, 4), &["model.safetensors", "up_proj.weight_scale", "missing"]);
}

#[test]
fn scales_that_are_no_scales() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.5, 1e-39] {
        let scale = (Dtype::F32, vec![1], f32_bytes(&[bad]));
        assert_says(packed([0; 8], Some(scale)).ternary(UP, 8, 4), &["up_proj.weight_scale", "positive"]);
    }
    let two = (Dtype::BF16, vec![2], bf16_bytes(&[1.0, 1.0]));
    assert_says(packed([0; 8], Some(two)).ternary(UP, 8, 4), &["up_proj.weight_scale", "[2]"]);
    let none = (Dtype::BF16, vec![0], Vec::new());
    assert_says(packed([0; 8], Some(none)).ternary(UP, 8, 4), &["up_proj.weight_scale", "[0]"]);
    let integer = (Dtype::I32, vec![1], vec![1, 0, 0, 0]);
    assert_says(packed([0; 8], Some(integer)).ternary(UP, 8, 4), &["up_proj.weight_scale", "I32"]);
}

#[test]
fn code_3_in_a_packed_weight() {
    let one = || Some((Dtype::F32, vec![1], f32_bytes(&[1.0])));
    let bad = packed([0, 0, 0, 0, 0, 0b0011_0000, 0, 0], one());
    assert_says(bad.ternary(UP, 8, 4), &["model.safetensors", "up_proj.weight", "code 3", "row 5", "column 1"]);
}

#[test]
fn shapes_that_are_not_the_linears() {
    let model = packed([0; 8], Some((Dtype::F32, vec![1], f32_bytes(&[1.0]))));
    assert!(model.ternary(UP, 7, 4).is_ok() && model.ternary(UP, 5, 4).is_ok(), "a last quarter may be partial");
    for (rows, cols) in [(4, 4), (9, 4), (8, 8), (0, 4), (8, 0), (usize::MAX, 4)] {
        assert_says(model.ternary(UP, rows, cols), &["model.safetensors", "up_proj.weight", "[2, 4]"]);
    }
    assert_says(
        model.ternary("model.layers.1.mlp.up_proj", 8, 4),
        &["model.safetensors", "model.layers.1.mlp.up_proj"],
    );
}

#[test]
fn masters_with_numbers_that_are_none() {
    let weights = f32_bytes(&[1.0, f32::NAN, 0.5, 0.25]);
    let model = open_hf(&hf_config(), &[("model.layers.0.mlp.up_proj.weight", Dtype::F32, vec![2, 2], weights)]);
    assert_says(model.unwrap().ternary(UP, 2, 2), &["up_proj.weight", "row 0, column 1", "NaN"]);
}

#[test]
fn a_scale_beside_floats_that_are_not_ternary() {
    let weights: Vec<f32> = (0..16).map(|i| i as f32 / 7.0).collect();
    let model = open_hf(
        &hf_config(),
        &[
            ("model.layers.0.mlp.up_proj.weight", Dtype::F32, vec![4, 4], f32_bytes(&weights)),
            ("model.layers.0.mlp.up_proj.weight_scale", Dtype::F32, vec![1], f32_bytes(&[1.0])),
        ],
    );
    assert_says(model.unwrap().ternary(UP, 4, 4), &["up_proj.weight", "not ternary"]);
}

#[test]
fn two_spellings_of_one_tensor() {
    let one = |name| (name, Dtype::F32, vec![4], f32_bytes(&[1.0; 4]));
    let model = open_hf(&hf_config(), &[one("model.norm.weight"), one("norm.weight")]);
    assert_says(model, &["model.norm.weight", "norm.weight", "same"]);
}

#[test]
fn biases_are_not_dropped_in_silence() {
    let bias = ("model.layers.0.self_attn.q_proj.bias", Dtype::F32, vec![4], f32_bytes(&[1.0; 4]));
    assert_says(open_hf(&hf_config(), &[bias]), &["bias", "q_proj.bias"]);
}

/// A folder with `config.json`, this index and these files.
fn sharded(index: &Value, files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("config.json", hf_config().to_string().as_bytes());
    write("model.safetensors.index.json", index.to_string().as_bytes());
    for (name, bytes) in files {
        write(name, bytes);
    }
    folder
}

fn shard(name: &str) -> Vec<u8> {
    safetensors_bytes(&[(name, Dtype::F32, vec![2], f32_bytes(&[1.0, 2.0]))])
}

#[test]
fn shards_are_one_model() {
    let index = json!({ "weight_map": { "a": "m-1.safetensors", "b": "m-2.safetensors" } });
    let folder = sharded(&index, &[("m-1.safetensors", shard("a")), ("m-2.safetensors", shard("b"))]);
    for path in [folder.path().to_path_buf(), folder.path().join("model.safetensors.index.json")] {
        let model = open(path).unwrap();
        assert_eq!(model.source().files.len(), 2);
        assert_eq!(model.info("b").unwrap().file, 1);
        assert_eq!(model.floats("b").unwrap(), [1.0, 2.0]);
    }
}

#[test]
fn indexes_cannot_leave_their_folder() {
    for shard in ["../m.safetensors", "/etc/passwd", "sub/m.safetensors", "..", ""] {
        let folder = sharded(&json!({ "weight_map": { "a": shard } }), &[]);
        assert_says(open(folder.path()), &["index.json", "plain file name"]);
    }
}

#[test]
fn indexes_that_do_not_match_their_shards() {
    let missing = sharded(&json!({ "weight_map": { "a": "m-1.safetensors" } }), &[]);
    assert_says(open(missing.path()), &["index.json", "m-1.safetensors", "missing"]);
    let other = sharded(&json!({ "weight_map": { "a": "m-1.safetensors" } }), &[("m-1.safetensors", shard("b"))]);
    assert_says(open(other.path()), &["index.json", "`a`", "m-1.safetensors"]);
    let twice = json!({ "weight_map": { "a": "m-1.safetensors", "b": "m-2.safetensors" } });
    let both = safetensors_bytes(&[
        ("a", Dtype::F32, vec![1], f32_bytes(&[1.0])),
        ("b", Dtype::F32, vec![1], f32_bytes(&[1.0])),
    ]);
    let folder = sharded(&twice, &[("m-1.safetensors", both), ("m-2.safetensors", shard("b"))]);
    assert_says(open(folder.path()), &["m-2.safetensors", "`b`", "same"]);
    assert_says(open(sharded(&json!({ "weight_map": {} }), &[]).path()), &["index.json", "empty"]);
    assert_says(open(sharded(&json!({ "weight_map": 3 }), &[]).path()), &["index.json", "damaged"]);
}
