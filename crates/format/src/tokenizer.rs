//! What a checkpoint carries of its tokenizer. Making one of it is another room's job.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value as Json;

use crate::FormatError;
use crate::blob::{Blob, Folder};
use crate::config::token_id;
use crate::embedding::SentenceFiles;
use crate::gguf::{Array, Metadata, Value};

/// The tokenizer part of a checkpoint, in its own form.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// The files of a Hugging Face folder.
    Hf {
        /// Path of `tokenizer.json`, for messages.
        path: PathBuf,
        /// `tokenizer.json`, unparsed.
        tokenizer_json: Bytes,
        /// `tokenizer_config.json`.
        tokenizer_config: Option<Json>,
        /// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (of several, the one named `default`).
        chat_template: Option<String>,
        /// `generation_config.json`.
        generation_config: Option<Json>,
    },
    /// The vocabulary inside a GGUF file.
    Gguf(GgufTokenizer),
    /// There is none: no `tokenizer.json` in the folder, no `tokenizer.ggml.tokens` in the GGUF file.
    Missing,
}

/// The `tokenizer.*` keys of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer {
    /// Path of the file, for messages.
    pub path: PathBuf,
    /// `tokenizer.ggml.model`: `gpt2` for byte-level BPE, `llama` for SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`, the pre-tokenizer.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`; the index is the id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`; empty when absent.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`; empty when absent. 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, two tokens with a space between; empty when absent.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// The tokenizer files of a Hugging Face folder, held open.
#[derive(Debug, Clone, Default)]
pub(crate) struct HfFiles {
    tokenizer_json: Option<Blob>,
    tokenizer_config: Option<Json>,
    chat_template: Option<String>,
    generation_config: Option<Json>,
    sentence: SentenceFiles,
}

impl HfFiles {
    /// # Errors
    ///
    /// When a file is there and cannot be read, or a JSON file is not JSON (`tokenizer.json` itself is not parsed here).
    pub(crate) fn open(folder: &Folder<'_>) -> Result<Self, FormatError> {
        let template = match folder.open_optional("chat_template.jinja")? {
            None => None,
            Some(blob) => Some(
                String::from_utf8(blob.bytes().to_vec())
                    .map_err(|_| FormatError::damaged(blob.path(), "it is not UTF-8"))?,
            ),
        };
        let tokenizer_config = open_json(folder, "tokenizer_config.json")?;
        Ok(Self {
            tokenizer_json: folder.open_optional("tokenizer.json")?,
            chat_template: template.or_else(|| tokenizer_config.as_ref().and_then(template_of)),
            tokenizer_config,
            generation_config: open_json(folder, "generation_config.json")?,
            sentence: SentenceFiles::open(folder)?,
        })
    }

    pub(crate) fn generation_config(&self) -> Option<&Json> {
        self.generation_config.as_ref()
    }

    pub(crate) fn sentence(&self) -> &SentenceFiles {
        &self.sentence
    }

    pub(crate) fn source(&self) -> TokenizerSource {
        match &self.tokenizer_json {
            None => TokenizerSource::Missing,
            Some(blob) => TokenizerSource::Hf {
                path: blob.path().to_path_buf(),
                tokenizer_json: blob.bytes().clone(),
                tokenizer_config: self.tokenizer_config.clone(),
                chat_template: self.chat_template.clone(),
                generation_config: self.generation_config.clone(),
            },
        }
    }
}

/// A JSON file of the folder, if it is there.
pub(crate) fn open_json(folder: &Folder<'_>, name: &str) -> Result<Option<Json>, FormatError> {
    let Some(blob) = folder.open_optional(name)? else {
        return Ok(None);
    };
    serde_json::from_slice(blob.bytes())
        .map(Some)
        .map_err(|e| FormatError::damaged(blob.path(), format!("it is not JSON: {e}")))
}

/// `chat_template`: one text, or a list of `{name, template}`.
fn template_of(config: &Json) -> Option<String> {
    let template = config.get("chat_template")?;
    let text = match template {
        Json::Array(list) => {
            list.iter().find(|entry| entry.get("name").and_then(Json::as_str) == Some("default"))?.get("template")?
        }
        other => other,
    };
    text.as_str().map(str::to_string)
}

/// Takes the tokenizer out of a GGUF file's metadata.
///
/// # Errors
///
/// When a key has the wrong type, or scores and types are not as many as tokens.
pub(crate) fn gguf_tokenizer(file: &Path, metadata: &Metadata) -> Result<TokenizerSource, FormatError> {
    let keys = Keys { file, metadata };
    if metadata.get("tokenizer.ggml.tokens").is_none() {
        return Ok(TokenizerSource::Missing);
    }
    let tokens = keys.strings("tokenizer.ggml.tokens")?;
    let scores = match keys.array("tokenizer.ggml.scores")? {
        None => Vec::new(),
        Some(Array::F32(scores)) => scores.clone(),
        Some(_) => return Err(keys.wrong("tokenizer.ggml.scores", "an array of f32")),
    };
    let token_types = match keys.array("tokenizer.ggml.token_type")? {
        None => Vec::new(),
        Some(Array::I32(types)) => types.clone(),
        Some(other) => other
            .to_u64s()
            .and_then(|types| types.into_iter().map(|t| i32::try_from(t).ok()).collect())
            .ok_or_else(|| keys.wrong("tokenizer.ggml.token_type", "an array of whole numbers"))?,
    };
    for (key, count) in [("tokenizer.ggml.scores", scores.len()), ("tokenizer.ggml.token_type", token_types.len())] {
        if count != 0 && count != tokens.len() {
            let reason = format!("has {count} entries for {} tokens", tokens.len());
            return Err(FormatError::config(file, key, reason));
        }
    }
    let model = keys.str("tokenizer.ggml.model")?;
    Ok(TokenizerSource::Gguf(GgufTokenizer {
        path: file.to_path_buf(),
        model: model.ok_or_else(|| FormatError::config(file, "tokenizer.ggml.model", "is missing"))?,
        pre: keys.str("tokenizer.ggml.pre")?,
        scores,
        token_types,
        merges: keys.strings("tokenizer.ggml.merges")?,
        bos: token_id(file, metadata, "bos")?,
        eos: token_id(file, metadata, "eos")?,
        eot: token_id(file, metadata, "eot")?,
        unknown: token_id(file, metadata, "unknown")?,
        pad: token_id(file, metadata, "padding")?,
        add_bos: keys.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: keys.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: keys.bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: keys.str("tokenizer.chat_template")?,
        tokens,
    }))
}

struct Keys<'a> {
    file: &'a Path,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, wanted: &str) -> FormatError {
        FormatError::config(self.file, key, format!("is not {wanted}"))
    }

    fn str(&self, key: &str) -> Result<Option<String>, FormatError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let text = value.as_str().ok_or_else(|| self.wrong(key, "a string"))?;
        Ok(Some(text.to_string()))
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    fn array(&self, key: &str) -> Result<Option<&Array>, FormatError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        match value {
            Value::Array(array) => Ok(Some(array)),
            _ => Err(self.wrong(key, "an array")),
        }
    }

    fn strings(&self, key: &str) -> Result<Vec<String>, FormatError> {
        let Some(array) = self.array(key)? else {
            return Ok(Vec::new());
        };
        let strings = array.as_strings().ok_or_else(|| self.wrong(key, "an array of strings"))?;
        Ok(strings.to_vec())
    }
}
