//! From files to batches.
//!
//! ```text
//! .txt .md .jsonl .parquet ─ Source ─▶ documents ─ held-out split ─ tokenizer ─▶ Corpus (a mapped file, one per split)
//! Corpus ─ Order (seed, step) ─▶ Batch          Corpus ─ Blocks (in order) ─▶ Batch          .jsonl ─ pairs ─▶ Pair
//! ```
//!
//! What is predicted: every token of a document but its first, given the tokens of the same document before it. These
//! are the *targets*; a corpus of `n` tokens in `d` documents has `n - d` of them. A document ends with the
//! tokenizer's end-of-text token, if there is one, and that token is a target like any other.

mod batch;
mod cache;
mod chat;
mod corpus;
mod document;
#[cfg(feature = "burn")]
mod each;
mod error;
mod formats;
mod found;
mod order;
mod pairs;
mod permutation;
mod preference;
mod prepare;
mod source;
mod split;
mod tokenize;
mod whole;

pub use batch::Batch;
pub use corpus::Corpus;
pub use document::{At, Place};
#[cfg(feature = "burn")]
pub(crate) use each::each_document;
pub use error::DataError;
pub use found::find_held_out;
pub use order::{Blocks, Order};
pub use pairs::{Pair, Sequence, read_pairs};
pub use preference::prepare_pairs;
pub use prepare::{Dataset, Origin, Prepare, Progress};
pub use source::Source;
pub use whole::{EachDocument, WholeDocuments};
