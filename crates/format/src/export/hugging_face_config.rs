//! The JSON files of a Hugging Face folder.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::plan::Plan;
use super::{HuggingFaceForm, HuggingFaceOptions, Model, fidelity};
use crate::config::from_hugging_face;
use crate::{Activation, FormatError, ModelConfig, RopeScaling, StorageType};

/// `config.json`, and what follows from it for the tensors.
pub(super) struct Configuration {
    pub(super) json: Json,
    /// What the class adds to the weights of its norms.
    pub(super) norm_offset: f32,
}

/// `config.json`, which our reader understands as the model's configuration.
///
/// # Errors
///
/// When transformers' class has no place for something in the configuration.
pub(super) fn config(
    file: &Path,
    model: &Model,
    plan: Plan,
    options: &HuggingFaceOptions,
) -> Result<Configuration, FormatError> {
    let config = &model.config;
    let (class, model_type) = class(file, model, plan)?;
    if config.rope_dim != config.head_dim {
        let what =
            format!("rotating {} of the {} values of a head ({class} rotates all)", config.rope_dim, config.head_dim);
        return Err(FormatError::unsupported(file, what));
    }
    let bos = match &config.bos_token_ids[..] {
        [] => Json::Null,
        [id] => json!(id),
        several => {
            let what = format!("several tokens that begin a text, {several:?} ({class} has one)");
            return Err(FormatError::unsupported(file, what));
        }
    };
    let mut json = json!({
        "architectures": [class.as_str()],
        "attention_bias": false,
        "bos_token_id": bos,
        "dtype": match options.dtype {
            StorageType::BF16 => "bfloat16",
            StorageType::F16 => "float16",
            _ => "float32",
        },
        "eos_token_id": one_or_list(&config.eos_token_ids),
        "head_dim": config.head_dim,
        "hidden_act": match config.activation {
            Activation::Relu2 => "relu2",
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        },
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "model_type": model_type,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": rope_parameters(file, config)?,
        "tie_word_embeddings": !plan.head,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    if let Some(quantization) = quantization_config(file, config, plan, options.form)? {
        json["quantization_config"] = quantization;
    }
    if plan.two_sided {
        add_gemma(file, config, &mut json)?;
    }
    let read = from_hugging_face(file, &json, None)?;
    // The model's norms have no offset; what the class adds is taken off their weights.
    let meant = ModelConfig { norm_offset: read.norm_offset, ..config.clone() };
    fidelity::check(file, &meant, &read, plan.linear_norms)?;
    Ok(Configuration { json, norm_offset: read.norm_offset as f32 })
}

/// What Gemma 3's class wants to know besides, and its own name for the activation.
fn add_gemma(file: &Path, config: &ModelConfig, json: &mut Json) -> Result<(), FormatError> {
    const FULL: &str = "full_attention";
    const SLIDING: &str = "sliding_attention";
    let window = config.sliding_window.as_ref();
    let is_sliding = |layer: usize| window.is_some_and(|window| window.layers[layer]);
    let kinds: Vec<&str> = (0..config.num_layers).map(|i| if is_sliding(i) { SLIDING } else { FULL }).collect();
    // The square of a root is seldom the number that it was taken of.
    let width = config.attention_scale.powi(-2);
    let whole = width.round();
    let exact = (1.0 / whole.sqrt()) as f32 == config.attention_scale as f32;
    json["query_pre_attn_scalar"] = if exact { json!(whole as u64) } else { json!(width) };
    if let Some(activation) = json.as_object_mut().and_then(|json| json.remove("hidden_act")) {
        json["hidden_activation"] = activation;
    }
    json["layer_types"] = json!(kinds);
    json["sliding_window"] = json!(window.map(|window| window.size));
    let mut ropes = json!({ FULL: rope_parameters(file, config)? });
    if let Some(window) = window {
        ropes[SLIDING] = json!({ "rope_theta": window.rope_theta, "rope_type": "default" });
    }
    json["rope_parameters"] = ropes;
    Ok(())
}

/// The class that runs the model, with its `model_type`.
fn class(file: &Path, model: &Model, plan: Plan) -> Result<(String, &'static str), FormatError> {
    let config = &model.config;
    let (family, headless, model_type) = match plan {
        Plan { sub_norms: true, qk_norms: true, .. } | Plan { sub_norms: true, two_sided: true, .. } => {
            let what = "sub-norms together with norms of Q and K or after the MLP: transformers has no such class";
            return Err(FormatError::unsupported(file, what));
        }
        Plan { sub_norms: true, .. } if config.num_heads * config.head_dim != config.hidden_size => {
            let what = format!(
                "sub-norms with {} heads of {} in a width of {}: transformers' BitNet has them as wide as the model",
                config.num_heads, config.head_dim, config.hidden_size
            );
            return Err(FormatError::unsupported(file, what));
        }
        Plan { two_sided: true, qk_norms: false, .. } => {
            let what = "norms after attention and MLP without norms of Q and K: transformers has no such class";
            return Err(FormatError::unsupported(file, what));
        }
        Plan { sub_norms: true, .. } => ("BitNet", "BitNetModel", "bitnet"),
        Plan { two_sided: true, .. } => ("Gemma3", "Gemma3TextModel", "gemma3_text"),
        Plan { qk_norms: true, .. } => ("Qwen3", "Qwen3Model", "qwen3"),
        _ => ("Llama", "LlamaModel", "llama"),
    };
    let class = if model.embedding.is_some() { headless.to_string() } else { format!("{family}ForCausalLM") };
    Ok((class, model_type))
}

/// What says that the linears are BitNet's. A model whose activations stay floats says nothing of the kind.
fn quantization_config(
    file: &Path,
    config: &ModelConfig,
    plan: Plan,
    form: HuggingFaceForm,
) -> Result<Option<Json>, FormatError> {
    if config.activation_bits.is_none() {
        let what = match (form, plan.ternary) {
            (HuggingFaceForm::Master, true) => return Ok(None),
            (HuggingFaceForm::Master, false) => "float linears in a model whose linears are ternary already",
            _ => "packed linears in a model whose activations stay floats: transformers quantizes them",
        };
        return Err(FormatError::unsupported(file, what));
    }
    let (class, mode) = match form {
        HuggingFaceForm::PackedAutoBitLinear => ("autobitlinear", "offline"),
        HuggingFaceForm::PackedBitLinear => ("bitlinear", "offline"),
        HuggingFaceForm::Master if plan.ternary => ("autobitlinear", "offline"),
        HuggingFaceForm::Master => ("autobitlinear", "online"),
    };
    let mut json = json!({
        "linear_class": class,
        "modules_to_not_convert": ["lm_head"],
        "quant_method": "bitnet",
        "quantization_mode": mode,
    });
    if plan.linear_norms {
        json["use_rms_norm"] = json!(true);
        json["rms_norm_eps"] = json!(config.linear_norm_eps);
    }
    Ok(Some(json))
}

fn rope_parameters(file: &Path, config: &ModelConfig) -> Result<Json, FormatError> {
    let theta = config.rope_theta;
    match &config.rope_scaling {
        RopeScaling::None => Ok(json!({ "rope_theta": theta, "rope_type": "default" })),
        RopeScaling::Linear { factor } => Ok(json!({ "factor": factor, "rope_theta": theta, "rope_type": "linear" })),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => Ok(json!({
            "factor": factor,
            "high_freq_factor": high_freq_factor,
            "low_freq_factor": low_freq_factor,
            "original_max_position_embeddings": original_context,
            "rope_theta": theta,
            "rope_type": "llama3",
        })),
        RopeScaling::Factors(_) => {
            Err(FormatError::unsupported(file, "a divisor for each rotary frequency (a GGUF's rope_freqs.weight)"))
        }
    }
}

/// `generation_config.json`: what the source's says of sampling, with the model's own ids.
pub(super) fn generation_config(config: &ModelConfig, source: Option<&Json>) -> Json {
    let mut json = source.and_then(Json::as_object).cloned().unwrap_or_default();
    for (key, ids) in [("bos_token_id", &config.bos_token_ids), ("eos_token_id", &config.eos_token_ids)] {
        match one_or_list(ids) {
            Json::Null => json.remove(key),
            ids => json.insert(key.to_string(), ids),
        };
    }
    Json::Object(json)
}

/// One more than the largest id of a `tokenizer.json`.
pub(super) fn token_count(tokenizer: &Json) -> u64 {
    let vocab = &tokenizer["model"]["vocab"];
    let listed = vocab.as_array().map_or(0, |pieces| pieces.len() as u64);
    let named = vocab.as_object().into_iter().flat_map(Map::values);
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten().map(|token| &token["id"]);
    named.chain(added).filter_map(Json::as_u64).map(|id| id.saturating_add(1)).fold(listed, u64::max)
}

/// `tokenizer_config.json` for a tokenizer that has none: the spellings of the tokens that begin and end a text.
pub(super) fn tokenizer_config(config: &ModelConfig, tokenizer: &Json) -> Json {
    let spelling = |ids: &[u32]| {
        let id = json!(ids.first()?);
        let added = tokenizer["added_tokens"].as_array()?.iter().find(|token| token["id"] == id);
        let in_vocabulary = || tokenizer["model"]["vocab"].as_object()?.iter().find(|(_, other)| **other == id);
        match added {
            Some(token) => token["content"].as_str().map(str::to_string),
            None => in_vocabulary().map(|(token, _)| token.clone()),
        }
    };
    let mut json = Map::from_iter([
        ("clean_up_tokenization_spaces".to_string(), json!(false)),
        ("model_max_length".to_string(), json!(config.context_length)),
        ("tokenizer_class".to_string(), json!("PreTrainedTokenizerFast")),
    ]);
    for (key, ids) in [("bos_token", &config.bos_token_ids), ("eos_token", &config.eos_token_ids)] {
        if let Some(token) = spelling(ids) {
            json.insert(key.to_string(), json!(token));
        }
    }
    Json::Object(json)
}

fn one_or_list(ids: &[u32]) -> Json {
    match ids {
        [] => Json::Null,
        [id] => json!(id),
        several => json!(several),
    }
}

/// Indented, with a line end.
pub(super) fn pretty(json: &Json) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}
