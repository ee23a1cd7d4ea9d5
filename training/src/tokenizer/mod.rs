//! The tokenizer of a run: read, or made of its data.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bitnet_text::{HfTokenizer, MakeProgress, NewTokenizer, Tokenizer};
use serde_json::Value;

use crate::TrainError;
use crate::data::{DataError, Source, each_document};
use crate::recipe::TokenizerChoice;

const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// The files of a tokenizer, as Hugging Face has them, and the tokenizer itself.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Option<Value>,
    /// `chat_template.jinja`.
    pub chat_template: Option<String>,
    /// What they make.
    pub tokenizer: Tokenizer,
}

impl TokenizerFiles {
    /// Makes or reads the tokenizer that a recipe chooses for data.
    ///
    /// # Errors
    /// When its file cannot be read, or it cannot be made of this data.
    pub fn choose(
        choice: &TokenizerChoice,
        source: &Source,
        progress: &mut (dyn FnMut(MakeProgress) + Send),
    ) -> Result<Self, TrainError> {
        match choice {
            TokenizerChoice::File(path) => Self::read(path),
            TokenizerChoice::Bytes => {
                // Whether there are conversations is seen at the first document.
                let mut chat = false;
                each_document(source, &mut |document| {
                    chat = document.is_chat();
                    Ok(ControlFlow::Break(()))
                })?;
                Self::made(&NewTokenizer::bytes(chat))
            }
            TokenizerChoice::Bpe(size) => {
                let (mut texts, mut chat) = (Vec::new(), false);
                each_document(source, &mut |document| {
                    chat |= document.is_chat();
                    texts.extend(document.into_texts());
                    Ok::<_, DataError>(ControlFlow::Continue(()))
                })?;
                Self::made(&NewTokenizer::train(texts.into_iter(), *size, chat, progress)?)
            }
        }
    }

    fn made(made: &NewTokenizer) -> Result<Self, TrainError> {
        let config = Some(made.tokenizer_config());
        let template = made.chat_template().map(String::from);
        Self::assemble(Path::new(JSON), made.tokenizer_json().into_bytes(), config, template)
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
        let config = match optional(beside(CONFIG))? {
            Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| {
                TrainError::io(&beside(CONFIG))(std::io::Error::other(format!("not JSON: {error}")))
            })?),
            None => None,
        };
        let template = optional(beside(TEMPLATE))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self::assemble(&path, json, config, template)
    }

    fn assemble(
        path: &Path,
        tokenizer_json: Vec<u8>,
        config: Option<Value>,
        chat_template: Option<String>,
    ) -> Result<Self, TrainError> {
        let files = HfTokenizer {
            tokenizer_json: &tokenizer_json,
            tokenizer_config: config.as_ref(),
            chat_template: chat_template.as_deref(),
            ..HfTokenizer::default()
        };
        let tokenizer =
            Tokenizer::from_hf(files).map_err(|source| TrainError::Tokenizer { path: path.to_path_buf(), source })?;
        Ok(Self { tokenizer_json, config, chat_template, tokenizer })
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
