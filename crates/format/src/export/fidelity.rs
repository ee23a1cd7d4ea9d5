//! That a written configuration will be read as the one that was meant.
//!
//! The writers make keys; this holds what the readers make of those keys against the model. A field that a format has no
//! word for is found out before anything is written.

use std::path::Path;

use crate::{FormatError, ModelConfig, TextEmbedding};

/// Compares what a reader understood with what was meant. Reals are compared as f32, which is what a model computes
/// with and what GGUF keeps. Left out are the fields that are a container's own: `architecture`, `weight_scale`,
/// `tie_word_embeddings`; and `linear_norm_eps` where no linear has a norm.
///
/// # Errors
///
/// Names the first field that would be read as something else.
pub(super) fn check(
    file: &Path,
    meant: &ModelConfig,
    read: &ModelConfig,
    linear_norms: bool,
) -> Result<(), FormatError> {
    macro_rules! same {
        ($($field:ident),* $(,)?) => { $(
            if meant.$field != read.$field {
                return Err(differs(file, stringify!($field), &meant.$field, &read.$field));
            }
        )* };
    }
    same!(
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size,
        context_length,
        rope_dim,
        rope_scaling,
        activation,
        bos_token_ids,
        eos_token_ids,
        activation_bits,
        sliding_window,
    );
    let mut reals = vec![
        ("rope_theta", meant.rope_theta, read.rope_theta),
        ("rms_norm_eps", meant.rms_norm_eps, read.rms_norm_eps),
        ("attention_scale", meant.attention_scale, read.attention_scale),
        ("embedding_scale", meant.embedding_scale, read.embedding_scale),
        ("norm_offset", meant.norm_offset, read.norm_offset),
    ];
    if linear_norms {
        reals.push(("linear_norm_eps", meant.linear_norm_eps, read.linear_norm_eps));
    }
    match reals.into_iter().find(|(_, meant, read)| *meant as f32 != *read as f32) {
        Some((field, meant, read)) => Err(differs(file, field, &meant, &read)),
        None => Ok(()),
    }
}

/// Compares how vectors of texts will be made with what was meant. A guess becomes a statement.
///
/// # Errors
///
/// When they would be made otherwise.
pub(super) fn check_embedding(
    file: &Path,
    meant: Option<&TextEmbedding>,
    read: Option<TextEmbedding>,
) -> Result<(), FormatError> {
    let meant = meant.map(|embedding| TextEmbedding { is_guess: false, ..embedding.clone() });
    if meant == read { Ok(()) } else { Err(differs(file, "embedding", &meant, &read)) }
}

fn differs(file: &Path, field: &str, meant: &dyn std::fmt::Debug, read: &dyn std::fmt::Debug) -> FormatError {
    let reason = format!("is {}, which this format can only say as {}", plainly(meant), plainly(read));
    FormatError::config(file, field, reason)
}

/// A value as its reader knows it, without Rust's `Some`.
fn plainly(value: &dyn std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')) {
        Some(inside) => inside.to_string(),
        None if text == "None" => "none".to_string(),
        None => text,
    }
}
