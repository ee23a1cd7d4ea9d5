//! The one error type of this room.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_ternary::TernaryError;

/// Why a model file could not be opened, read or written.
///
/// Every variant names the file, and the key or tensor where there is one; `Display` is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused: no such file, no permission, disk full.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path does not lead to one model: an empty folder, several models, an unknown file type.
    #[error("{}: {reason}", path.display())]
    NotAModel {
        /// The path as given.
        path: PathBuf,
        /// What was looked for, what was found.
        reason: String,
    },
    /// The container itself is broken: truncated, overlapping tensors, lengths beyond the file.
    #[error("{}: damaged file: {reason}", file.display())]
    Damaged {
        /// The broken file.
        file: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A well-formed file that asks for something this project does not do.
    #[error("{}: not supported: {what}", file.display())]
    Unsupported {
        /// The file that asks.
        file: PathBuf,
        /// What it asks for, and what to use instead where there is something.
        what: String,
    },
    /// A configuration key is missing or has a value no model can have.
    #[error("{}: key `{key}` {reason}", file.display())]
    Config {
        /// `config.json`, or the GGUF file.
        file: PathBuf,
        /// The key as the file spells it.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds no tensor of this name.
    #[error("{}: there is no tensor `{tensor}`", file.display())]
    MissingTensor {
        /// The first file of the checkpoint.
        file: PathBuf,
        /// The name that was asked for.
        tensor: String,
    },
    /// A tensor has the wrong type, shape, size or scale for its use.
    #[error("{}: tensor `{tensor}` {reason}", file.display())]
    Tensor {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The name the file gives it.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's bytes are not ternary codes with usable scales.
    #[error("{}: tensor `{tensor}`: {source}", file.display())]
    Ternary {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The name the file gives it.
        tensor: String,
        /// What the codec found.
        source: TernaryError,
    },
    /// A model of the Hugging Face Hub could not be brought into the cache.
    #[cfg(feature = "hub")]
    #[error("{spec}: {reason}")]
    Hub {
        /// The model as the user named it.
        spec: String,
        /// What went wrong and what to do.
        reason: String,
    },
}

impl FormatError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn not_a_model(path: &Path, reason: impl Into<String>) -> Self {
        Self::NotAModel { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn damaged(file: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn unsupported(file: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { file: file.to_path_buf(), what: what.into() }
    }

    pub(crate) fn config(file: &Path, key: &str, reason: impl Into<String>) -> Self {
        Self::Config { file: file.to_path_buf(), key: key.to_string(), reason: reason.into() }
    }

    pub(crate) fn tensor(file: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_path_buf(), tensor: tensor.to_string(), reason: reason.into() }
    }
}
