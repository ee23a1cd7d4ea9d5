//! Files cut short and files with bytes changed: an error or a model, never a panic.

use std::sync::OnceLock;

use bitnet_fixtures::{GGUFS, moby};
use bitnet_format::gguf::{Array, Value};
use bitnet_format::{BlockFormat, Checkpoint, StorageType};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use crate::common::{
    f32_bytes, gguf_bytes, gguf_keys, hf_config, leak, open_gguf, read_everything, safetensors_bytes, trits,
};

/// A GGUF file with a tensor of every type and a metadata value of many.
fn gguf_of_everything() -> Vec<u8> {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(write_gguf_of_everything).clone()
}

fn write_gguf_of_everything() -> Vec<u8> {
    use Packing::*;
    let mut keys = gguf_keys("llama");
    keys.extend([
        ("tokenizer.ggml.model".to_string(), "gpt2".into()),
        ("tokenizer.ggml.tokens".to_string(), vec!["a".to_string(), "bc".to_string()].into()),
        ("tokenizer.ggml.scores".to_string(), vec![0.5f32, 1.0].into()),
        ("tokenizer.ggml.merges".to_string(), vec!["b c".to_string()].into()),
        ("tokenizer.chat_template".to_string(), "{{ messages }}".into()),
        ("test.nested".to_string(), Array::Array(vec![Array::I16(vec![-1])]).into()),
        ("test.flag".to_string(), Value::Bool(true)),
    ]);
    let matrix = TernaryMatrix::from_trits(4, 256, &trits(1024), Scale::Tensor(0.5)).unwrap();
    let q = TernaryMatrix::from_trits(8, 128, &trits(1024), Scale::Tensor(0.5)).unwrap();
    let mut tensors = vec![
        ("blk.0.attn_q.weight".to_string(), StorageType::Ternary(I2S), vec![8, 128], I2S.encode(&q).unwrap()),
        ("blk.0.attn_q.scale".to_string(), StorageType::F32, vec![1], f32_bytes(&[2.0])),
        ("rope_freqs.weight".to_string(), StorageType::F32, vec![32], f32_bytes(&[1.0; 32])),
    ];
    for (i, packing) in [Tq1_0, Tq2_0, Iq1Bn, Iq2Bn, Iq2BnR4, Q2_0 { group: 64 }].into_iter().enumerate() {
        let bytes = packing.encode(&matrix).unwrap();
        tensors.push((format!("blk.{i}.ffn_up.weight"), StorageType::Ternary(packing), vec![4, 256], bytes));
    }
    for block in [
        BlockFormat::Q8_0,
        BlockFormat::Q6_K,
        BlockFormat::Q4_0,
        BlockFormat::Q5_0,
        BlockFormat::Q3_K,
        BlockFormat::Q4_K,
        BlockFormat::IQ4_NL,
    ] {
        let bytes = (0..block.row_bytes(256).unwrap()).map(|i| (i * 7 % 61) as u8).collect();
        tensors.push((format!("{block:?}"), block.into(), vec![1, 256], bytes));
    }
    for dtype in [StorageType::F16, StorageType::BF16, StorageType::F64, StorageType::I8, StorageType::I64] {
        tensors.push((format!("{dtype}"), dtype, vec![3], vec![1; dtype.byte_len(&[3]).unwrap()]));
    }
    let tensors: Vec<_> = tensors.iter().map(|(n, t, s, b)| (n.as_str(), *t, s.clone(), b.clone())).collect();
    gguf_bytes(&keys, &tensors)
}

fn safetensors_of_everything() -> Vec<u8> {
    let one = |name, dtype, shape: Vec<usize>, bytes: usize| (name, dtype, shape, vec![0x15u8; bytes]);
    safetensors_bytes(&[
        one("model.layers.0.self_attn.q_proj.weight", Dtype::U8, vec![2, 4], 8),
        one("model.layers.0.self_attn.q_proj.weight_scale", Dtype::BF16, vec![1], 2),
        one("model.layers.0.self_attn.k_proj.weight", Dtype::BF16, vec![2, 4], 16),
        one("model.layers.0.mlp.up_proj.weight", Dtype::F32, vec![2, 4], 32),
        one("model.norm.weight", Dtype::F16, vec![3], 6),
        one("counts", Dtype::I64, vec![2], 16),
        one("flags", Dtype::BOOL, vec![2], 2),
    ])
}

fn open_safetensors(bytes: &'static [u8]) -> Option<Checkpoint> {
    let config = leak(hf_config().to_string().into_bytes());
    Checkpoint::from_memory(&[("config.json", config), ("model.safetensors", bytes)]).ok()
}

#[test]
fn gguf_cut_at_every_byte() {
    let whole = leak(gguf_of_everything());
    read_everything(&Checkpoint::from_memory(&[("m.gguf", whole)]).unwrap());
    for len in 0..whole.len() {
        // The file ends in padding, which nobody misses.
        if let Ok(model) = Checkpoint::from_memory(&[("m.gguf", &whole[..len])]) {
            assert!(whole.len() - len < 32, "{len} of {} bytes open", whole.len());
            read_everything(&model);
        }
    }
}

#[test]
fn safetensors_cut_at_every_byte() {
    let whole = leak(safetensors_of_everything());
    read_everything(&open_safetensors(whole).unwrap());
    for len in 0..whole.len() {
        assert!(open_safetensors(&whole[..len]).is_none(), "{len} of {} bytes open", whole.len());
    }
}

#[test]
fn configuration_cut_at_every_byte() {
    let config = leak(json!({ "x": hf_config(), "y": [1, "z"] }).to_string().into_bytes());
    let tensors = leak(safetensors_of_everything());
    for len in 0..config.len() {
        let files = [("config.json", &config[..len]), ("model.safetensors", tensors)];
        assert!(Checkpoint::from_memory(&files).is_err());
    }
}

#[test]
fn every_byte_of_a_gguf_header_set_to_extremes() {
    let whole = gguf_of_everything();
    let model = open_gguf(whole.clone()).unwrap();
    let header = model.tensors().map(|info| info.offset).min().unwrap() as usize;
    for at in 0..header {
        for value in [0x00, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(model) = open_gguf(bytes) {
                read_everything(&model);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn gguf_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = gguf_of_everything();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(model) = open_gguf(bytes) {
            read_everything(&model);
        }
    }

    #[test]
    fn safetensors_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = safetensors_of_everything();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(model) = open_safetensors(leak(bytes)) {
            read_everything(&model);
        }
    }

    #[test]
    fn configuration_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let mut bytes = hf_config().to_string().into_bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let files = [("config.json", leak(bytes)), ("model.safetensors", leak(safetensors_of_everything()))];
        if let Ok(model) = Checkpoint::from_memory(&files) {
            read_everything(&model);
        }
    }

    #[test]
    fn noise_is_no_model(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(open_gguf(bytes.clone()).is_err());
        prop_assert!(open_safetensors(leak(bytes)).is_none());
    }
}

/// Files of other programs, with bytes of their headers changed and cut at many lengths.
#[test]
fn fixtures_hurt_at_many_places() {
    for name in GGUFS {
        let whole = leak(std::fs::read(moby(name)).unwrap());
        for step in 0..200 {
            let len = whole.len() * step / 200;
            assert!(Checkpoint::from_memory(&[("m.gguf", &whole[..len])]).is_err(), "{name}: {len} bytes open");
        }
    }
    let folder = moby("packed-bitlinear");
    let config = leak(std::fs::read(folder.join("config.json")).unwrap());
    let whole = leak(std::fs::read(folder.join("model.safetensors")).unwrap());
    for step in 0..200 {
        let len = whole.len() * step / 200;
        let files = [("config.json", config), ("model.safetensors", &whole[..len])];
        assert!(Checkpoint::from_memory(&files).is_err(), "{len} bytes open");
    }
}
