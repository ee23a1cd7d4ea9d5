//! Words and token ids.
//!
//! A [`Tokenizer`] is built from a Hugging Face `tokenizer.json` ([`HfTokenizer`]) or from the vocabulary inside a
//! GGUF file ([`GgufVocabulary`]); both give the same ids for the same model. Beside it:
//!
//! - [`ChatTemplate`] turns a list of [`Message`]s into the prompt text that a model was tuned on,
//! - [`NewTokenizer`] makes a vocabulary: of bytes, or of merges learned from texts,
//! - [`Detokenizer`] turns generated ids into text piece by piece and never emits half a character,
//! - [`StopStrings`] finds stop strings that span several pieces.
//!
//! Inputs are plain bytes and plain data: this crate opens no files and knows nothing of tensors.
//!
//! ```
//! # fn main() -> Result<(), bitnet_text::TextError> {
//! use bitnet_text::{GgufVocabulary, Tokenizer};
//!
//! let tokenizer = Tokenizer::from_gguf(GgufVocabulary {
//!     model: "gpt2".into(),
//!     pre: Some("gpt-2".into()),
//!     tokens: ["h", "i", "hi", "Ġ", "Ġhi"].map(String::from).to_vec(),
//!     merges: ["h i", "Ġ hi"].map(String::from).to_vec(),
//!     ..GgufVocabulary::default()
//! })?;
//! assert_eq!(tokenizer.encode("hi hi", false)?, [2, 4]);
//! assert_eq!(tokenizer.decode(&[2, 4], true)?, "hi hi");
//! # Ok(())
//! # }
//! ```

mod bpe;
mod chat;
mod detokenizer;
mod error;
mod frame;
mod gguf;
mod gguf_to_hf;
mod hf;
mod jinja;
mod make;
mod model;
mod pieces_to_hf;
mod pre;
mod repair;
mod sentencepiece;
mod special;
mod spelling;
mod split;
mod stop_strings;
mod tokenizer;

pub use chat::{ChatTemplate, Message, Role, TemplateOrigin};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use gguf::GgufVocabulary;
pub use gguf_to_hf::HfFiles;
pub use hf::HfTokenizer;
pub use make::{END_OF_TEXT, MakeError, MakeProgress, NewTokenizer, TURN_END, TURN_START};
pub use repair::VocabularyRepairs;
pub use stop_strings::{StopPush, StopStrings};
pub use tokenizer::Tokenizer;
