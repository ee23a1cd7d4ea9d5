//! What can go wrong between a prompt and its continuation.

use std::path::PathBuf;

use bitnet_format::FormatError;
use bitnet_model::ModelError;
use bitnet_text::TextError;

/// Why a text cannot be continued, scored or made a vector.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A text cannot be turned into tokens or back, or a conversation into a prompt.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The tokenizer does not work, or does not belong to the model.
    #[error("{}: {source}", origin.display())]
    Tokenizer {
        /// The file that it came from.
        origin: PathBuf,
        /// What is wrong with it.
        source: TextError,
    },
    /// The checkpoint has no tokenizer.
    #[error("{}: no tokenizer: give a tokenizer.json", .0.display())]
    NoTokenizer(PathBuf),
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for a reply.
    #[error("the prompt has {tokens} tokens, the context is {limit}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A batch has no place for another text.
    #[error("all {0} places of the batch are taken")]
    BatchFull(usize),
    /// A setting that makes no sense.
    #[error("{name}: {value} is not {expected}")]
    Setting {
        /// Name of the field.
        name: &'static str,
        /// What it was.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The text is too short for a single window.
    #[error("the text has {tokens} tokens, one window needs {needed}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        needed: usize,
    },
    /// The model does not say how it would make a vector of a text, or in a way that this project does not do.
    #[error("not a model for embeddings: {0}")]
    NoEmbedding(String),
    /// The checkpoint has no prompt of this name.
    #[error("the model has no prompt named {name:?} (known: {})", .known.join(", "))]
    UnknownPrompt {
        /// The name.
        name: String,
        /// Names that it has.
        known: Vec<String>,
    },
    /// A text that no token stands for has no vector.
    #[error("text {index} is empty")]
    EmptyText {
        /// Its place among the texts, from 0.
        index: usize,
    },
    /// A text is longer than the model's context.
    #[error("text {index} has {tokens} tokens, the context is {limit}")]
    LongText {
        /// Its place among the texts, from 0.
        index: usize,
        /// Its tokens.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// The model gave NaN or an infinite number.
    #[error("the model gave no usable vector for text {index}")]
    BadVector {
        /// Its place among the texts, from 0.
        index: usize,
    },
    /// The model gave NaN or nothing but `-inf`.
    #[error("the model gave no usable logits at position {position}")]
    BadLogits {
        /// Position of the token that they follow.
        position: usize,
    },
}
