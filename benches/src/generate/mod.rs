//! Model files of real shapes with random weights.
//!
//! What a model costs to open, to hold and to run depends on its shape and its format, not on what it has learned. So a
//! benchmark need not download one: [`write_model`] makes a file that has every tensor, key and token of a real one, and whose
//! activations and logits stay in a sane range.
//!
//! A model is a function of its shape, its vocabulary and a seed. Formats and embedding types are only different
//! storages of it: all its numbers are chosen such that each of them holds them exactly.

mod error;
mod gguf;
mod hugging_face;
mod model;
mod shape;
mod tokenizer_json;
mod vocabulary;

use std::path::Path;

use bitnet_ternary::Packing;

pub use error::GenerateError;
pub use model::{FloatType, RandomModel, Role, Tensor};
pub use shape::{RMS_NORM_EPS, ROPE_THETA, Shape};
pub use vocabulary::Vocabulary;

/// How a model is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A GGUF file with linears as bitnet.cpp stores them, which is how 2B-4T is published.
    #[value(name = "i2_s")]
    I2s,
    /// A GGUF file with linears as llama.cpp stores them.
    #[value(name = "tq2_0")]
    Tq2_0,
    /// A folder as Hugging Face transformers writes it, with linears packed into bytes.
    #[value(name = "hf-packed")]
    HfPacked,
}

impl Format {
    /// The embedding type that published files of this format have.
    pub fn usual_embedding(self) -> FloatType {
        match self {
            Self::I2s | Self::Tq2_0 => FloatType::F16,
            Self::HfPacked => FloatType::Bf16,
        }
    }
}

/// Writes a model to `path`: a file, or for [`Format::HfPacked`] a folder.
///
/// `progress` is told, again and again, how many weights have been written since the last time; they sum up to
/// [`RandomModel::parameters`]. What is written takes its name when it is complete. Memory stays within the vocabulary
/// and one linear.
///
/// # Errors
/// When there is something at `path` already and `overwrite` is false, when it is of another kind than what is written (a
/// folder must hold the files of such a model and nothing else), when a GGUF file's name does not end in `.gguf`, or when
/// writing fails.
pub fn write_model(
    model: &RandomModel,
    format: Format,
    embedding: FloatType,
    path: &Path,
    overwrite: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), GenerateError> {
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(GenerateError::Exists { path: path.to_path_buf() });
    }
    match format {
        Format::I2s => gguf::write(model, Packing::I2S, embedding, path, overwrite, progress),
        Format::Tq2_0 => gguf::write(model, Packing::Tq2_0, embedding, path, overwrite, progress),
        Format::HfPacked => hugging_face::write(model, embedding, path, overwrite, progress),
    }
}
