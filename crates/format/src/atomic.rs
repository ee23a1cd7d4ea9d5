//! Files that appear whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::FormatError;

/// The folder that a path's last part lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses a path where there is something already, unless that may be replaced.
pub(crate) fn refuse_existing(path: &Path, overwrite: bool) -> Result<(), FormatError> {
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(FormatError::io(path, io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    Ok(())
}

/// Where a file will be once it is whole.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    path: PathBuf,
    overwrite: bool,
}

impl Target {
    /// Opens a temporary file beside `path`, which is removed when it is dropped. Its name begins and ends as said.
    ///
    /// # Errors
    ///
    /// When `path` exists and `overwrite` is false, or its folder cannot be written to.
    pub(crate) fn begin(
        path: &Path,
        overwrite: bool,
        prefix: &str,
        suffix: &str,
    ) -> Result<(Self, NamedTempFile), FormatError> {
        refuse_existing(path, overwrite)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Like any other new file: the umask takes its share. A temporary file is private by default.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file =
            builder.prefix(prefix).suffix(suffix).tempfile_in(parent(path)).map_err(|e| FormatError::io(path, e))?;
        Ok((Self { path: path.to_path_buf(), overwrite }, file))
    }

    /// The path that errors name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings a file to disk and gives it its name.
    ///
    /// # Errors
    ///
    /// When the name has been taken meanwhile (without `overwrite`), or the system refuses.
    pub(crate) fn commit(self, file: NamedTempFile) -> Result<(), FormatError> {
        let wrap = |error| FormatError::io(&self.path, error);
        file.as_file().sync_all().map_err(wrap)?;
        let named = if self.overwrite { file.persist(&self.path) } else { file.persist_noclobber(&self.path) };
        named.map(|_| ()).map_err(|e| wrap(e.error))
    }
}
