//! Why a model could not be written.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_format::FormatError;
use bitnet_ternary::TernaryError;
use safetensors::SafeTensorError;

/// Why a model could not be written. `Display` is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// There is something at the target, and it was not to be replaced.
    #[error("{} exists already; --overwrite replaces it", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target is something that this program would not have written.
    #[error("{} is not replaced: {reason}", path.display())]
    NotAModel {
        /// The target.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// The target's name is not one that a reader takes for a GGUF file.
    #[error("{}: the name of a GGUF file has to end in .gguf", path.display())]
    Name {
        /// The target.
        path: PathBuf,
    },
    /// Something that only GGUF files have was asked of a Hugging Face folder.
    #[error("a Hugging Face folder cannot have {what}")]
    NotInFolder {
        /// What was asked for.
        what: &'static str,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The GGUF writer refused.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A linear's shape cannot be packed.
    #[error("tensor `{tensor}`: {source}")]
    Ternary {
        /// The linear.
        tensor: String,
        /// What the codec says.
        source: TernaryError,
    },
    /// The tensors do not make a safetensors header.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: SafeTensorError,
    },
}

impl GenerateError {
    pub(super) fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_path_buf(), source: source.into() }
    }

    pub(super) fn ternary(tensor: &str, source: TernaryError) -> Self {
        Self::Ternary { tensor: tensor.to_string(), source }
    }
}
