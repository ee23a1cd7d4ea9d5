//! A Hugging Face folder: `config.json`, the index of its shards or nothing, and a safetensors file.

use bitnet_fixtures::moby;
use bitnet_format::{Checkpoint, SafetensorsWriter, StorageType, open};
use serde_json::{Value, json};

use crate::{Seeds, disk, joined, read, sections};

/// The one file that an index can name.
const SHARD: &str = "shard.safetensors";

/// The input: configuration, 0xff, index (none if empty), 0xff, safetensors.
pub fn run(data: &[u8]) {
    let [config, index, tensors] = sections(data);
    let folder = if index.is_empty() {
        disk::folder(&[("config.json", config), ("model.safetensors", tensors)])
    } else {
        disk::folder(&[("config.json", config), ("model.safetensors.index.json", index), (SHARD, tensors)])
    };
    match open(folder) {
        Ok(model) => read::everything(&model),
        Err(error) => read::one_line(error),
    }
}

/// The fixtures of transformers with a few rows of some tensors, one of them with an index.
pub fn seeds() -> Seeds {
    let mut seeds: Seeds = ["master", "packed-autobitlinear", "packed-bitlinear"]
        .into_iter()
        .map(|name| {
            let folder = moby(name);
            let config = std::fs::read(folder.join("config.json")).expect("the fixture has a configuration");
            let mut config: Value = serde_json::from_slice(&config).expect("which is JSON");
            config["vocab_size"] = json!(ROWS);
            let tensors = cut(&open(folder).expect("a fixture opens"));
            (name.to_string(), joined(&[config.to_string().as_bytes(), b"", &tensors]))
        })
        .collect();
    let [config, _, tensors] = sections(&seeds[1].1);
    let names = names().into_iter().map(|name| (name, Value::from(SHARD))).collect::<serde_json::Map<_, _>>();
    let index = json!({ "metadata": {}, "weight_map": names });
    seeds.push(("sharded".to_string(), joined(&[config, index.to_string().as_bytes(), tensors])));
    seeds
}

/// Rows of each matrix in a seed.
const ROWS: usize = 4;

fn names() -> Vec<String> {
    let linear = "model.layers.0.self_attn.k_proj.weight";
    ["model.embed_tokens.weight", "model.norm.weight", linear, &format!("{linear}_scale")].map(String::from).to_vec()
}

fn cut(model: &Checkpoint) -> Vec<u8> {
    let mut writer = SafetensorsWriter::new();
    writer.metadata("format", "pt").expect("the key is new");
    let mut data = Vec::new();
    for name in names() {
        // A master has no scale.
        let Some(info) = model.info(&name) else { continue };
        let (mut shape, bytes) = (info.shape.clone(), model.bytes(&name).expect("it is listed"));
        let kept = if shape.len() == 2 { ROWS * bytes.len() / shape[0] } else { bytes.len() };
        if let [rows, _] = &mut shape[..] {
            *rows = ROWS;
        }
        writer.tensor(&name, info.dtype, &shape).expect("names are unique");
        data.push((name, info.dtype, bytes[..kept].to_vec()));
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(SHARD);
    let mut out = writer.create(&path, false).expect("a seed can be written");
    for (name, dtype, bytes) in data {
        assert!(matches!(dtype, StorageType::BF16 | StorageType::U8), "a fixture's types");
        out.write(&name, &bytes).expect("a seed can be written");
    }
    out.finish().expect("a seed can be written");
    std::fs::read(path).expect("a seed can be read")
}
