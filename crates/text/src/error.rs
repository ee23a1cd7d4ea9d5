//! Everything that can be wrong with a tokenizer, a template or a text, by name.

/// Why a tokenizer could not be built, a text not encoded, an id not decoded or a template not rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A part of `tokenizer.json` is missing, malformed or not supported.
    #[error("tokenizer.json: {part}: {reason}")]
    TokenizerJson {
        /// The part, as the file names it (`model`, `decoder`, `added_tokens`, ...).
        part: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// `tokenizer_config.json` asks for something that cannot be done.
    #[error("tokenizer_config.json: {reason}")]
    TokenizerConfig {
        /// What is wrong.
        reason: String,
    },
    /// A vocabulary key of a GGUF file is missing, malformed or contradicts another.
    #[error("{key}: {reason}")]
    Gguf {
        /// The metadata key, such as `tokenizer.ggml.merges`.
        key: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// `tokenizer.ggml.model` names an algorithm that this crate does not implement.
    #[error(
        "tokenizer.ggml.model {model:?} is not supported (supported: gpt2, llama); give a tokenizer.json with --tokenizer FILE"
    )]
    UnknownModel {
        /// The name in the file.
        model: String,
    },
    /// `tokenizer.ggml.pre` names a way of splitting text that this crate does not know.
    #[error(
        "tokenizer.ggml.pre {pre:?} is not known; guessing would give wrong tokens: give a tokenizer.json with --tokenizer FILE"
    )]
    UnknownPre {
        /// The name in the file.
        pre: String,
    },
    /// `tokenizer.ggml.pre` is absent and the vocabulary is not one that is known to need `llama-bpe`.
    #[error(
        "tokenizer.ggml.pre is missing; guessing would give wrong tokens: give a tokenizer.json with --tokenizer FILE"
    )]
    MissingPre,
    /// The tokenizer can produce ids for which the model has no embedding row.
    #[error("the tokenizer has token {token:?} with id {id}, but the model's vocabulary ends at {model_vocab}")]
    VocabularyTooLarge {
        /// The highest token, as it is spelled.
        token: String,
        /// Its id.
        id: u32,
        /// Number of embedding rows of the model.
        model_vocab: usize,
    },
    /// A text could not be turned into ids.
    #[error("text cannot be tokenized: {reason}")]
    Encode {
        /// What went wrong.
        reason: String,
    },
    /// An id that the tokenizer has no token for.
    #[error("token id {id} is not in the tokenizer's vocabulary (its ids end at {vocab_size})")]
    UnknownId {
        /// The id.
        id: u32,
        /// Highest known id plus one.
        vocab_size: usize,
    },
    /// The tokenizer came without a chat template.
    #[error("this model has no chat template")]
    NoChatTemplate,
    /// A chat template does not compile or does not render.
    #[error("chat template{}: {reason}", .line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Template {
        /// One-based line of the template, when it is known.
        line: Option<usize>,
        /// What is wrong or missing.
        reason: String,
    },
    /// A role that no template knows.
    #[error("unknown role {role:?} (system, user, assistant, tool)")]
    UnknownRole {
        /// The role as it was given.
        role: String,
    },
}

impl TextError {
    pub(crate) fn json(part: &'static str, reason: impl ToString) -> Self {
        Self::TokenizerJson { part, reason: reason.to_string() }
    }

    pub(crate) fn gguf(key: &'static str, reason: impl ToString) -> Self {
        Self::Gguf { key, reason: reason.to_string() }
    }

    pub(crate) fn config(reason: impl ToString) -> Self {
        Self::TokenizerConfig { reason: reason.to_string() }
    }

    pub(crate) fn encode(reason: impl ToString) -> Self {
        Self::Encode { reason: reason.to_string() }
    }
}
