//! Run and embed 1.58-bit (ternary) language models.
//!
//! ```no_run
//! use bitnet::{BitNetModel, GenerationConfig};
//!
//! # fn main() -> Result<(), bitnet::Error> {
//! let model = BitNetModel::from_pretrained("microsoft/bitnet-b1.58-2B-4T-gguf")?; // or a path
//! let config = GenerationConfig { max_new_tokens: 100, temperature: 0.7, top_p: 0.9, ..Default::default() };
//! for piece in model.stream("Explain the benefits of 1.58-bit quantization:", &config)? {
//!     print!("{}", piece?.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The rooms behind this façade can be used by themselves: [`model`] for `BitLinear` and the decoder as Burn modules,
//! [`engine`] for sessions and sampling, [`format`](mod@format) for files, [`text`] for tokenizers, and, with the feature
//! `train`, [`training`].

mod cache;
mod convert;
mod embedded;
mod fetch;
mod layouts;
mod pretrained;

pub use bitnet_engine as engine;
pub use bitnet_engine::{
    Batch, Embedder, Embedding, EmbeddingOptions, EngineError as Error, FinishReason, GenerationConfig, HeadReading,
    HeadUse, LanguageModel, Message, Pooling, Prompt, Role, Score, Session, SessionOptions, Step, Timing, WindowStart,
    Windows,
};
pub use bitnet_format as format;
pub use bitnet_model as model;
pub use bitnet_text as text;
#[cfg(feature = "train")]
pub use bitnet_training as training;
pub use cache::{cache_folder, cached_weights, clear_cache};
pub use convert::{conversion, repairs};
pub use embedded::{EMBEDDED, embedded, write_embedded};
pub use fetch::{Observer, fetch};
pub use layouts::{LayoutCheck, LayoutLoss, check_layouts};
pub use pretrained::{BitNetModel, LoadOptions, Output, Stream, open};
