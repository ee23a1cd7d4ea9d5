//! A GGUF file: opened, under every layout of I2_S if it has such tensors, and read.

use bitnet_fixtures::{GGUFS, moby};
use bitnet_format::gguf::{Array, Value, Writer};
use bitnet_format::{Checkpoint, I2sLayout, Metadata, OpenOptions, StorageType, open, open_with};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};

use crate::{PACKINGS, Seeds, disk, read};

const FILE: &str = "model.gguf";

/// The input is the file.
pub fn run(data: &[u8]) {
    let path = disk::folder(&[(FILE, data)]).join(FILE);
    let model = match open(&path) {
        Ok(model) => model,
        Err(error) => return read::one_line(error),
    };
    read::everything(&model);
    if model.tensors().any(|t| t.dtype == StorageType::Ternary(Packing::I2S)) {
        for i2s_layout in [I2sLayout::Block64, I2sLayout::FourRows] {
            match open_with(&path, &OpenOptions { i2s_layout, ..OpenOptions::default() }) {
                Ok(model) => read::everything(&model),
                Err(error) => read::one_line(error),
            }
        }
    }
}

/// The fixtures of the other engines with little of their vocabularies and a few rows of some tensors, and a file with
/// a tensor of every type.
pub fn seeds() -> Seeds {
    let cut = GGUFS.map(|name| (name.to_string(), cut(&open(moby(name)).expect("a fixture opens"))));
    let llama = [("every-type.gguf".to_string(), every_type())];
    cut.into_iter().chain(llama).collect()
}

fn written(writer: Writer, data: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(FILE);
    let mut out = writer.create(&path, false).expect("a seed can be written");
    for (name, bytes) in data {
        out.write(name, bytes).expect("a seed can be written");
    }
    out.finish().expect("a seed can be written");
    std::fs::read(path).expect("a seed can be read")
}

/// A file with this one's metadata, its vocabulary cut to `KEPT` tokens, and a few tensors cut to `ROWS` rows.
fn cut(model: &Checkpoint) -> Vec<u8> {
    const KEPT: usize = 24;
    const ROWS: usize = 4;
    let Metadata::Gguf(metadata) = model.metadata() else { unreachable!("a GGUF file has GGUF metadata") };
    let mut writer = Writer::new();
    for (key, value) in metadata.iter() {
        let value = match value {
            Value::Array(Array::String(list)) => Array::String(list.iter().take(KEPT).cloned().collect()).into(),
            Value::Array(Array::F32(list)) => Array::F32(list.iter().take(KEPT).copied().collect()).into(),
            Value::Array(Array::I32(list)) => Array::I32(list.iter().take(KEPT).copied().collect()).into(),
            Value::U32(_) if key.ends_with("_token_id") => Value::U32(3),
            Value::U32(_) if key.ends_with("vocab_size") => Value::U32(ROWS as u32),
            other => other.clone(),
        };
        writer.metadata(key, value).expect("keys are unique");
    }
    let mut data = Vec::new();
    for name in ["token_embd.weight", "output_norm.weight", "blk.0.attn_k.weight", "blk.0.ffn_down.weight"] {
        let info = model.tensors().find(|t| t.stored_name == name).expect("the fixtures have this tensor");
        let (_, cols) = info.rows_cols();
        let (shape, bytes) = match info.dtype {
            StorageType::Ternary(packing) => {
                let linear = info.name.trim_end_matches(".weight");
                let whole = model.ternary(linear, info.shape[0], cols).expect("the fixtures have this linear");
                let trits = whole.trits()[..ROWS * cols].to_vec();
                let few = TernaryMatrix::from_trits(ROWS, cols, &trits, whole.scale().clone());
                let few = few.expect("rows of a valid matrix are valid");
                (vec![ROWS, cols], packing.encode(&few).expect("the packing held these rows before"))
            }
            _ if info.shape.len() == 2 => {
                let row = info.bytes as usize / info.shape[0];
                (vec![ROWS, cols], model.bytes(&info.name).expect("it is there")[..ROWS * row].to_vec())
            }
            _ => (info.shape.clone(), model.bytes(&info.name).expect("it is there").to_vec()),
        };
        writer.tensor(name, info.dtype, &shape).expect("the shape is one that the type holds");
        data.push((name, bytes));
    }
    written(writer, &data)
}

/// A file of the LLaMA architecture, whose heads are interleaved, with a tensor of every type.
fn every_type() -> Vec<u8> {
    use StorageType::*;
    let mut writer = Writer::new();
    let own = |key: &str| format!("llama.{key}");
    let mut put = |key: &str, value: Value| {
        writer.metadata(key, value).expect("keys are unique");
    };
    put("general.architecture", "llama".into());
    let sizes = [
        ("embedding_length", 256u32),
        ("feed_forward_length", 256),
        ("block_count", 1),
        ("context_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("vocab_size", 2),
    ];
    for (key, value) in sizes {
        put(&own(key), value.into());
    }
    put(&own("attention.layer_norm_rms_epsilon"), 1e-5f32.into());
    put("tokenizer.ggml.model", "gpt2".into());
    put("tokenizer.ggml.tokens", vec!["a".to_string(), "bc".to_string()].into());
    put("test.nested", Array::Array(vec![Array::I16(vec![-1])]).into());
    put("test.flag", true.into());

    let trits: Vec<i8> = (0..1024).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(4, 256, &trits, Scale::Tensor(0.5)).expect("they are trits");
    let packed = PACKINGS.into_iter().filter(|p| *p != Packing::HfPacked && *p != Packing::Q2_0 { group: 128 });
    let packed = packed.map(|p| (Ternary(p), vec![4, 256], p.encode(&matrix).expect("it holds this shape")));
    let plain = [F32, F16, BF16, F64, I8, I16, I32, I64, Q8_0, Q6_K, Q4_0, Q5_0, Q3_K, Q4_K, IQ4_NL].map(|dtype| {
        let bytes = dtype.byte_len(&[1, 256]).expect("256 columns divide into all blocks");
        (dtype, vec![1, 256], vec![1; bytes])
    });
    let tensors: Vec<_> = packed.chain(plain).enumerate().collect();
    let name = |i: usize| match i {
        0 => "token_embd.weight".to_string(),
        _ => format!("blk.{i}.ffn_up.weight"),
    };
    // The embedding has to have the vocabulary's rows.
    let embedding = (F16, vec![2, 256], vec![0; 1024]);
    let all: Vec<_> = std::iter::once(embedding).chain(tensors.into_iter().map(|(_, t)| t)).enumerate().collect();
    for (i, (dtype, shape, _)) in &all {
        writer.tensor(&name(*i), *dtype, shape).expect("the shape is one that the type holds");
    }
    let names: Vec<String> = (0..all.len()).map(name).collect();
    let data: Vec<(&str, Vec<u8>)> = all.into_iter().map(|(i, (.., bytes))| (names[i].as_str(), bytes)).collect();
    written(writer, &data)
}
