//! The configuration in a burnpack file: every field of [`ModelConfig`] by its name, as JSON.

use std::path::Path;

use super::ModelConfig;
use super::checks::{KeyNames, check};
use crate::FormatError;

/// As a text that [`from_burnpack`] reads as the same configuration, to the last bit of every number.
pub(crate) fn to_burnpack(config: &ModelConfig) -> String {
    serde_json::to_string_pretty(config).expect("numbers, names and lists have a form in JSON")
}

/// From the text under `key`.
///
/// # Errors
///
/// When it is no such text, or has numbers that no model has.
pub(crate) fn from_burnpack(file: &Path, key: &str, text: &str) -> Result<ModelConfig, FormatError> {
    let config: ModelConfig = serde_json::from_str(text)
        .map_err(|error| FormatError::config(file, key, format!("is no configuration of a model: {error}")))?;
    let keys = KeyNames {
        hidden_size: "hidden_size".into(),
        intermediate_size: "intermediate_size".into(),
        num_layers: "num_layers".into(),
        num_heads: "num_heads".into(),
        num_kv_heads: "num_kv_heads".into(),
        head_dim: "head_dim".into(),
        vocab_size: "vocab_size".into(),
        context_length: "context_length".into(),
        rope_theta: "rope_theta".into(),
        rope_dim: "rope_dim".into(),
        rms_norm_eps: "rms_norm_eps".into(),
    };
    check(file, &config, &keys)?;
    let refuse = |key: &str, reason: String| Err(FormatError::config(file, key, reason));
    match &config {
        ModelConfig { activation_bits: Some(bits), .. } if *bits != 8 => {
            refuse("activation_bits", format!("is {bits}; 8 or none is possible"))
        }
        ModelConfig { embedding_scale: scale, .. } if !(scale.is_finite() && *scale > 0.0) => {
            refuse("embedding_scale", format!("is {scale}; a positive number is possible"))
        }
        ModelConfig { norm_offset, .. } if *norm_offset != 0.0 => {
            refuse("norm_offset", format!("is {norm_offset}; norms have their own weights here"))
        }
        ModelConfig { sliding_window: Some(window), num_layers, .. } if window.layers.len() != *num_layers => {
            refuse("sliding_window", format!("tells of {} layers of {num_layers}", window.layers.len()))
        }
        _ => Ok(config),
    }
}

/// A number as its shortest decimal text: a reader of JSON may take a number for its neighbour.
pub(super) mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, RopeScaling, ScaleDirection, SlidingWindow};

    fn config() -> ModelConfig {
        ModelConfig {
            architecture: "Gemma3ForCausalLM".to_string(),
            hidden_size: 640,
            intermediate_size: 2048,
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 1,
            head_dim: 256,
            vocab_size: 262_144,
            context_length: 2048,
            rope_theta: 1e6 / 3.0,
            rope_dim: 256,
            rope_scaling: RopeScaling::Llama3 {
                factor: 0.1 + 0.2,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
            attention_scale: 1.0 / 168f64.sqrt(),
            sliding_window: Some(SlidingWindow { size: 512, layers: vec![true, false], rope_theta: 10_000.0 }),
            embedding_scale: 640f64.sqrt(),
            norm_offset: 0.0,
            rms_norm_eps: 1e-6,
            activation: Activation::GeluTanh,
            tie_word_embeddings: None,
            bos_token_ids: vec![2],
            eos_token_ids: vec![1, 106],
            weight_scale: ScaleDirection::Multiply,
            linear_norm_eps: f64::MIN_POSITIVE * 3.0,
            activation_bits: None,
        }
    }

    #[test]
    fn every_number_comes_back_to_the_bit() {
        let factors = RopeScaling::Factors((0..128).map(|i| 1.0 + i as f32 / 7.0).collect());
        for rope_scaling in [config().rope_scaling, RopeScaling::Linear { factor: 1.1 }, RopeScaling::None, factors] {
            let config = ModelConfig { rope_scaling, ..config() };
            assert_eq!(from_burnpack(Path::new("m"), "k", &to_burnpack(&config)).unwrap(), config);
        }
    }

    #[test]
    fn what_no_model_has_is_refused() {
        let says = |change: fn(&mut ModelConfig), word: &str| {
            let mut config = config();
            change(&mut config);
            let error = from_burnpack(Path::new("m.bpk"), "k", &to_burnpack(&config)).unwrap_err().to_string();
            assert!(error.starts_with("m.bpk: ") && error.contains(word), "{error}");
        };
        says(|config| config.num_layers = 1 << 40, "num_layers");
        says(|config| config.num_layers = 1, "sliding_window");
        says(|config| config.activation_bits = Some(4), "activation_bits");
        says(|config| config.embedding_scale = f64::NAN, "embedding_scale");
        says(|config| config.norm_offset = 1.0, "norm_offset");
        says(|config| config.attention_scale = -1.0, "attention scale");
        let error = from_burnpack(Path::new("m.bpk"), "k", "{}").unwrap_err().to_string();
        assert!(error.contains("`k`") && error.contains("architecture"), "{error}");
    }
}
