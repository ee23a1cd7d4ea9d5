//! Models that are broken or strange, or whose layout has to be found out.

mod program;

use std::path::{Path, PathBuf};

use bitnet_fixtures::moby;
use bitnet_ternary::Packing;
use program::{json, path, refusal, run, stdout};
use serde_json::Value;

/// A copy of a fixture folder with one thing changed.
fn broken(folder: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(moby(folder)).unwrap() {
        let entry: PathBuf = entry.unwrap().path();
        std::fs::copy(&entry, copy.path().join(entry.file_name().unwrap())).unwrap();
    }
    change(copy.path());
    copy
}

fn rewrite(file: &Path, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(file).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed, "the change must hit");
    std::fs::write(file, changed).unwrap();
}

/// Replaces text of the safetensors header by text of the same length.
fn rewrite_header(folder: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the header has this");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn models_that_are_not_whole_are_refused_by_name() {
    let refuse = |folder: tempfile::TempDir| refusal(&["generate", "x", "-m", path(folder.path())]);
    let config = |change: fn(String) -> String| {
        broken("packed-autobitlinear", |folder| rewrite(&folder.join("config.json"), change))
    };

    let error = refuse(config(|text| text.replace("BitNetForCausalLM", "AbacusForCausalLM")));
    assert!(error.contains("AbacusForCausalLM"), "{error}");
    let error = refuse(config(|text| text.replace("\"hidden_size\": 256", "\"hidden_size\": 512")));
    assert!(error.contains("model.layers.") && error.contains("shape"), "{error}");
    let error = refuse(config(|text| text.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5")));
    assert!(error.contains("model.layers.4."), "{error}");
    let error = refuse(config(|text| text.replace("\"vocab_size\": 4096", "\"vocab_size\": 4090")));
    assert!(error.contains("embed_tokens"), "{error}");
    let error = refuse(config(|text| text.replace("\"relu2\"", "\"tanh\"")));
    assert!(error.contains("tanh"), "{error}");

    let error = refuse(broken("packed-autobitlinear", |folder| {
        rewrite_header(folder, "model.layers.2.self_attn.k_proj.weight\"", "model.layers.2.self_attn.x_proj.weight\"");
    }));
    assert!(error.contains("model.layers.2.self_attn.k_proj.weight"), "{error}");
    let error = refuse(broken("packed-autobitlinear", |folder| {
        let file = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() = 0xff;
        std::fs::write(&file, bytes).unwrap();
    }));
    assert!(error.contains("model.layers.3") && error.contains("code 3"), "{error}");
    let error =
        refuse(broken("packed-autobitlinear", |folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap()));
    assert!(error.contains("tokenizer"), "{error}");
    let error = refuse(broken("packed-autobitlinear", |folder| {
        rewrite(&folder.join("tokenizer.json"), |text| text.replace("\"id\": 4095", "\"id\": 4099"));
    }));
    assert!(error.contains("4099"), "{error}");
    for length in [0u64, 7, 8, 1000, 100_000, 2_900_000] {
        let error = refuse(broken("packed-autobitlinear", |folder| {
            let file = std::fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).unwrap();
            file.set_len(length).unwrap();
        }));
        assert!(error.contains("model.safetensors"), "{length}: {error}");
    }
}

/// The I2_S fixture with its tensors in another order, as a broken build of bitnet.cpp would have written them.
fn in_another_order(folder: &Path, packing: Packing) -> PathBuf {
    let source = moby("i2_s.gguf");
    let model = bitnet::format::open(&source).unwrap();
    let mut bytes = std::fs::read(&source).unwrap();
    for info in model.tensors().filter(|t| t.dtype.is_i2s()) {
        let at = info.offset as usize..(info.offset + info.bytes) as usize;
        let (rows, cols) = info.rows_cols();
        let matrix = Packing::I2S.decode(&bytes[at.clone()], rows, cols).unwrap();
        bytes[at].copy_from_slice(&packing.encode(&matrix).unwrap());
    }
    let path = folder.join(format!("{packing:?}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_layout_of_an_i2s_file_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut losses = Vec::new();
    for (packing, name) in
        [(Packing::I2S, "block128"), (Packing::I2SArm64, "block64"), (Packing::I2SFourRows, "four-rows")]
    {
        let file = in_another_order(folder.path(), packing);
        let value = json(&["inspect", "--check", "-m", path(&file), "--json"]);
        assert_eq!(value["flag"], format!("--i2s-layout {name}"), "{value}");
        for entry in value["layouts"].as_array().unwrap() {
            assert_eq!(entry["makes_sense"], entry["layout"] == name, "{value}");
            losses.extend(entry["loss"].as_f64().filter(|_| entry["layout"] == name));
        }
        let text = stdout(&["inspect", "--check", "-m", path(&file)]);
        assert!(text.lines().last().unwrap().contains(&format!("--i2s-layout {name}")), "{text}");
    }
    assert!(losses.iter().all(|loss| *loss == losses[0]), "the same model three times: {losses:?}");
}

#[test]
fn a_model_that_makes_no_sense_is_told_from_one_without_layouts() {
    let flag = json(&["inspect", "--check", "--json"])["flag"].clone();
    assert_eq!(flag, "--i2s-layout block128", "the embedded model is a file of our own");
    let value = json(&["inspect", "--check", "--json", "-m", path(&moby("packed-autobitlinear"))]);
    assert_eq!((&value["makes_sense"], &value["flag"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(value["layouts"].as_array().unwrap().len(), 1);

    // The rows of every matrix in one order and the columns in another: no layout undoes both.
    let folder = tempfile::tempdir().unwrap();
    let file = in_another_order(folder.path(), Packing::I2SArm64);
    let model = bitnet::format::open(&file).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    for info in model.tensors().filter(|t| t.dtype.is_i2s()) {
        let codes = info.offset as usize..(info.offset + info.bytes) as usize - 32;
        bytes[codes].reverse();
    }
    std::fs::write(&file, bytes).unwrap();
    let output = run(&["inspect", "--check", "-m", path(&file), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["makes_sense"], &value["flag"]), (&Value::Bool(false), &Value::Null));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no layout of I2_S") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_padding_row_of_the_embedding_has_no_text() {
    let folder = broken("packed-autobitlinear", |folder| {
        let file = folder.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        tokenizer["added_tokens"].as_array_mut().unwrap().retain(|token| token["id"] != 4095);
        std::fs::write(&file, tokenizer.to_string()).unwrap();
    });
    let args = ["generate", "The whale", "-n", "2", "--temperature", "0", "--logit-bias", "4095=1000", "--json", "-m"];
    let value = json(&[&args[..], &[path(folder.path())]].concat());
    assert_eq!((&value["ids"], &value["text"]), (&serde_json::json!([4095, 4095]), &serde_json::json!("")));
}

#[test]
fn what_a_file_says_does_not_reach_the_terminal_as_commands() {
    let folder = broken("packed-autobitlinear", |folder| {
        rewrite(&folder.join("config.json"), |text| text.replace("BitNetForCausalLM", "Bit\\n\\u001b[31mNet"));
    });
    let error = refusal(&["generate", "x", "-m", path(folder.path())]);
    assert!(error.contains("Bit\\n") && !error.contains('\u{1b}'), "{error}");
}
