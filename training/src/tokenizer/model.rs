//! The tokenizer of a model that is trained further.

use bitnet_engine::{EngineError, vocabulary};
use bitnet_format::{Checkpoint, TokenizerSource};
use serde_json::json;

use super::TokenizerFiles;
use crate::TrainError;

impl TokenizerFiles {
    /// The tokenizer that a model file brings, as the files of a Hugging Face folder.
    ///
    /// # Errors
    /// When it brings none, or one that cannot be written as a `tokenizer.json`, see [`bitnet_text::GgufVocabulary::to_hf`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, TrainError> {
        let config = checkpoint.config();
        match checkpoint.tokenizer_files()? {
            TokenizerSource::Hf { path, tokenizer_json, tokenizer_config, chat_template, generation_config } => {
                // Tokens that end a text may be named in any of three files, of which config.json does not come along.
                let mut generation = generation_config.unwrap_or_else(|| json!({}));
                generation["eos_token_id"] = json!(config.eos_token_ids);
                if let Some(bos) = config.bos_token_ids.first() {
                    generation["bos_token_id"] = json!(bos);
                }
                Self::assemble(&path, tokenizer_json.to_vec(), tokenizer_config, chat_template, Some(generation))
            }
            TokenizerSource::Gguf(gguf) => {
                let path = gguf.path.clone();
                let files = vocabulary(gguf, config.architecture.clone()).to_hf();
                let files = files.map_err(|source| TrainError::Tokenizer { path: path.clone(), source })?;
                let (json, config) = (files.tokenizer_json.into_bytes(), Some(files.tokenizer_config));
                Self::assemble(&path, json, config, files.chat_template, Some(files.generation_config))
            }
            TokenizerSource::Missing => {
                let file = checkpoint.source().files.first();
                Err(EngineError::NoTokenizer(file.map(|file| file.path.clone()).unwrap_or_default()).into())
            }
        }
    }
}
