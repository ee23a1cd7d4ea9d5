//! Why metrics cannot be written or read.

use std::io;
use std::path::{Path, PathBuf};

/// What went wrong with a metrics file, which every variant names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The operating system refused: no such file, no permission, disk full.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file has metrics of an earlier run, which a new one would destroy.
    #[error("{}: there are metrics of another run; resume it, or choose another folder", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A line that is whole, yet not what this program writes.
    #[error("{}: line {line}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl MetricsError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
