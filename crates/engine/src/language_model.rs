//! A model with its tokenizer.

use bitnet_format::{Checkpoint, TokenizerSource};
use bitnet_model::{Loaded, Transformer};
use bitnet_text::{GgufVocabulary, HfTokenizer, Tokenizer};
use burn::tensor::Device;

use crate::{EngineError, Session};

/// A model and the tokenizer that belongs to it. It is immutable: any number of sessions can share it.
pub struct LanguageModel {
    transformer: Transformer,
    tokenizer: Tokenizer,
    warnings: Vec<String>,
}

impl LanguageModel {
    /// Loads the model of `checkpoint` onto `device`, with `tokenizer_json` in place of the checkpoint's own tokenizer if it
    /// is given.
    ///
    /// # Errors
    /// When a part of the checkpoint is missing or wrong, or the tokenizer has tokens that the model has no row for.
    pub fn load(checkpoint: &Checkpoint, device: &Device, tokenizer_json: Option<&[u8]>) -> Result<Self, EngineError> {
        // The tokenizer of a large vocabulary takes about as long as the weights: both at once.
        let (tokenizer, loaded) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| tokenizer_of(checkpoint, tokenizer_json));
            let loaded = bitnet_model::load(checkpoint, device);
            (tokenizer.join(), loaded)
        });
        let tokenizer = tokenizer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let Loaded { model, unused } = loaded?;
        tokenizer.check_vocabulary(checkpoint.config().vocab_size)?;
        let mut warnings = checkpoint.notes().to_vec();
        if !unused.is_empty() {
            warnings.push(format!("tensors that no layer uses: {}", unused.join(", ")));
        }
        Ok(Self { transformer: model, tokenizer, warnings })
    }

    /// The model.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What the user should be told about the checkpoint, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// An empty session for at most `context` tokens (the model's own context when `None`).
    pub fn session(&self, context: Option<usize>) -> Session<'_> {
        Session::new(self, context)
    }
}

/// The tokenizer of a checkpoint, or the one in `tokenizer_json` with the checkpoint's special tokens.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn tokenizer_of(checkpoint: &Checkpoint, tokenizer_json: Option<&[u8]>) -> Result<Tokenizer, EngineError> {
    let config = checkpoint.config();
    let config_bos = config.bos_token_ids.first().copied();
    let config_eos = &config.eos_token_ids;
    match (checkpoint.tokenizer_files()?, tokenizer_json) {
        (
            TokenizerSource::Hf { tokenizer_json: own, tokenizer_config, chat_template, generation_config, .. },
            given,
        ) => Ok(Tokenizer::from_hf(HfTokenizer {
            tokenizer_json: given.unwrap_or(&own),
            tokenizer_config: tokenizer_config.as_ref(),
            chat_template: chat_template.as_deref(),
            generation_config: generation_config.as_ref(),
            config_eos,
            config_bos,
        })?),
        (TokenizerSource::Gguf(gguf), Some(given)) => Ok(Tokenizer::from_hf(HfTokenizer {
            tokenizer_json: given,
            chat_template: gguf.chat_template.as_deref(),
            config_eos,
            config_bos,
            ..HfTokenizer::default()
        })?),
        (TokenizerSource::Missing, Some(given)) => {
            Ok(Tokenizer::from_hf(HfTokenizer { tokenizer_json: given, config_eos, config_bos, ..Default::default() })?)
        }
        (TokenizerSource::Gguf(gguf), None) => Ok(Tokenizer::from_gguf(GgufVocabulary {
            model: gguf.model,
            pre: gguf.pre,
            tokens: gguf.tokens,
            scores: gguf.scores,
            token_types: gguf.token_types,
            merges: gguf.merges,
            bos: gguf.bos,
            eos: gguf.eos,
            eot: gguf.eot,
            pad: gguf.pad,
            unk: gguf.unknown,
            add_bos: gguf.add_bos,
            add_eos: gguf.add_eos,
            add_space_prefix: gguf.add_space_prefix,
            chat_template: gguf.chat_template,
            architecture: config.architecture.clone(),
        })?),
        (TokenizerSource::Missing, None) => {
            let file = checkpoint.source().files.first().map(|f| f.path.display().to_string());
            Err(EngineError::NoTokenizer(file.unwrap_or_default()))
        }
    }
}
