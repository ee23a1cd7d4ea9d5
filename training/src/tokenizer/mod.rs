//! The tokenizer of a run: read, or made of its data.

mod model;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bitnet_text::{HfTokenizer, MakeProgress, NewTokenizer, Tokenizer};
use serde_json::Value;

use crate::TrainError;
use crate::data::{DataError, Source, each_document};
use crate::recipe::{Recipe, RecipeError, TokenizerChoice};

const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";

/// The files of a tokenizer, as Hugging Face has them, and the tokenizer itself.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Option<Value>,
    /// `chat_template.jinja`.
    pub chat_template: Option<String>,
    /// `generation_config.json`: the tokens that begin and end a text, where the other files do not name them all.
    pub generation_config: Option<Value>,
    /// What they make.
    pub tokenizer: Tokenizer,
}

impl TokenizerFiles {
    /// Makes or reads the tokenizer that a recipe chooses for data.
    ///
    /// # Errors
    /// When its file cannot be read, or it cannot be made of this data.
    pub fn choose(
        recipe: &Recipe,
        source: &Source,
        progress: &mut (dyn FnMut(MakeProgress) + Send),
    ) -> Result<Self, TrainError> {
        match &recipe.tokenizer {
            TokenizerChoice::File(path) => Self::read(path),
            TokenizerChoice::Model => {
                let refuse = |reason: String| RecipeError::Setting { name: "tokenizer", reason };
                let from = recipe.from.as_ref().ok_or_else(|| refuse("there is no model to take it from".into()))?;
                Self::of(&bitnet_format::open(from)?)
            }
            TokenizerChoice::Bytes => Self::bytes(begins_with_chat(source)?),
            TokenizerChoice::Bpe(size) => Self::train(source, *size, false, progress),
        }
    }

    /// A vocabulary of the 256 bytes, with the markers and the template of conversations or without.
    ///
    /// # Errors
    /// None that is known.
    pub fn bytes(chat: bool) -> Result<Self, TrainError> {
        Self::made(&NewTokenizer::bytes(chat))
    }

    /// Learns merges from data until the vocabulary has `size` tokens. It has the markers and the template of conversations
    /// when there are some in the data, or `chat` says so.
    ///
    /// # Errors
    /// When the data cannot be read, or the vocabulary cannot have this size.
    pub fn train(
        source: &Source,
        size: usize,
        chat: bool,
        progress: &mut (dyn FnMut(MakeProgress) + Send),
    ) -> Result<Self, TrainError> {
        let (mut texts, mut chat) = (Vec::new(), chat);
        each_document(source, &mut |document| {
            chat |= document.is_chat();
            texts.extend(document.into_texts());
            Ok::<_, DataError>(ControlFlow::Continue(()))
        })?;
        Self::made(&NewTokenizer::train(texts.into_iter(), size, chat, progress)?)
    }

    fn made(made: &NewTokenizer) -> Result<Self, TrainError> {
        let config = Some(made.tokenizer_config());
        let template = made.chat_template().map(String::from);
        Self::assemble(Path::new(JSON), made.tokenizer_json().into_bytes(), config, template, None)
    }

    /// Reads a `tokenizer.json`, and what lies beside it.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let path = if path.is_dir() { path.join(JSON) } else { path.to_path_buf() };
        let json = fs::read(&path).map_err(TrainError::io(&path))?;
        let beside = |name: &str| path.with_file_name(name);
        let optional = |path: PathBuf| match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TrainError::io(&path)(error)),
        };
        let optional_json = |name: &str| match optional(beside(name))? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| TrainError::io(&beside(name))(std::io::Error::other(format!("not JSON: {error}")))),
            None => Ok(None),
        };
        let template = optional(beside(TEMPLATE))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self::assemble(&path, json, optional_json(CONFIG)?, template, optional_json(GENERATION)?)
    }

    fn assemble(
        path: &Path,
        tokenizer_json: Vec<u8>,
        config: Option<Value>,
        chat_template: Option<String>,
        generation_config: Option<Value>,
    ) -> Result<Self, TrainError> {
        let files = HfTokenizer {
            tokenizer_json: &tokenizer_json,
            tokenizer_config: config.as_ref(),
            chat_template: chat_template.as_deref(),
            generation_config: generation_config.as_ref(),
            ..HfTokenizer::default()
        };
        let tokenizer =
            Tokenizer::from_hf(files).map_err(|source| TrainError::Tokenizer { path: path.to_path_buf(), source })?;
        Ok(Self { tokenizer_json, config, chat_template, generation_config, tokenizer })
    }

    /// Writes the files to a folder.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, folder: &Path) -> Result<(), TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            crate::metrics::replace(&path, |file| std::io::Write::write_all(file, bytes)).map_err(TrainError::io(&path))
        };
        put(JSON, &self.tokenizer_json)?;
        if let Some(config) = &self.config {
            put(CONFIG, config.to_string().as_bytes())?;
        }
        if let Some(template) = &self.chat_template {
            put(TEMPLATE, template.as_bytes())?;
        }
        if let Some(config) = &self.generation_config {
            put(GENERATION, config.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// The token that ends a text, if there is one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.tokenizer.stop_tokens().first().copied()
    }

    /// Every token that ends a text or a turn, the first one ending a text.
    pub fn ends(&self) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        self.tokenizer.stop_tokens().iter().copied().filter(|id| seen.insert(*id)).collect()
    }
}

/// Whether the first document of some data is a conversation.
///
/// # Errors
/// When it cannot be read.
pub fn begins_with_chat(source: &Source) -> Result<bool, DataError> {
    let mut chat = false;
    each_document(source, &mut |document| {
        chat = document.is_chat();
        Ok(ControlFlow::Break(()))
    })?;
    Ok(chat)
}
