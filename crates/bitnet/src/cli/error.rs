//! One line for the user.

use std::io;
use std::path::PathBuf;

use bitnet::Error;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The library says so.
    #[error(transparent)]
    Model(#[from] Error),
    /// Training says so.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Train(#[from] bitnet::training::TrainError),
    /// A file that the user named cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file that the user named cannot be written.
    #[error("{path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Output cannot be written, or the terminal fails.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The terminal cannot be read.
    #[error("cannot read the terminal: {0}")]
    Line(#[from] rustyline::error::ReadlineError),
    /// Arguments that do not go together, or a thing that is not there.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// Whether the reader of our output has gone away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, CliError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<bitnet::format::FormatError> for CliError {
    fn from(error: bitnet::format::FormatError) -> Self {
        CliError::Model(error.into())
    }
}

impl From<bitnet::text::TextError> for CliError {
    fn from(error: bitnet::text::TextError) -> Self {
        CliError::Model(error.into())
    }
}

impl From<bitnet::model::DeviceError> for CliError {
    fn from(error: bitnet::model::DeviceError) -> Self {
        CliError::Model(bitnet::model::ModelError::from(error).into())
    }
}
