//! Small models of both containers, built in memory.

use std::collections::HashMap;
use std::path::Path;

use bitnet_format::gguf::{Value, Writer};
use bitnet_format::{Checkpoint, FormatError, StorageType};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

/// The pattern that the worked bytes of the formats are made of.
pub fn trits(count: usize) -> Vec<i8> {
    (0..count).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect()
}

pub fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

/// A GGUF tensor: name, type, shape, data.
pub type GgufTensor<'a> = (&'a str, StorageType, Vec<usize>, Vec<u8>);

/// The keys a model of this architecture needs: 256 wide, 4 heads of 64, 2 of them for keys and values.
pub fn gguf_keys(architecture: &str) -> Vec<(String, Value)> {
    let own = |key: &str| format!("{architecture}.{key}");
    vec![
        ("general.architecture".to_string(), architecture.into()),
        (own("embedding_length"), 256u32.into()),
        (own("feed_forward_length"), 512u32.into()),
        (own("block_count"), 1u32.into()),
        (own("context_length"), 64u32.into()),
        (own("attention.head_count"), 4u32.into()),
        (own("attention.head_count_kv"), 2u32.into()),
        (own("attention.layer_norm_rms_epsilon"), 1e-5f32.into()),
        (own("vocab_size"), 8u32.into()),
    ]
}

pub fn write_gguf(path: &Path, keys: &[(String, Value)], tensors: &[GgufTensor<'_>]) {
    let mut writer = Writer::new();
    for (key, value) in keys {
        writer.metadata(key, value.clone()).unwrap();
    }
    for (name, dtype, shape, _) in tensors {
        writer.tensor(name, *dtype, shape).unwrap();
    }
    let mut out = writer.create(path, false).unwrap();
    for (name, _, _, data) in tensors {
        out.write(name, data).unwrap();
    }
    out.finish().unwrap();
}

pub fn gguf_bytes(keys: &[(String, Value)], tensors: &[GgufTensor<'_>]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, keys, tensors);
    std::fs::read(path).unwrap()
}

pub fn open_gguf(bytes: Vec<u8>) -> Result<Checkpoint, FormatError> {
    Checkpoint::from_memory(&[("model.gguf", leak(bytes))])
}

/// `config.json` of the same model.
pub fn hf_config() -> serde_json::Value {
    json!({
        "architectures": ["BitNetForCausalLM"],
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "quantization_config": { "quant_method": "bitnet", "linear_class": "autobitlinear" },
    })
}

/// A safetensors tensor: name, dtype, shape, data.
pub type HfTensor<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

pub fn safetensors_bytes(tensors: &[HfTensor<'_>]) -> Vec<u8> {
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

pub fn open_hf(config: &serde_json::Value, tensors: &[HfTensor<'_>]) -> Result<Checkpoint, FormatError> {
    Checkpoint::from_memory(&[
        ("config.json", leak(config.to_string().into_bytes())),
        ("model.safetensors", leak(safetensors_bytes(tensors))),
    ])
}

/// Asks for everything a checkpoint can give; errors are fine, panics are not.
pub fn read_everything(model: &Checkpoint) {
    let _ = (model.config(), model.notes(), model.source(), model.tokenizer_files().ok());
    model.metadata().to_json(3);
    for info in model.tensors() {
        let bytes = model.bytes(&info.name).unwrap();
        assert_eq!(bytes.len() as u64, info.bytes);
        assert_eq!(model.shared_bytes(&info.name).unwrap(), bytes);
        let _ = model.floats(&info.name);
        if let (Some(linear), [rows, cols]) = (info.name.strip_suffix(".weight"), &info.shape[..]) {
            let packed = info.dtype == StorageType::U8;
            let _ = model.ternary(linear, if packed { 4 * rows } else { *rows }, *cols);
        }
        model.release(&info.name);
    }
}

/// Asserts that an error is one line with each of these words in it.
pub fn assert_says<T>(result: Result<T, FormatError>, words: &[&str]) {
    let error = match result {
        Ok(_) => panic!("opened, where an error with {words:?} was due"),
        Err(error) => error.to_string(),
    };
    assert!(!error.contains('\n'), "more than a line: {error}");
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
}
