//! A model with its tokenizer.

use std::path::{Path, PathBuf};

use bitnet_format::{Adapter, Checkpoint, FormatError, GgufTokenizer, TextEmbedding, TokenizerSource};
use bitnet_model::{Kept, KeptWeights, Loaded, Transformer, WeightBits, load_kept};
use bitnet_text::{GgufVocabulary, HfTokenizer, Tokenizer};
use burn::tensor::Device;

use crate::{Batch, EngineError, Session, SessionOptions};

/// A model and the tokenizer that belongs to it. It is immutable: any number of sessions can share it.
pub struct LanguageModel {
    transformer: Transformer,
    tokenizer: Tokenizer,
    /// How it makes vectors of texts, or why that cannot be done.
    embedding: Result<Option<TextEmbedding>, String>,
    warnings: Vec<String>,
    /// What became of the weights that were to be kept.
    kept: Option<KeptWeights>,
}

impl LanguageModel {
    /// Loads the model of `checkpoint` onto `device`, with the file `tokenizer_json` in place of the checkpoint's own
    /// tokenizer if it is given.
    ///
    /// # Errors
    /// When a part of the checkpoint is missing or wrong, or the tokenizer has tokens that the model has no row for.
    pub fn load(checkpoint: &Checkpoint, device: &Device, tokenizer_json: Option<&Path>) -> Result<Self, EngineError> {
        Self::load_with_bits(checkpoint, WeightBits::default(), None, device, tokenizer_json)
    }

    /// [`LanguageModel::load`] with so many bits for each weight, and weights `kept` from one start to the next.
    ///
    /// # Errors
    /// As [`LanguageModel::load`], and when the device or the model does not go with them.
    pub fn load_with_bits(
        checkpoint: &Checkpoint,
        bits: WeightBits,
        kept: Option<&Kept>,
        device: &Device,
        tokenizer_json: Option<&Path>,
    ) -> Result<Self, EngineError> {
        // The tokenizer of a large vocabulary takes about as long as the weights: both at once.
        let (tokenizer, loaded) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| tokenizer_of(checkpoint, tokenizer_json));
            let loaded = match kept {
                Some(kept) => load_kept(checkpoint, bits, kept, device).map(|(loaded, state)| (loaded, Some(state))),
                None => bitnet_model::load_with_bits(checkpoint, bits, device).map(|loaded| (loaded, None)),
            };
            (tokenizer.join(), loaded)
        });
        let tokenizer = tokenizer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (Loaded { model, unused }, kept) = loaded?;
        let vocab_size = checkpoint.config().vocab_size;
        let origin = || tokenizer_json.map_or_else(|| first_file(checkpoint), Path::to_path_buf);
        tokenizer.check_vocabulary(vocab_size).map_err(|source| EngineError::Tokenizer { origin: origin(), source })?;
        let mut warnings = checkpoint.notes().to_vec();
        if !unused.is_empty() {
            warnings.push(format!("tensors that no layer uses: {}", unused.join(", ")));
        }
        let embedding = checkpoint.embedding().map_err(|error| error.to_string());
        Ok(Self { transformer: model, tokenizer, embedding, warnings, kept })
    }

    /// The model with a low-rank adapter beside its linears.
    ///
    /// # Errors
    /// When the adapter is not one of this model.
    pub fn with_adapter(self, adapter: &Adapter) -> Result<Self, EngineError> {
        Ok(Self { transformer: self.transformer.with_adapter(adapter)?, ..self })
    }

    /// A model that is in memory already, with its tokenizer.
    pub fn new(transformer: Transformer, tokenizer: Tokenizer) -> Self {
        Self { transformer, tokenizer, embedding: Ok(None), warnings: Vec::new(), kept: None }
    }

    /// The model.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How the model makes one vector of a text: `None` for a language model, an error's text where its checkpoint asks for
    /// something that this project does not do. See [`LanguageModel::embedder`].
    pub fn embedding(&self) -> Result<Option<&TextEmbedding>, &str> {
        self.embedding.as_ref().map(Option::as_ref).map_err(String::as_str)
    }

    /// What became of the weights that were to be kept from one start to the next.
    pub fn kept_weights(&self) -> Option<&KeptWeights> {
        self.kept.as_ref()
    }

    /// What the user should be told about the checkpoint, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// An empty session; options are [`SessionOptions`], or only the most tokens that it may have.
    pub fn session(&self, options: impl Into<SessionOptions>) -> Session<'_> {
        Session::new(self, options.into())
    }

    /// An empty batch with room for `slots` texts; options are those of a session, for each of them.
    pub fn batch(&self, slots: usize, options: impl Into<SessionOptions>) -> Batch<'_> {
        Batch::new(self, slots, options.into())
    }
}

/// The tokenizer of a checkpoint, or the one in the file `tokenizer_json` with the checkpoint's special tokens.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn tokenizer_of(checkpoint: &Checkpoint, tokenizer_json: Option<&Path>) -> Result<Tokenizer, EngineError> {
    let config = checkpoint.config();
    let config_bos = config.bos_token_ids.first().copied();
    let config_eos = &config.eos_token_ids;
    let read = |path: &Path| std::fs::read(path).map_err(|source| FormatError::Io { path: path.to_path_buf(), source });
    let given = tokenizer_json.map(read).transpose()?;
    let (path, tokenizer) = match (checkpoint.tokenizer_files()?, given) {
        (
            TokenizerSource::Hf { path, tokenizer_json: own, tokenizer_config, chat_template, generation_config },
            given,
        ) => {
            let files = HfTokenizer {
                tokenizer_json: given.as_deref().unwrap_or(&own),
                tokenizer_config: tokenizer_config.as_ref(),
                chat_template: chat_template.as_deref(),
                generation_config: generation_config.as_ref(),
                config_eos,
                config_bos,
            };
            (path, Tokenizer::from_hf(files))
        }
        (TokenizerSource::Gguf(gguf), Some(given)) => {
            let chat_template = gguf.chat_template.as_deref();
            let files =
                HfTokenizer { tokenizer_json: &given, chat_template, config_eos, config_bos, ..Default::default() };
            (gguf.path, Tokenizer::from_hf(files))
        }
        (TokenizerSource::Missing, Some(given)) => {
            let files = HfTokenizer { tokenizer_json: &given, config_eos, config_bos, ..Default::default() };
            (first_file(checkpoint), Tokenizer::from_hf(files))
        }
        (TokenizerSource::Gguf(gguf), None) => {
            let (path, architecture) = (gguf.path.clone(), config.architecture.clone());
            (path, Tokenizer::from_gguf(vocabulary(gguf, architecture)))
        }
        (TokenizerSource::Missing, None) => return Err(EngineError::NoTokenizer(first_file(checkpoint))),
    };
    let origin = tokenizer_json.map_or(path, Path::to_path_buf);
    tokenizer.map_err(|source| EngineError::Tokenizer { origin, source })
}

/// The vocabulary of a GGUF file whose `general.architecture` is `architecture`, for a tokenizer.
pub fn vocabulary(gguf: GgufTokenizer, architecture: String) -> GgufVocabulary {
    GgufVocabulary {
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
        add_space_prefix: gguf.add_space_prefix,
        chat_template: gguf.chat_template,
        architecture,
    }
}

/// The file that a message about the whole checkpoint names.
fn first_file(checkpoint: &Checkpoint) -> PathBuf {
    checkpoint.source().files.first().map(|file| file.path.clone()).unwrap_or_default()
}
