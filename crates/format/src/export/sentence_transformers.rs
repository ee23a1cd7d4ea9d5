//! The files with which sentence-transformers keeps how a model makes vectors of texts.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::embedding::{CONFIG, MODULES};
use crate::{FormatError, ModelConfig, Pooling, TextEmbedding};

/// The configuration of the module that pools, in a folder of its own.
pub(super) const POOLING_CONFIG: &str = "1_Pooling/config.json";

/// Each file's name with what is in it.
///
/// # Errors
///
/// When texts end with another token than the model's first that ends one: no file could say so.
pub(super) fn files(
    file: &Path,
    embedding: &TextEmbedding,
    config: &ModelConfig,
) -> Result<[(&'static str, Json); 3], FormatError> {
    let end = config.eos_token_ids.first().copied().filter(|_| embedding.pooling == Pooling::Last);
    if embedding.end != end {
        let what = format!("texts that end with {:?} in a folder that says {end:?}", embedding.end);
        return Err(FormatError::unsupported(file, what));
    }
    let module = |index: usize, kind: &str, path: &str| {
        json!({
            "idx": index,
            "name": index.to_string(),
            "path": path,
            "type": format!("sentence_transformers.models.{kind}"),
        })
    };
    let mut modules = vec![module(0, "Transformer", ""), module(1, "Pooling", "1_Pooling")];
    if embedding.normalize {
        modules.push(module(2, "Normalize", "2_Normalize"));
    }
    let is = |pooling| embedding.pooling == pooling;
    let pooling = json!({
        "include_prompt": true,
        "pooling_mode_cls_token": false,
        "pooling_mode_lasttoken": is(Pooling::Last),
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_mean_tokens": is(Pooling::Mean),
        "pooling_mode_weightedmean_tokens": false,
        "word_embedding_dimension": config.hidden_size,
    });
    let prompts: Map<String, Json> = embedding.prompts.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
    let more = json!({
        "default_prompt_name": embedding.default_prompt,
        "prompts": prompts,
        "similarity_fn_name": "cosine",
    });
    Ok([(MODULES, Json::Array(modules)), (POOLING_CONFIG, pooling), (CONFIG, more)])
}
