//! From logits to text.
//!
//! A [`LanguageModel`] is a model with its tokenizer. A [`Session`] is one text with its KV cache: [`Session::generate`]
//! continues it as an iterator of [`Step`]s; a [`Batch`] continues several texts, all with each step of the model. [`score`] says how probable a model finds a text, and an [`Embedder`] makes vectors
//! of texts.

mod batch;
mod config;
mod embed;
mod error;
mod generate;
mod language_model;
mod sampler;
mod score;
mod session;
mod writer;

pub use batch::Batch;
pub use bitnet_format::{self as format, Checkpoint, I2sLayout, OpenOptions, Pooling};
pub use bitnet_model::{self as model, CacheFormat, KvCache, Transformer};
pub use bitnet_text::{self as text, ChatTemplate, Message, Role, Tokenizer};
pub use config::GenerationConfig;
pub use embed::{Embedder, Embedding, EmbeddingOptions, Prompt};
pub use error::EngineError;
pub use generate::{Generation, HeadUse, Timing};
pub use language_model::{LanguageModel, tokenizer_of, vocabulary};
pub use sampler::Sampler;
pub use score::{Score, WindowStart, Windows, log_probabilities, score};
pub use session::{HeadReading, Session, SessionOptions, UnknownHeadReading};
pub use writer::{FinishReason, Step};
