//! Model files of real shapes with random weights.
//!
//! What a model costs to open, to hold and to run depends on its shape and its format, not on what it has learned. So a
//! benchmark need not download one: [`write_model`] makes a file that has every tensor, key and token of a real one, and whose
//! activations and logits stay in a sane range.
//!
//! A model is a function of its shape, its vocabulary and a seed. Formats and embedding types are only different
//! storages of it: all its numbers are chosen such that each of them holds them exactly, but for Q6_K, which rounds.

mod error;
mod gguf;
mod hugging_face;
mod model;
mod shape;
mod storage;
mod tokenizer_json;
mod vocabulary;

use std::path::Path;

pub use error::GenerateError;
pub use model::{RandomModel, Role, Tensor};
pub use shape::{RMS_NORM_EPS, ROPE_THETA, Shape};
pub use storage::{Architecture, Embedding, Format, Storage};
pub use vocabulary::Vocabulary;

/// Writes a model to `path`: a file, or for [`Format::HfPacked`] and [`Format::HfMaster`] a folder.
///
/// `progress` is told, again and again, how many weights have been written since the last time; they sum up to
/// [`RandomModel::parameters`]. What is written takes its name when it is complete. Memory stays within the vocabulary
/// and one linear.
///
/// # Errors
/// When there is something at `path` already and `overwrite` is false, when it is of another kind than what is written (a
/// folder must hold the files of such a model and nothing else), when a GGUF file's name does not end in `.gguf`, when
/// a folder is to have what only GGUF files have, or when writing fails.
pub fn write_model(
    model: &RandomModel,
    storage: Storage,
    path: &Path,
    overwrite: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), GenerateError> {
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(GenerateError::Exists { path: path.to_path_buf() });
    }
    match storage.format.gguf() {
        Some((packing, file_type)) => {
            gguf::File { model, packing, file_type, storage }.write(path, overwrite, progress)
        }
        None => hugging_face::write(model, storage, path, overwrite, progress),
    }
}
