//! `config.json` and `generation_config.json` of a Hugging Face folder.

use std::path::Path;

use serde_json::Value;

use super::checks::{self, KeyNames};
use super::sliding::{SLIDING_PATTERN, SLIDING_ROPE_THETA, all_but_every};
use super::{Activation, ModelConfig, RopeScaling, ScaleDirection, SlidingWindow};
use crate::FormatError;

/// Defaults that a class has for keys older files leave out.
struct Family {
    rope_theta: f64,
    activation: Activation,
    /// Whether the class itself quantizes activations.
    is_bitnet: bool,
    /// Whether the class multiplies embeddings by the root of their width, adds 1 to the weights of its norms, and has
    /// layers with sliding windows.
    is_gemma: bool,
}

const LLAMA: Family = Family { rope_theta: 10_000.0, activation: Activation::Silu, is_bitnet: false, is_gemma: false };
const BITNET: Family = Family { rope_theta: 500_000.0, activation: Activation::Relu2, is_bitnet: true, ..LLAMA };
const BITNET_1BITLLM: Family = Family { is_bitnet: true, ..LLAMA };
const GEMMA: Family = Family { rope_theta: 1_000_000.0, activation: Activation::GeluTanh, is_gemma: true, ..LLAMA };

/// Architectures this project runs, with their spellings.
fn family(architecture: &str) -> Option<&'static Family> {
    match architecture {
        "BitNetForCausalLM" | "BitNetModel" => Some(&BITNET),
        "BitnetForCausalLM" => Some(&BITNET_1BITLLM),
        "LlamaForCausalLM" | "LlamaModel" | "Qwen3ForCausalLM" | "Qwen3Model" => Some(&LLAMA),
        "Gemma3ForCausalLM" | "Gemma3TextModel" => Some(&GEMMA),
        _ => None,
    }
}

/// A JSON object with the file it came from, for errors.
#[derive(Clone, Copy)]
struct Object<'a> {
    file: &'a Path,
    prefix: &'a str,
    value: &'a Value,
}

impl<'a> Object<'a> {
    /// A key's value; `null` counts as absent.
    fn get(self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    fn child(self, prefix: &'a str) -> Option<Self> {
        let value = self.get(prefix)?;
        Some(Self { prefix, value, ..self })
    }

    fn error(self, key: &str, reason: impl Into<String>) -> FormatError {
        let key = match self.prefix {
            "" => key.to_string(),
            prefix => format!("{prefix}.{key}"),
        };
        FormatError::config(self.file, &key, reason)
    }

    fn usize(self, key: &str) -> Result<Option<usize>, FormatError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.error(key, format!("is {value}, not a whole number"))),
        }
    }

    fn f64(self, key: &str) -> Result<Option<f64>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) => Ok(Some(x)),
                None => Err(self.error(key, format!("is {value}, not a number"))),
            },
        }
    }

    fn str(self, key: &str) -> Result<Option<&'a str>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.error(key, format!("is {value}, not a string"))),
        }
    }

    fn bool(self, key: &str) -> Result<Option<bool>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(value) => Err(self.error(key, format!("is {value}, not true or false"))),
        }
    }

    fn need<T>(self, key: &str, value: Option<T>) -> Result<T, FormatError> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    /// One id or a list of ids.
    fn ids(self, key: &str) -> Result<Vec<u32>, FormatError> {
        let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.error(key, "is neither a token id nor a list of them"))
    }
}

/// Reads a parsed `config.json`, with the `generation_config.json` beside it where there is one.
///
/// `activation_bits` is `None` when the file says nothing of BitNet; whoever sees the tensors decides.
///
/// # Errors
///
/// A missing or senseless key, an unknown architecture, a quantization or feature that is not supported.
pub(crate) fn from_hugging_face(
    file: &Path,
    config: &Value,
    generation: Option<(&Path, &Value)>,
) -> Result<ModelConfig, FormatError> {
    let root = Object { file, prefix: "", value: config };
    if !config.is_object() {
        return Err(FormatError::damaged(file, "it is not a JSON object"));
    }
    let architecture = root
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str)
        .ok_or_else(|| root.error("architectures", "is missing or empty"))?;
    let family = family(architecture).ok_or_else(|| {
        FormatError::unsupported(
            file,
            format!(
                "architecture `{architecture}` (known: BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, \
                 Qwen3ForCausalLM, Gemma3ForCausalLM)"
            ),
        )
    })?;
    refuse_features(root, family)?;

    let hidden_size = root.need("hidden_size", root.usize("hidden_size")?)?;
    let num_heads = root.need("num_attention_heads", root.usize("num_attention_heads")?)?;
    let head_dim =
        match root.usize("head_dim")? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(num_heads).filter(|_| hidden_size.is_multiple_of(num_heads)).ok_or_else(
                || root.error("num_attention_heads", format!("is {num_heads}, which does not divide {hidden_size}")),
            )?,
        };
    let rope = Rope::read(root)?;
    let rms_norm_eps = root.need("rms_norm_eps", root.f64("rms_norm_eps")?)?;
    let quantization = Quantization::read(root)?;
    let bitnet = family.is_bitnet || quantization.is_some() || root.bool("is_bitnet_config")? == Some(true);
    if let Some(bits) = root.usize("input_bits")?
        && bits != 8
    {
        return Err(FormatError::unsupported(file, format!("activations of {bits} bits (`input_bits`)")));
    }
    let activation_key = if family.is_gemma { "hidden_activation" } else { "hidden_act" };
    let activation = match root.str(activation_key)? {
        None => family.activation,
        Some(name) => Activation::from_name(name)
            .ok_or_else(|| FormatError::unsupported(file, format!("the activation `{name}` (`{activation_key}`)")))?,
    };
    let num_layers = root.need("num_hidden_layers", root.usize("num_hidden_layers")?)?;
    let score_width = match family.is_gemma {
        true => root.f64("query_pre_attn_scalar")?.unwrap_or(head_dim as f64),
        false => head_dim as f64,
    };
    let mut bos_token_ids = root.ids("bos_token_id")?;
    let mut eos_token_ids = root.ids("eos_token_id")?;
    if let Some((file, value)) = generation {
        let generation = Object { file, prefix: "", value };
        add_new(&mut bos_token_ids, generation.ids("bos_token_id")?);
        add_new(&mut eos_token_ids, generation.ids("eos_token_id")?);
    }

    let config = ModelConfig {
        architecture: architecture.to_string(),
        hidden_size,
        intermediate_size: root.need("intermediate_size", root.usize("intermediate_size")?)?,
        num_layers,
        num_heads,
        num_kv_heads: root.usize("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim,
        vocab_size: root.need("vocab_size", root.usize("vocab_size")?)?,
        context_length: root.need("max_position_embeddings", root.usize("max_position_embeddings")?)?,
        rope_theta: rope.theta.unwrap_or(family.rope_theta),
        rope_dim: (head_dim as f64 * rope.partial_rotary_factor.unwrap_or(1.0)) as usize,
        rope_scaling: rope.scaling,
        attention_scale: 1.0 / score_width.sqrt(),
        sliding_window: if family.is_gemma { sliding_window(root, num_layers)? } else { None },
        embedding_scale: if family.is_gemma { (hidden_size as f64).sqrt() } else { 1.0 },
        norm_offset: if family.is_gemma { 1.0 } else { 0.0 },
        rms_norm_eps,
        activation,
        // A class without a head says nothing of one.
        tie_word_embeddings: if has_head(architecture) { root.bool("tie_word_embeddings")? } else { None },
        bos_token_ids,
        eos_token_ids,
        weight_scale: quantization.as_ref().map_or(ScaleDirection::Divide, |q| q.weight_scale),
        linear_norm_eps: quantization.as_ref().map_or(rms_norm_eps, |q| q.linear_norm_eps),
        activation_bits: bitnet.then_some(8),
    };
    checks::check(file, &config, &key_names())?;
    Ok(config)
}

fn key_names() -> KeyNames {
    KeyNames {
        hidden_size: "hidden_size".into(),
        intermediate_size: "intermediate_size".into(),
        num_layers: "num_hidden_layers".into(),
        num_heads: "num_attention_heads".into(),
        num_kv_heads: "num_key_value_heads".into(),
        head_dim: "head_dim".into(),
        vocab_size: "vocab_size".into(),
        context_length: "max_position_embeddings".into(),
        rope_theta: "rope_theta".into(),
        rope_dim: "partial_rotary_factor".into(),
        rms_norm_eps: "rms_norm_eps".into(),
    }
}

fn add_new(ids: &mut Vec<u32>, more: Vec<u32>) {
    for id in more {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
}

/// Whether an architecture is a class with a language model's head.
pub(crate) fn has_head(architecture: &str) -> bool {
    architecture.ends_with("ForCausalLM")
}

/// Features that would change the result and that the decoder does not have.
fn refuse_features(root: Object<'_>, family: &Family) -> Result<(), FormatError> {
    for key in ["attention_bias", "mlp_bias", "use_sliding_window", "use_bidirectional_attention"] {
        if root.bool(key)? == Some(true) {
            return Err(FormatError::unsupported(root.file, format!("`{key}`: true")));
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if root.get(key).is_some() {
            return Err(FormatError::unsupported(root.file, format!("`{key}`")));
        }
    }
    let is_known = |kind: &str| kind == "full_attention" || family.is_gemma && kind == SLIDING;
    let other_layer = root
        .get("layer_types")
        .and_then(Value::as_array)
        .and_then(|types| types.iter().find(|kind| !kind.as_str().is_some_and(is_known)));
    match other_layer {
        Some(kind) => Err(FormatError::unsupported(root.file, format!("layers of type {kind} (`layer_types`)"))),
        None => Ok(()),
    }
}

/// What `layer_types` and `rope_parameters` call a layer with a window.
const SLIDING: &str = "sliding_attention";

/// Of Gemma 3: which layers see only a window, and the base of their rotary angles.
fn sliding_window(root: Object<'_>, num_layers: usize) -> Result<Option<SlidingWindow>, FormatError> {
    let Some(size) = root.usize("sliding_window")? else {
        return Ok(None);
    };
    let layers = match root.get("layer_types").and_then(Value::as_array) {
        Some(types) if types.len() != num_layers => {
            return Err(root.error("layer_types", format!("has {} entries for {num_layers} layers", types.len())));
        }
        Some(types) => types.iter().map(|kind| kind.as_str() == Some(SLIDING)).collect(),
        None => all_but_every(root.usize("sliding_window_pattern")?.unwrap_or(SLIDING_PATTERN), num_layers),
    };
    let own = root.child("rope_parameters").and_then(|parameters| parameters.child(SLIDING));
    if let Some(object) = own
        && Rope::scaling(root, object)? != RopeScaling::None
    {
        return Err(FormatError::unsupported(root.file, format!("scaled rotary angles in layers of type {SLIDING}")));
    }
    let rope_theta = match own.map(|object| object.f64("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => root.f64("rope_local_base_freq")?.unwrap_or(SLIDING_ROPE_THETA),
    };
    Ok(layers.contains(&true).then_some(SlidingWindow { size, layers, rope_theta }))
}

/// The rotary embedding, from the older flat keys or the newer `rope_parameters`, which may be one set of keys for each
/// type of layer.
struct Rope {
    theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    scaling: RopeScaling,
}

impl Rope {
    fn read(root: Object<'_>) -> Result<Self, FormatError> {
        let parameters = root.child("rope_parameters").map(|all| all.child("full_attention").unwrap_or(all));
        let scaling = match parameters.or_else(|| root.child("rope_scaling")) {
            Some(object) => Self::scaling(root, object)?,
            None => RopeScaling::None,
        };
        let number = |key| match parameters.map(|p| p.f64(key)).transpose()?.flatten() {
            Some(value) => Ok(Some(value)),
            None => root.f64(key),
        };
        Ok(Self { theta: number("rope_theta")?, partial_rotary_factor: number("partial_rotary_factor")?, scaling })
    }

    fn scaling(root: Object<'_>, object: Object<'_>) -> Result<RopeScaling, FormatError> {
        let kind = match object.str("rope_type")? {
            Some(kind) => kind,
            None => object.str("type")?.unwrap_or("default"),
        };
        let need = |key| object.need(key, object.f64(key)?);
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
            "llama3" => {
                const ORIGINAL: &str = "original_max_position_embeddings";
                let original = match object.usize(ORIGINAL)? {
                    Some(original) => Some(original),
                    None => root.usize(ORIGINAL)?,
                };
                Ok(RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low_freq_factor: need("low_freq_factor")?,
                    high_freq_factor: need("high_freq_factor")?,
                    original_context: object.need(ORIGINAL, original)?,
                })
            }
            other => Err(FormatError::unsupported(root.file, format!("rotary embedding of type `{other}`"))),
        }
    }
}

/// `quantization_config` with `quant_method` `bitnet`.
struct Quantization {
    weight_scale: ScaleDirection,
    linear_norm_eps: f64,
}

impl Quantization {
    fn read(root: Object<'_>) -> Result<Option<Self>, FormatError> {
        let Some(object) = root.child("quantization_config") else {
            return Ok(None);
        };
        match object.str("quant_method")? {
            Some("bitnet") => {}
            other => {
                let what = format!("quantization method `{}` (known: bitnet)", other.unwrap_or("none"));
                return Err(FormatError::unsupported(root.file, what));
            }
        }
        let weight_scale = match object.str("linear_class")? {
            None | Some("bitlinear") => ScaleDirection::Divide,
            Some("autobitlinear") => ScaleDirection::Multiply,
            Some(other) => {
                let reason = format!("is `{other}`, neither `bitlinear` nor `autobitlinear`");
                return Err(object.error("linear_class", reason));
            }
        };
        if let Some(entries) = object.get("modules_to_not_convert").and_then(Value::as_array) {
            let is_linear = |name: &&str| {
                name.contains("_proj") || name.contains("layers") || name.contains("mlp") || name.contains("attn")
            };
            if let Some(name) = entries.iter().filter_map(Value::as_str).find(is_linear) {
                let what = format!("a linear that is not ternary (`modules_to_not_convert` names `{name}`)");
                return Err(FormatError::unsupported(root.file, what));
            }
        }
        Ok(Some(Self { weight_scale, linear_norm_eps: object.f64("rms_norm_eps")?.unwrap_or(1e-6) }))
    }
}
