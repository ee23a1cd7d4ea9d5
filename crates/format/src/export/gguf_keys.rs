//! The metadata of a GGUF file.

use std::f64::consts::TAU;
use std::path::Path;

use bitnet_ternary::Packing;

use super::plan::{EMBEDDING, Plan, is_linear};
use super::{GgufOptions, Model, TensorKind, fidelity, vocabulary};
use crate::config::{LINEAR_NORM_EPS, TensorFacts, from_gguf};
use crate::embedding;
use crate::gguf::{Array, Metadata, Value};
use crate::{
    Activation, FormatError, GgufTokenizer, ModelConfig, RopeScaling, SlidingWindow, StorageType, TextEmbedding,
};

/// What a file says before its tensors.
pub(super) struct Keys {
    pub(super) metadata: Metadata,
    /// The tensor `rope_freqs.weight`, where there is to be one.
    pub(super) rope_factors: Option<Vec<f32>>,
}

/// Makes the keys, and holds what our reader makes of them against the model.
///
/// # Errors
///
/// When GGUF has no word for something in the configuration or the tokenizer.
pub(super) fn keys(
    file: &Path,
    model: &Model,
    plan: Plan,
    architecture: &str,
    options: &GgufOptions,
) -> Result<Keys, FormatError> {
    let config = &model.config;
    check_activations(file, model, plan, options)?;
    let mut put = Put { file, architecture, metadata: Metadata::default() };
    put.general("architecture", architecture)?;
    put.general("name", model.name.as_str())?;
    if let Some(file_type) = file_type(model, options) {
        put.general("file_type", file_type)?;
    }
    put.general("quantization_version", 2u32)?;
    for (key, size) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.context_length),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_layers),
        ("feed_forward_length", config.intermediate_size),
        ("rope.dimension_count", config.rope_dim),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ] {
        let size = u32::try_from(size).map_err(|_| FormatError::config(file, key, format!("is {size}, too large")))?;
        put.own(key, size)?;
    }
    put.own("attention.layer_norm_rms_epsilon", config.rms_norm_eps as f32)?;
    if plan.linear_norms && config.linear_norm_eps as f32 != config.rms_norm_eps as f32 {
        put.own(LINEAR_NORM_EPS, config.linear_norm_eps as f32)?;
    }
    put.own("rope.freq_base", config.rope_theta as f32)?;
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        put.own("rope.scaling.type", "linear")?;
        put.own("rope.scaling.factor", factor as f32)?;
    }
    if let Some(window) = &config.sliding_window {
        put.sliding_window(window)?;
    }
    // What programs take it for without the key.
    if config.attention_scale as f32 != (1.0 / (config.head_dim as f64).sqrt()) as f32 {
        put.own("attention.scale", config.attention_scale as f32)?;
    }
    if let Some(name) = activation(config.activation, architecture) {
        put.own("hidden_activation", name)?;
    }
    if let Some(embedding) = &model.embedding {
        put.embedding(embedding)?;
    }
    let ids = [
        ("bos", config.bos_token_ids.first()),
        ("eos", config.eos_token_ids.first()),
        ("eot", config.eos_token_ids.get(1)),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            put.add(&format!("tokenizer.ggml.{name}_token_id"), *id)?;
        }
    }
    let end = model.embedding.as_ref().and_then(|embedding| embedding.end);
    if let Some(mut tokenizer) = vocabulary::of(file, &model.tokenizer, config, end)? {
        tokenizer.add_eos = end.map(|_| true).or(tokenizer.add_eos);
        put.tokenizer(tokenizer)?;
    }
    let metadata = put.metadata;

    let rope_factors = rope_factors(config);
    let rows = model.tensors.iter().find(|t| t.name == EMBEDDING).and_then(|t| t.shape.first().copied());
    let facts = TensorFacts {
        embedding_rows: rows,
        has_head: plan.head,
        rope_factors: rope_factors.clone(),
        weight_only: plan.ternary && matches!(options.packing, Packing::Q2_0 { .. }) && !plan.linear_norms,
    };
    let read = from_gguf(file, &metadata, facts)?;
    let rope_scaling = match (&rope_factors, &config.rope_scaling) {
        (Some(factors), _) => RopeScaling::Factors(factors.clone()),
        (None, RopeScaling::Linear { factor }) => RopeScaling::Linear { factor: f64::from(*factor as f32) },
        (None, other) => other.clone(),
    };
    let in_f32 = |theta: f64| f64::from(theta as f32);
    let sliding_window = config
        .sliding_window
        .as_ref()
        .map(|window| SlidingWindow { rope_theta: in_f32(window.rope_theta), ..window.clone() });
    let meant = ModelConfig { rope_scaling, sliding_window, ..config.clone() };
    fidelity::check(file, &meant, &read, plan.linear_norms)?;
    fidelity::check_embedding(file, model.embedding.as_ref(), embedding::of_gguf(file, &metadata, &read)?)?;
    Ok(Keys { metadata, rope_factors })
}

/// Refuses a packing that readers take for a sign of other activations than the model's: GGUF has no key for them.
fn check_activations(file: &Path, model: &Model, plan: Plan, options: &GgufOptions) -> Result<(), FormatError> {
    let is_q2 = matches!(options.packing, Packing::Q2_0 { .. });
    let what = match model.config.activation_bits {
        Some(bits) if plan.ternary && is_q2 && !plan.linear_norms => {
            format!(
                "{} for a model with {bits}-bit activations (`activation_bits`): it is the type of those with float ones",
                options.packing
            )
        }
        None if plan.ternary && !is_q2 => {
            format!(
                "{} for a model with float activations (`activation_bits`): Q2_0 is the type for it",
                options.packing
            )
        }
        _ => return Ok(()),
    };
    Err(FormatError::unsupported(file, what))
}

/// Adds keys; none is added twice.
struct Put<'a> {
    file: &'a Path,
    architecture: &'a str,
    metadata: Metadata,
}

impl Put<'_> {
    fn add(&mut self, key: &str, value: impl Into<Value>) -> Result<(), FormatError> {
        let twice = |_| FormatError::config(self.file, key, "is given twice");
        self.metadata.insert(key.to_string(), value.into()).map_err(twice)
    }

    fn general(&mut self, key: &str, value: impl Into<Value>) -> Result<(), FormatError> {
        self.add(&format!("general.{key}"), value)
    }

    fn own(&mut self, key: &str, value: impl Into<Value>) -> Result<(), FormatError> {
        self.add(&format!("{}.{key}", self.architecture), value)
    }

    fn sliding_window(&mut self, window: &SlidingWindow) -> Result<(), FormatError> {
        let size = u32::try_from(window.size);
        let too_large = |_| FormatError::config(self.file, "sliding_window", format!("is {}, too large", window.size));
        self.own("attention.sliding_window", size.map_err(too_large)?)?;
        self.own("attention.sliding_window_pattern", Array::Bool(window.layers.clone()))?;
        self.own("rope.freq_base_swa", window.rope_theta as f32)
    }

    fn embedding(&mut self, embedding: &TextEmbedding) -> Result<(), FormatError> {
        self.own(embedding::POOLING, embedding.pooling.gguf_type())?;
        // llama.cpp's are one long, too.
        if !embedding.normalize {
            self.add(embedding::NORMALIZE, false)?;
        }
        for (name, text) in &embedding.prompts {
            self.add(&format!("{}{name}", embedding::PROMPT_PREFIX), text.as_str())?;
        }
        match &embedding.default_prompt {
            Some(name) => self.add(embedding::DEFAULT_PROMPT, name.as_str()),
            None => Ok(()),
        }
    }

    fn tokenizer(&mut self, tokenizer: GgufTokenizer) -> Result<(), FormatError> {
        let is_bpe = tokenizer.model == "gpt2";
        self.add("tokenizer.ggml.model", tokenizer.model)?;
        if let Some(pre) = tokenizer.pre {
            self.add("tokenizer.ggml.pre", pre)?;
        }
        self.add("tokenizer.ggml.tokens", tokenizer.tokens)?;
        if !tokenizer.scores.is_empty() {
            self.add("tokenizer.ggml.scores", tokenizer.scores)?;
        }
        if !tokenizer.token_types.is_empty() {
            self.add("tokenizer.ggml.token_type", tokenizer.token_types)?;
        }
        // A byte-level BPE without any still has to say so.
        if is_bpe || !tokenizer.merges.is_empty() {
            self.add("tokenizer.ggml.merges", tokenizer.merges)?;
        }
        for (name, id) in [("unknown", tokenizer.unknown), ("padding", tokenizer.pad)] {
            if let Some(id) = id {
                self.add(&format!("tokenizer.ggml.{name}_token_id"), id)?;
            }
        }
        let flags = [
            ("add_bos_token", tokenizer.add_bos),
            ("add_eos_token", tokenizer.add_eos),
            ("add_space_prefix", tokenizer.add_space_prefix),
        ];
        for (name, flag) in flags {
            if let Some(flag) = flag {
                self.add(&format!("tokenizer.ggml.{name}"), flag)?;
            }
        }
        if let Some(template) = tokenizer.chat_template {
            self.add("tokenizer.chat_template", template)?;
        }
        Ok(())
    }
}

/// `A.hidden_activation`, where the rule in [`Activation`]'s documentation needs it. Squared ReLU is said always: programs
/// that know the key then need no rule.
fn activation(activation: Activation, architecture: &str) -> Option<&'static str> {
    match activation {
        Activation::Silu if matches!(architecture, "bitnet" | "llama" | "qwen3") => None,
        Activation::Silu => Some("silu"),
        Activation::Relu2 => Some("relu2"),
        Activation::GeluTanh if architecture == "gemma3" => None,
        Activation::GeluTanh => Some("gelu_pytorch_tanh"),
    }
}

/// `general.file_type`: how most tensors are stored.
fn file_type(model: &Model, options: &GgufOptions) -> Option<u32> {
    let linear = model.tensors.iter().find(|t| is_linear(&t.name))?;
    let storage = match linear.kind {
        TensorKind::Ternary => StorageType::Ternary(options.packing),
        TensorKind::Floats => options.floats,
        TensorKind::Stored(dtype) => dtype,
    };
    file_type_of(storage)
}

/// `general.file_type` of a file whose linears are stored so, in the numbers of the programs that read each packing.
pub(crate) fn file_type_of(linears: StorageType) -> Option<u32> {
    match linears {
        StorageType::F32 => Some(0),
        StorageType::F16 => Some(1),
        StorageType::BF16 => Some(32),
        StorageType::Ternary(packing) => match packing {
            Packing::Tq1_0 => Some(36),
            Packing::Tq2_0 => Some(37),
            Packing::I2S | Packing::I2SArm64 | Packing::I2SFourRows => Some(40),
            Packing::Q2_0 { .. } => Some(41),
            Packing::Iq1Bn => Some(136),
            Packing::Iq2Bn => Some(137),
            Packing::Iq2BnR4 => Some(337),
            _ => None,
        },
        _ => None,
    }
}

/// What each rotary frequency is divided by, where that is not the same for all.
fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        RopeScaling::Factors(factors) => Some(factors.clone()),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let divisor = |pair: usize| {
                let frequency = config.rope_theta.powf(-2.0 * pair as f64 / config.rope_dim as f64);
                let waves = *original_context as f64 * frequency / TAU;
                let keep = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 / (keep + (1.0 - keep) / factor)) as f32
            };
            Some((0..config.rope_dim / 2).map(divisor).collect())
        }
        RopeScaling::None | RopeScaling::Linear { .. } => None,
    }
}
