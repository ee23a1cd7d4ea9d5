//! Bounds no model comes near, so that products of sizes stay far from overflow.

use std::path::Path;

use super::{ModelConfig, RopeScaling};
use crate::FormatError;

const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 22;
const MAX_HEADS: usize = 1 << 14;
const MAX_VOCABULARY: usize = 1 << 26;
const MAX_CONTEXT: usize = 1 << 30;

/// Names of the keys behind the sizes, for messages.
pub(super) struct KeyNames {
    pub(super) hidden_size: String,
    pub(super) intermediate_size: String,
    pub(super) num_layers: String,
    pub(super) num_heads: String,
    pub(super) num_kv_heads: String,
    pub(super) head_dim: String,
    pub(super) vocab_size: String,
    pub(super) context_length: String,
    pub(super) rope_theta: String,
    pub(super) rope_dim: String,
    pub(super) rms_norm_eps: String,
}

/// Refuses numbers that no model has, naming the key.
pub(super) fn check(file: &Path, config: &ModelConfig, keys: &KeyNames) -> Result<(), FormatError> {
    let refuse = |key: &str, reason: String| Err(FormatError::config(file, key, reason));
    let sizes = [
        (&keys.hidden_size, config.hidden_size, MAX_WIDTH),
        (&keys.intermediate_size, config.intermediate_size, MAX_WIDTH),
        (&keys.num_layers, config.num_layers, MAX_LAYERS),
        (&keys.num_heads, config.num_heads, MAX_HEADS),
        (&keys.num_kv_heads, config.num_kv_heads, MAX_HEADS),
        (&keys.head_dim, config.head_dim, MAX_WIDTH),
        (&keys.vocab_size, config.vocab_size, MAX_VOCABULARY),
        (&keys.context_length, config.context_length, MAX_CONTEXT),
    ];
    for (key, value, max) in sizes {
        if value == 0 || value > max {
            return refuse(key, format!("is {value}; from 1 to {max} is possible"));
        }
    }
    if !config.num_heads.is_multiple_of(config.num_kv_heads) {
        let reason = format!("is {}, which does not divide the {} heads", config.num_kv_heads, config.num_heads);
        return refuse(&keys.num_kv_heads, reason);
    }
    if config.num_heads * config.head_dim > MAX_WIDTH {
        return refuse(&keys.head_dim, format!("is {}, too large for {} heads", config.head_dim, config.num_heads));
    }
    if config.rope_dim == 0 || !config.rope_dim.is_multiple_of(2) || config.rope_dim > config.head_dim {
        let reason = format!("gives {} rotated values in a head of {}", config.rope_dim, config.head_dim);
        return refuse(&keys.rope_dim, reason);
    }
    if !(config.rope_theta.is_finite() && config.rope_theta >= 1.0) {
        return refuse(&keys.rope_theta, format!("is {}; a number from 1 is possible", config.rope_theta));
    }
    for eps in [config.rms_norm_eps, config.linear_norm_eps] {
        if !(eps > 0.0 && eps < 1.0) {
            return refuse(&keys.rms_norm_eps, format!("is {eps}; a number between 0 and 1 is possible"));
        }
    }
    if !(config.attention_scale.is_finite() && config.attention_scale > 0.0) {
        return refuse("attention scale", format!("is {}; a positive number is possible", config.attention_scale));
    }
    if let Some(window) = &config.sliding_window {
        if window.size == 0 || window.size > MAX_CONTEXT {
            return refuse("sliding_window", format!("is {}; from 1 to {MAX_CONTEXT} is possible", window.size));
        }
        if !(window.rope_theta.is_finite() && window.rope_theta >= 1.0) {
            return refuse(&keys.rope_theta, format!("is {} in layers with windows", window.rope_theta));
        }
    }
    check_scaling(config).or_else(|reason| refuse("rope scaling", reason))
}

fn check_scaling(config: &ModelConfig) -> Result<(), String> {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    match &config.rope_scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } if positive(*factor) => Ok(()),
        RopeScaling::Linear { factor } => Err(format!("has the factor {factor}")),
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context } => {
            let fine = positive(*factor) && positive(*low) && high.is_finite() && high > low && *original_context > 0;
            fine.then_some(()).ok_or_else(|| {
                format!("has factor {factor}, low {low}, high {high}, original context {original_context}")
            })
        }
        RopeScaling::Factors(factors) => {
            if factors.len() != config.rope_dim / 2 {
                return Err(format!("has {} factors for {} frequencies", factors.len(), config.rope_dim / 2));
            }
            match factors.iter().find(|f| !positive(f64::from(**f))) {
                Some(bad) => Err(format!("has the factor {bad}")),
                None => Ok(()),
            }
        }
    }
}
