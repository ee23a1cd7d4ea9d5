//! How a checkpoint makes one vector of a text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value as Json;

use crate::blob::Folder;
use crate::config::has_head;
use crate::gguf::Metadata as GgufMetadata;
use crate::tokenizer::open_json;
use crate::{FormatError, ModelConfig};

/// What an embedding model does with the hidden states of a text, after the last norm.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEmbedding {
    /// Which of them become the vector. `1_Pooling/config.json` (the module that `modules.json` calls `Pooling`);
    /// `A.pooling_type`, 1 or 3.
    pub pooling: Pooling,
    /// Whether the vector is made one long. A `Normalize` module in `modules.json`; `sentence_transformers.normalize`, and
    /// without that key it is, as llama.cpp's are.
    pub normalize: bool,
    /// The token that a text has to end with, where the last one stands for it: `eos_token_id` of `config.json`;
    /// `tokenizer.ggml.eos_token_id`, unless `tokenizer.ggml.add_eos_token` is false.
    pub end: Option<u32>,
    /// What belongs before a text of some kind, by the kind's name (`query`). `prompts` of
    /// `config_sentence_transformers.json`; `sentence_transformers.prompts.<name>`.
    pub prompts: Vec<(String, String)>,
    /// The kind of a text of which nothing is said. `default_prompt_name` of the same file;
    /// `sentence_transformers.default_prompt_name`.
    pub default_prompt: Option<String>,
    /// Whether the pooling is no more than a guess, because only the missing head tells that this is an embedding model.
    pub is_guess: bool,
}

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The last token's, the only one that has seen the whole text.
    Last,
    /// The mean over all tokens.
    Mean,
}

impl Pooling {
    /// `A.pooling_type`, in llama.cpp's numbers.
    pub(crate) fn gguf_type(self) -> u32 {
        match self {
            Self::Mean => 1,
            Self::Last => 3,
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Mean => "mean",
        })
    }
}

impl FromStr for Pooling {
    type Err = UnknownPooling;

    fn from_str(text: &str) -> Result<Self, UnknownPooling> {
        match text {
            "last" => Ok(Self::Last),
            "mean" => Ok(Self::Mean),
            other => Err(UnknownPooling(other.to_string())),
        }
    }
}

/// A name that is no [`Pooling`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pooling: last or mean")]
pub struct UnknownPooling(String);

/// The files with which sentence-transformers keeps an embedding model, as they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct SentenceFiles {
    /// `modules.json`.
    modules: Option<Json>,
    /// The pooling module's `config.json`, with its path.
    pooling: Option<(PathBuf, Option<Json>)>,
    /// `config_sentence_transformers.json`.
    config: Option<Json>,
}

impl SentenceFiles {
    /// # Errors
    ///
    /// When a file is there and is not JSON, or cannot be read.
    pub(crate) fn open(folder: &Folder<'_>) -> Result<Self, FormatError> {
        let modules = open_json(folder, MODULES)?;
        let pooling = match modules.iter().flat_map(listed).find(|(kind, _)| *kind == "Pooling") {
            Some((_, path)) if is_plain(path) => {
                let name = format!("{path}/config.json");
                Some((folder.path(&name), open_json(folder, &name)?))
            }
            Some((_, path)) => {
                let reason = format!("has a module in {path:?}, which is no folder of this one");
                return Err(FormatError::config(&folder.path(MODULES), "path", reason));
            }
            None => None,
        };
        Ok(Self { modules, pooling, config: open_json(folder, CONFIG)? })
    }

    /// Whether there is no `modules.json`, and so nothing of an embedding model.
    pub(crate) fn is_empty(&self) -> bool {
        self.modules.is_none()
    }
}

pub(crate) const MODULES: &str = "modules.json";
pub(crate) const CONFIG: &str = "config_sentence_transformers.json";

/// GGUF keys. The first has the architecture before it; the others are this project's, for what no other program has keys for.
pub(crate) const POOLING: &str = "pooling_type";
pub(crate) const NORMALIZE: &str = "sentence_transformers.normalize";
pub(crate) const PROMPT_PREFIX: &str = "sentence_transformers.prompts.";
pub(crate) const DEFAULT_PROMPT: &str = "sentence_transformers.default_prompt_name";

/// Kind and path of each module.
fn listed(modules: &Json) -> impl Iterator<Item = (&str, &str)> {
    modules.as_array().into_iter().flatten().filter_map(|module| {
        let kind = module["type"].as_str()?;
        Some((kind.rsplit('.').next().unwrap_or(kind), module["path"].as_str()?))
    })
}

/// Whether a path from `modules.json` is the name of a folder, and leads nowhere else.
fn is_plain(path: &str) -> bool {
    !path.is_empty() && path != "." && path != ".." && !path.contains(['/', '\\', ':', '\0'])
}

/// Of a Hugging Face folder; `None` for a language model.
///
/// # Errors
///
/// When the model is one for embeddings, but does what this project does not.
pub(crate) fn of_hugging_face(
    folder: &Path,
    files: &SentenceFiles,
    config: &ModelConfig,
) -> Result<Option<TextEmbedding>, FormatError> {
    let end = |pooling| if pooling == Pooling::Last { config.eos_token_ids.first().copied() } else { None };
    let prompts = |key: &str| files.config.as_ref().and_then(|json| json.get(key));
    let named = prompts("prompts").and_then(Json::as_object).into_iter().flatten();
    let embedding = TextEmbedding {
        pooling: Pooling::Last,
        normalize: true,
        end: end(Pooling::Last),
        prompts: named.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_string()))).collect(),
        default_prompt: prompts("default_prompt_name").and_then(Json::as_str).map(str::to_string),
        is_guess: false,
    };
    let Some(modules) = &files.modules else {
        return Ok((!has_head(&config.architecture)).then_some(TextEmbedding { is_guess: true, ..embedding }));
    };
    let path = folder.join(MODULES);
    let other = listed(modules).find(|(kind, _)| !["Transformer", "Pooling", "Normalize"].contains(kind));
    if let Some((kind, _)) = other {
        return Err(FormatError::unsupported(&path, format!("a module of type `{kind}` after the model")));
    }
    let Some((path, Some(json))) = &files.pooling else {
        return Err(FormatError::unsupported(&path, "an embedding model without a pooling module and its config.json"));
    };
    let pooling = pooling_mode(path, json)?;
    let normalize = listed(modules).any(|(kind, _)| kind == "Normalize");
    Ok(Some(TextEmbedding { pooling, normalize, end: end(pooling), ..embedding }))
}

/// `pooling_mode_<mode>: true` of sentence-transformers' older files, `pooling_mode: <mode>` of newer ones.
fn pooling_mode(file: &Path, json: &Json) -> Result<Pooling, FormatError> {
    const PREFIX: &str = "pooling_mode_";
    let flags = json.as_object().into_iter().flatten().filter(|(_, value)| **value == Json::Bool(true));
    let flagged = flags.filter_map(|(key, _)| key.strip_prefix(PREFIX));
    let modes: Vec<&str> = json["pooling_mode"].as_str().into_iter().chain(flagged).collect();
    if json["include_prompt"] == Json::Bool(false) && modes != ["lasttoken"] {
        return Err(FormatError::unsupported(file, "leaving the prompt out of a mean (`include_prompt`: false)"));
    }
    match modes[..] {
        ["lasttoken"] => Ok(Pooling::Last),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        _ => Err(FormatError::unsupported(file, format!("pooling by {modes:?} (known: lasttoken, mean_tokens)"))),
    }
}

/// Of a GGUF file; `None` for a language model.
///
/// # Errors
///
/// As [`of_hugging_face`].
pub(crate) fn of_gguf(
    file: &Path,
    metadata: &GgufMetadata,
    config: &ModelConfig,
) -> Result<Option<TextEmbedding>, FormatError> {
    let key = format!("{}.{POOLING}", config.architecture);
    let Some(value) = metadata.get(&key) else {
        return Ok(None);
    };
    let wrong = |key: &str, wanted: &str| FormatError::config(file, key, format!("is not {wanted}"));
    let pooling = match value.as_u64() {
        Some(0) => return Ok(None),
        Some(1) => Pooling::Mean,
        Some(3) => Pooling::Last,
        _ => {
            let what =
                format!("pooling of type {} (`{key}`; known: 1, the mean, and 3, the last token)", value.to_json(0));
            return Err(FormatError::unsupported(file, what));
        }
    };
    let ends = metadata.get("tokenizer.ggml.add_eos_token").and_then(|value| value.as_bool()) != Some(false);
    let end = config.eos_token_ids.first().copied().filter(|_| ends && pooling == Pooling::Last);
    let normalize = match metadata.get(NORMALIZE) {
        None => true,
        Some(value) => value.as_bool().ok_or_else(|| wrong(NORMALIZE, "true or false"))?,
    };
    let mut prompts = Vec::new();
    for (key, value) in metadata.iter() {
        if let Some(name) = key.strip_prefix(PROMPT_PREFIX) {
            prompts.push((name.to_string(), value.as_str().ok_or_else(|| wrong(key, "a string"))?.to_string()));
        }
    }
    let default_prompt = match metadata.get(DEFAULT_PROMPT) {
        None => None,
        Some(value) => Some(value.as_str().ok_or_else(|| wrong(DEFAULT_PROMPT, "a string"))?.to_string()),
    };
    Ok(Some(TextEmbedding { pooling, normalize, end, prompts, default_prompt, is_guess: false }))
}
