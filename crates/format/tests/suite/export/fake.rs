//! Models in memory.

use std::collections::HashMap;
use std::path::Path;

use bitnet_format::export::{
    GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, Tensor, TensorData, write_gguf, write_hugging_face,
};
use bitnet_format::{
    Activation, Checkpoint, FormatError, ModelConfig, RopeScaling, ScaleDirection, StorageType, TokenizerSource, open,
};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};
use half::f16;
use serde_json::{Value as Json, json};

use crate::common::trits;

/// A model in memory.
pub struct Fake {
    pub model: Model,
    pub data: HashMap<String, TensorData>,
}

/// What a [`Fake`] is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp: usize,
    pub layers: usize,
    pub vocab: usize,
    pub sub_norms: bool,
    pub qk_norms: bool,
    pub linear_norms: bool,
    pub head: bool,
}

/// 256 wide, so that every packing holds it.
pub const SMALL: Parts = Parts {
    hidden: 256,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    mlp: 512,
    layers: 2,
    vocab: 12,
    sub_norms: true,
    qk_norms: false,
    linear_norms: false,
    head: false,
};

pub fn noise(index: usize) -> f32 {
    ((index as u32).wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

pub fn fake(parts: &Parts) -> Fake {
    let Parts { hidden, heads, kv_heads, head_dim, mlp, layers, vocab, .. } = *parts;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let mut layer = vec![("input_layernorm", vec![hidden]), ("post_attention_layernorm", vec![hidden])];
    let linears = [
        ("self_attn.q_proj", q, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, q),
        ("mlp.gate_proj", mlp, hidden),
        ("mlp.up_proj", mlp, hidden),
        ("mlp.down_proj", hidden, mlp),
    ];
    layer.extend(linears.map(|(name, rows, cols)| (name, vec![rows, cols])));
    if parts.sub_norms {
        layer.extend([("self_attn.attn_sub_norm", vec![q]), ("mlp.ffn_sub_norm", vec![mlp])]);
    }
    if parts.qk_norms {
        layer.extend([("self_attn.q_norm", vec![head_dim]), ("self_attn.k_norm", vec![head_dim])]);
    }
    let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![vocab, hidden])];
    for index in 0..layers {
        shapes.extend(layer.iter().map(|(part, shape)| (format!("model.layers.{index}.{part}.weight"), shape.clone())));
        if parts.linear_norms {
            shapes.extend(
                linears.map(|(part, _, cols)| (format!("model.layers.{index}.{part}.norm.weight"), vec![cols])),
            );
        }
    }
    shapes.push(("model.norm.weight".to_string(), vec![hidden]));
    if parts.head {
        shapes.push(("lm_head.weight".to_string(), vec![vocab, hidden]));
    }
    let mut data = HashMap::new();
    let mut tensors = Vec::new();
    for (number, (name, shape)) in shapes.into_iter().enumerate() {
        match shape[..] {
            [rows, cols] if name.ends_with("_proj.weight") => {
                let codes = trits(rows * cols + number).split_off(number);
                let scale = 0.01 + noise(number).abs();
                let matrix = TernaryMatrix::from_trits(rows, cols, &codes, Scale::Tensor(scale)).unwrap();
                data.insert(name.clone(), TensorData::Ternary(matrix));
                tensors.push(Tensor::ternary(name, rows, cols));
            }
            _ => {
                let count: usize = shape.iter().product();
                let values = (0..count).map(|i| f16::from_f32(noise(i + 31 * number)).to_f32()).collect();
                data.insert(name.clone(), TensorData::Floats(values));
                tensors.push(Tensor::floats(name, &shape));
            }
        }
    }
    let config = ModelConfig {
        architecture: "in memory".to_string(),
        hidden_size: hidden,
        intermediate_size: mlp,
        num_layers: layers,
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim,
        vocab_size: vocab,
        context_length: 64,
        rope_theta: 10_000.0,
        rope_dim: head_dim,
        rope_scaling: RopeScaling::None,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        sliding_window: None,
        embedding_scale: 1.0,
        norm_offset: 0.0,
        rms_norm_eps: 1e-5,
        activation: if parts.sub_norms { Activation::Relu2 } else { Activation::Silu },
        tie_word_embeddings: Some(!parts.head),
        bos_token_ids: vec![9],
        eos_token_ids: vec![10, 11],
        weight_scale: ScaleDirection::Multiply,
        linear_norm_eps: 1e-5,
        activation_bits: Some(8),
    };
    let tokenizer = TokenizerSource::Hf {
        path: "tokenizer.json".into(),
        tokenizer_json: tokenizer_json().to_string().into_bytes().into(),
        tokenizer_config: None,
        chat_template: Some("{{ messages }}".to_string()),
        generation_config: Some(json!({ "temperature": 0.7, "eos_token_id": 3 })),
    };
    Fake { model: Model { name: "fake".to_string(), config, embedding: None, tokenizer, tensors }, data }
}

/// Nine tokens of bytes, a hole, and three added tokens; id 8 is nothing.
pub fn tokenizer_json() -> Json {
    json!({
        "added_tokens": [
            { "id": 9, "content": "<s>", "special": true },
            { "id": 10, "content": "</s>", "special": true },
            { "id": 11, "content": "<tool>", "special": false },
        ],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [9], "tokens": ["<s>"] } },
        },
        "decoder": { "type": "ByteLevel" },
        "model": {
            "type": "BPE",
            "vocab": { "a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "Ġa": 5, "abc": 6, "d": 7 },
            "merges": ["a b", ["Ġ", "a"], "ab c"],
        },
    })
}

impl Fake {
    pub fn gguf(&self, options: &GgufOptions, path: &Path) -> Result<Checkpoint, FormatError> {
        write_gguf(&self.model, options, path, false, |tensor| self.data_of(tensor))?;
        open(path)
    }

    pub fn folder(&self, form: HuggingFaceForm, path: &Path) -> Result<Checkpoint, FormatError> {
        write_hugging_face(&self.model, &folder_of(form), path, false, |tensor| self.data_of(tensor))?;
        open(path)
    }

    pub fn data_of(&self, tensor: &Tensor) -> Result<TensorData, FormatError> {
        Ok(self.data[&tensor.name].clone())
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.model.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn matrix(&mut self, name: &str, change: impl FnOnce(&TernaryMatrix) -> TernaryMatrix) {
        let Some(TensorData::Ternary(matrix)) = self.data.get_mut(name) else { panic!("{name} is no matrix") };
        *matrix = change(matrix);
    }

    /// Asserts that a checkpoint has every tensor of this model and means the same by its configuration.
    pub fn assert_in(&self, read: &Checkpoint, scale: impl Fn(f32) -> f32) {
        for tensor in &self.model.tensors {
            match &self.data[&tensor.name] {
                TensorData::Ternary(matrix) => {
                    let linear = tensor.name.trim_end_matches(".weight");
                    let found = read.ternary(linear, matrix.rows(), matrix.cols()).unwrap();
                    assert!(found.words() == matrix.words(), "{}", tensor.name);
                    assert_eq!(found.scale().granularity(), matrix.scale().granularity(), "{}", tensor.name);
                    let scales: Vec<f32> = matrix.scale().values().iter().map(|x| scale(*x)).collect();
                    assert_eq!(found.scale().values(), scales, "{}", tensor.name);
                }
                TensorData::Floats(values) => {
                    assert!(&read.floats(&tensor.name).unwrap() == values, "{}", tensor.name)
                }
                TensorData::Stored(bytes) => assert_eq!(read.bytes(&tensor.name).unwrap(), bytes, "{}", tensor.name),
                TensorData::Reader(_) => unreachable!("a model in memory"),
            }
        }
        let (meant, found) = (&self.model.config, read.config());
        let expected = ModelConfig {
            architecture: found.architecture.clone(),
            weight_scale: found.weight_scale,
            rms_norm_eps: found.rms_norm_eps,
            linear_norm_eps: found.linear_norm_eps,
            rope_theta: found.rope_theta,
            rope_scaling: found.rope_scaling.clone(),
            tie_word_embeddings: Some(self.model.tensors.iter().all(|t| t.name != "lm_head.weight")),
            ..meant.clone()
        };
        assert_eq!(found, &expected);
        assert_eq!(found.rms_norm_eps as f32, meant.rms_norm_eps as f32);
        assert_eq!(found.rope_theta as f32, meant.rope_theta as f32);
    }
}

/// Nothing but `name` lies in a folder.
pub fn assert_only(folder: &Path, name: &str) {
    let names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [name]);
}

pub fn folder_of(form: HuggingFaceForm) -> HuggingFaceOptions {
    HuggingFaceOptions { form, dtype: StorageType::F32 }
}

pub fn packed(packing: Packing) -> GgufOptions {
    GgufOptions { packing, ..GgufOptions::default() }
}

pub const FORMS: [HuggingFaceForm; 3] =
    [HuggingFaceForm::PackedAutoBitLinear, HuggingFaceForm::PackedBitLinear, HuggingFaceForm::Master];
