//! The metadata keys of a GGUF file.

use std::path::Path;

use super::checks::{self, KeyNames};
use super::sliding::{SLIDING_PATTERN, SLIDING_ROPE_THETA, all_but_every};
use super::{Activation, ModelConfig, RopeScaling, ScaleDirection, SlidingWindow};
use crate::FormatError;
use crate::gguf::{Array, Metadata, Value};

/// The architecture with scaled embeddings and sliding windows.
const GEMMA: &str = "gemma3";

/// Epsilon of the norm before a single linear: this project's own key, for those that are not the other norms'.
pub(crate) const LINEAR_NORM_EPS: &str = "linear_norm_rms_epsilon";

/// What the configuration takes from the tensors rather than from the keys.
pub(crate) struct TensorFacts {
    /// Rows of `token_embd.weight`.
    pub(crate) embedding_rows: Option<usize>,
    /// Whether `output.weight` is there.
    pub(crate) has_head: bool,
    /// The values of `rope_freqs.weight`.
    pub(crate) rope_factors: Option<Vec<f32>>,
    /// Whether the ternary linears are of a weight-only type.
    pub(crate) weight_only: bool,
}

/// Metadata with the file's architecture, for `A.key` look-ups.
struct Keys<'a> {
    file: &'a Path,
    architecture: &'a str,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<(String, &Value)> {
        let full = self.full(key);
        let value = self.metadata.get(&full)?;
        Some((full, value))
    }

    /// A whole number, or a list with one equal entry for each layer.
    fn usize(&self, key: &str) -> Result<Option<usize>, FormatError> {
        let Some((full, value)) = self.get(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::Array(array) => array
                .to_u64s()
                .filter(|list| list.windows(2).all(|pair| pair[0] == pair[1]))
                .and_then(|list| list.first().copied()),
            scalar => scalar.as_u64(),
        };
        match number.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(FormatError::config(self.file, &full, "is not one whole number for all layers")),
        }
    }

    fn f64(&self, key: &str) -> Result<Option<f64>, FormatError> {
        let Some((full, value)) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64().or_else(|| value.as_u64().map(|n| n as f64));
        number.map(Some).ok_or_else(|| FormatError::config(self.file, &full, "is not a number"))
    }

    fn str(&self, key: &str) -> Result<Option<&str>, FormatError> {
        let Some((full, value)) = self.get(key) else {
            return Ok(None);
        };
        value.as_str().map(Some).ok_or_else(|| FormatError::config(self.file, &full, "is not a string"))
    }

    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, FormatError> {
        value.ok_or_else(|| FormatError::config(self.file, &self.full(key), "is missing"))
    }

    fn need_usize(&self, key: &str) -> Result<usize, FormatError> {
        self.need(key, self.usize(key)?)
    }

    /// `tokenizer.ggml.<key>_token_id`.
    fn token_id(&self, key: &str) -> Result<Option<u32>, FormatError> {
        token_id(self.file, self.metadata, key)
    }
}

/// `tokenizer.ggml.<name>_token_id`. The value 2³²−1 stands for none, as other programs write it.
pub(crate) fn token_id(file: &Path, metadata: &Metadata, name: &str) -> Result<Option<u32>, FormatError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(value) = metadata.get(&key) else {
        return Ok(None);
    };
    match value.as_u64().map(u32::try_from) {
        Some(Ok(u32::MAX)) => Ok(None),
        Some(Ok(id)) => Ok(Some(id)),
        _ => Err(FormatError::config(file, &key, "is not a token id")),
    }
}

/// The architecture of a file, if this project runs it.
pub(crate) fn architecture<'a>(file: &Path, metadata: &'a Metadata) -> Result<&'a str, FormatError> {
    const KEY: &str = "general.architecture";
    let value = metadata.get(KEY).ok_or_else(|| FormatError::config(file, KEY, "is missing"))?;
    let name = value.as_str().ok_or_else(|| FormatError::config(file, KEY, "is not a string"))?;
    match name {
        "bitnet" | "bitnet-25" | "bitnet-b1.58" | "llama" | "qwen3" | GEMMA => Ok(name),
        other => Err(FormatError::unsupported(
            file,
            format!("architecture `{other}` (known: bitnet, bitnet-25, bitnet-b1.58, llama, qwen3, {GEMMA})"),
        )),
    }
}

/// Whether the rows of Q and K are stored in the order of interleaved rotary pairs.
pub(crate) fn has_interleaved_rope(architecture: &str) -> bool {
    architecture == "llama"
}

/// Reads the configuration of a file.
///
/// # Errors
///
/// A missing or senseless key, an unknown architecture, a feature that is not supported.
pub(crate) fn from_gguf(file: &Path, metadata: &Metadata, facts: TensorFacts) -> Result<ModelConfig, FormatError> {
    let architecture = architecture(file, metadata)?;
    let keys = Keys { file, architecture, metadata };
    refuse_features(&keys)?;

    let hidden_size = keys.need_usize("embedding_length")?;
    let num_heads = keys.need_usize("attention.head_count")?;
    let head_dim = match keys.usize("attention.key_length")? {
        Some(length) => length,
        None => {
            hidden_size.checked_div(num_heads).filter(|_| hidden_size.is_multiple_of(num_heads)).ok_or_else(|| {
                let reason = format!("is {num_heads}, which does not divide {hidden_size}");
                FormatError::config(file, &keys.full("attention.head_count"), reason)
            })?
        }
    };
    if let Some(value_length) = keys.usize("attention.value_length")?
        && value_length != head_dim
    {
        return Err(FormatError::unsupported(file, "values of another width than keys (`attention.value_length`)"));
    }
    let tokens = metadata.get("tokenizer.ggml.tokens").and_then(Value::as_array).map(|a| a.len());
    let vocab_size = keys.usize("vocab_size")?.or(tokens).or(facts.embedding_rows);
    let rms_norm_eps = keys.f64("attention.layer_norm_rms_epsilon")?;
    let rms_norm_eps = keys.need("attention.layer_norm_rms_epsilon", rms_norm_eps)?;
    let mut eos_token_ids: Vec<u32> = keys.token_id("eos")?.into_iter().collect();
    eos_token_ids.extend(keys.token_id("eot")?.filter(|eot| !eos_token_ids.contains(eot)));

    let num_layers = keys.need_usize("block_count")?;
    let is_gemma = architecture == GEMMA;
    let attention_scale = keys.f64("attention.scale")?.filter(|scale| *scale != 0.0);
    let config = ModelConfig {
        architecture: architecture.to_string(),
        hidden_size,
        intermediate_size: keys.need_usize("feed_forward_length")?,
        num_layers,
        num_heads,
        num_kv_heads: keys.usize("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        vocab_size: keys.need("vocab_size", vocab_size)?,
        context_length: keys.need_usize("context_length")?,
        rope_theta: keys.f64("rope.freq_base")?.unwrap_or(10_000.0),
        rope_dim: keys.usize("rope.dimension_count")?.unwrap_or(head_dim),
        rope_scaling: rope_scaling(&keys, facts.rope_factors)?,
        attention_scale: attention_scale.unwrap_or(1.0 / (head_dim as f64).sqrt()),
        sliding_window: if is_gemma { sliding_window(&keys, num_layers)? } else { None },
        embedding_scale: if is_gemma { (hidden_size as f64).sqrt() } else { 1.0 },
        norm_offset: 0.0,
        rms_norm_eps,
        activation: activation(&keys)?,
        tie_word_embeddings: Some(!facts.has_head),
        bos_token_ids: keys.token_id("bos")?.into_iter().collect(),
        eos_token_ids,
        weight_scale: ScaleDirection::Multiply,
        linear_norm_eps: keys.f64(LINEAR_NORM_EPS)?.unwrap_or(rms_norm_eps),
        activation_bits: (!facts.weight_only).then_some(8),
    };
    checks::check(file, &config, &key_names(&keys))?;
    Ok(config)
}

fn key_names(keys: &Keys<'_>) -> KeyNames {
    KeyNames {
        hidden_size: keys.full("embedding_length"),
        intermediate_size: keys.full("feed_forward_length"),
        num_layers: keys.full("block_count"),
        num_heads: keys.full("attention.head_count"),
        num_kv_heads: keys.full("attention.head_count_kv"),
        head_dim: keys.full("attention.key_length"),
        vocab_size: keys.full("vocab_size"),
        context_length: keys.full("context_length"),
        rope_theta: keys.full("rope.freq_base"),
        rope_dim: keys.full("rope.dimension_count"),
        rms_norm_eps: keys.full("attention.layer_norm_rms_epsilon"),
    }
}

/// Features that would change the result and that the decoder does not have.
fn refuse_features(keys: &Keys<'_>) -> Result<(), FormatError> {
    if let Some((key, _)) = keys.metadata.iter().find(|(key, _)| key.starts_with("prism.hadamard.")) {
        let what = format!("weights rotated by a Hadamard transform (`{key}`): read plainly they are noise");
        return Err(FormatError::unsupported(keys.file, what));
    }
    let unknown: &[&str] =
        if keys.architecture == GEMMA { &["expert_count"] } else { &["expert_count", "attention.sliding_window"] };
    for key in unknown {
        if keys.usize(key)?.is_some_and(|n| n > 0) {
            return Err(FormatError::unsupported(keys.file, format!("`{}`", keys.full(key))));
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if keys.f64(key)?.is_some_and(|cap| cap != 0.0) {
            return Err(FormatError::unsupported(keys.file, format!("`{}`", keys.full(key))));
        }
    }
    Ok(())
}

/// Which layers see only a window, and the base of their rotary angles.
fn sliding_window(keys: &Keys<'_>, num_layers: usize) -> Result<Option<SlidingWindow>, FormatError> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let Some(size) = keys.usize("attention.sliding_window")?.filter(|size| *size > 0) else {
        return Ok(None);
    };
    let layers = match keys.get(PATTERN) {
        Some((full, Value::Array(Array::Bool(layers)))) if layers.len() != num_layers => {
            let reason = format!("has {} entries for {num_layers} layers", layers.len());
            return Err(FormatError::config(keys.file, &full, reason));
        }
        Some((_, Value::Array(Array::Bool(layers)))) => layers.clone(),
        _ => all_but_every(keys.usize(PATTERN)?.unwrap_or(SLIDING_PATTERN), num_layers),
    };
    let rope_theta = keys.f64("rope.freq_base_swa")?.unwrap_or(SLIDING_ROPE_THETA);
    Ok(layers.contains(&true).then_some(SlidingWindow { size, layers, rope_theta }))
}

/// The rule in [`Activation`]'s documentation.
fn activation(keys: &Keys<'_>) -> Result<Activation, FormatError> {
    if let Some(name) = keys.str("hidden_activation")? {
        return Activation::from_name(name)
            .ok_or_else(|| FormatError::unsupported(keys.file, format!("the activation `{name}`")));
    }
    let sentencepiece = keys.metadata.get("tokenizer.ggml.model").and_then(Value::as_str) == Some("llama");
    Ok(match keys.architecture {
        "bitnet-25" | "bitnet-b1.58" if !sentencepiece => Activation::Relu2,
        GEMMA => Activation::GeluTanh,
        _ => Activation::Silu,
    })
}

fn rope_scaling(keys: &Keys<'_>, factors: Option<Vec<f32>>) -> Result<RopeScaling, FormatError> {
    let linear = keys.f64("rope.scale_linear")?.filter(|factor| *factor != 1.0);
    let scaling = match keys.str("rope.scaling.type")? {
        None => linear.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor }),
        Some("none") => RopeScaling::None,
        Some("linear") => {
            let factor = keys.f64("rope.scaling.factor")?.or(linear);
            RopeScaling::Linear { factor: keys.need("rope.scaling.factor", factor)? }
        }
        Some(other) => {
            return Err(FormatError::unsupported(keys.file, format!("rotary embedding of type `{other}`")));
        }
    };
    match (factors, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => Ok(RopeScaling::Factors(factors)),
        (Some(_), _) => Err(FormatError::unsupported(keys.file, "rope_freqs.weight together with rope scaling keys")),
    }
}
