//! What `open` makes of the paths people give it.

use bitnet_format::gguf::Value;
use bitnet_format::{Checkpoint, Container, StorageType, open};

use crate::common::{assert_says, f32_bytes, gguf_bytes, gguf_keys, hf_config, leak, safetensors_bytes, write_gguf};

fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn config() -> Vec<u8> {
    hf_config().to_string().into_bytes()
}

fn gguf() -> Vec<u8> {
    gguf_bytes(&gguf_keys("bitnet"), &[])
}

fn tensors() -> Vec<u8> {
    safetensors_bytes(&[])
}

#[test]
fn a_folder_of_either_container() {
    let hf = folder(&[("config.json", config()), ("model.safetensors", tensors())]);
    assert_eq!(open(hf.path()).unwrap().source().container, Container::Safetensors);
    assert_eq!(open(hf.path().join("model.safetensors")).unwrap().source().container, Container::Safetensors);
    let other_name = folder(&[("config.json", config()), ("weights.safetensors", tensors())]);
    assert!(open(other_name.path()).is_ok());
    for files in [&["config.json", "m.gguf"][..], &["m.gguf"]] {
        let files: Vec<_> = files.iter().map(|n| (*n, if n.ends_with("json") { config() } else { gguf() })).collect();
        assert_eq!(open(folder(&files).path()).unwrap().source().container, Container::Gguf);
    }
    let both = folder(&[("config.json", config()), ("model.safetensors", tensors()), ("m.gguf", gguf())]);
    assert_eq!(open(both.path()).unwrap().source().container, Container::Safetensors);
}

#[test]
fn folders_without_one_model() {
    assert_says(open(folder(&[]).path()), &["no model"]);
    assert_says(open(folder(&[("config.json", config())]).path()), &["config.json", "model.safetensors", ".bin"]);
    assert_says(open(folder(&[("model.safetensors", tensors())]).path()), &["no config.json"]);
    let parts = folder(&[("config.json", config()), ("a.safetensors", tensors()), ("b.safetensors", tensors())]);
    assert_says(open(parts.path()), &["2 .safetensors files", "index.json"]);
    let several = folder(&[("a.gguf", gguf()), ("b.gguf", gguf())]);
    assert_says(open(several.path()), &["several", "a.gguf, b.gguf"]);
}

#[test]
fn paths_to_nothing() {
    let empty = folder(&[("notes.txt", vec![1]), ("empty.gguf", vec![]), ("model.safetensors", tensors())]);
    assert_says(open(empty.path().join("none.gguf")), &["none.gguf", "No such file"]);
    assert_says(open(empty.path().join("notes.txt")), &["notes.txt", "not a model file"]);
    assert_says(open(empty.path().join("empty.gguf")), &["empty.gguf", "0 bytes"]);
    assert_says(open(empty.path().join("model.safetensors")), &["config.json", "missing"]);
    assert_says(open(""), &["No such file"]);
    assert_says(Checkpoint::from_memory(&[]), &["no model"]);
    assert_says(Checkpoint::from_memory(&[("config.json", leak(config()))]), &["config.json"]);
}

/// Part `number` of `count`, one tensor in each, the keys in the first.
fn write_part(folder: &std::path::Path, number: u16, count: u16) {
    let mut keys = if number == 1 { gguf_keys("bitnet") } else { Vec::new() };
    keys.push(("split.no".to_string(), Value::U16(number - 1)));
    keys.push(("split.count".to_string(), Value::U16(count)));
    let name = format!("blk.{number}.attn_norm.weight");
    let tensor = (name.as_str(), StorageType::F32, vec![2], f32_bytes(&[f32::from(number), 0.5]));
    write_gguf(&folder.join(format!("m-{number:05}-of-{count:05}.gguf")), &keys, &[tensor]);
}

#[test]
fn split_files_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    (1..=3).for_each(|number| write_part(folder.path(), number, 3));
    for path in ["", "m-00001-of-00003.gguf", "m-00003-of-00003.gguf"] {
        let model = open(folder.path().join(path)).unwrap();
        assert_eq!(model.source().files.len(), 3);
        assert_eq!(model.tensors().len(), 3);
        assert_eq!(model.floats("model.layers.3.input_layernorm.weight").unwrap(), [3.0, 0.5]);
    }
}

#[test]
fn split_files_with_parts_missing() {
    let folder = tempfile::tempdir().unwrap();
    write_part(folder.path(), 1, 2);
    let first = folder.path().join("m-00001-of-00002.gguf");
    assert_says(open(&first), &["part 2 of 2 is missing", "m-00002-of-00002.gguf"]);
    std::fs::copy(&first, folder.path().join("m-00002-of-00002.gguf")).unwrap();
    assert_says(open(&first), &["m-00002-of-00002.gguf", "split.no"]);
    std::fs::rename(&first, folder.path().join("renamed.gguf")).unwrap();
    assert_says(open(folder.path().join("renamed.gguf")), &["renamed.gguf", "2 parts"]);
}

#[test]
fn bytes_outlive_their_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let values: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
    let tensor = ("token_embd.weight", StorageType::F32, vec![1000, 100], f32_bytes(&values));
    write_gguf(&path, &gguf_keys("bitnet"), &[tensor]);
    let model = open(&path).unwrap();
    let name = "model.embed_tokens.weight";
    let shared = model.shared_bytes(name).unwrap();
    model.release(name);
    model.release("no such tensor");
    assert_eq!(model.floats(name).unwrap(), values, "released pages come back");
    drop(model);
    assert_eq!(shared, f32_bytes(&values));
}
