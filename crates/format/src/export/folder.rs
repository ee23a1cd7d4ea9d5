//! Folders that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::FormatError;
use crate::atomic::{parent, refuse_existing};

/// A folder in the making: a temporary one beside the target, whose place it takes in the end.
///
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Staging<'a> {
    target: &'a Path,
    overwrite: bool,
    files: &'a [&'a str],
    /// Holds the new folder and, for a moment, the old one. What is in it at the end is removed.
    workshop: TempDir,
}

impl<'a> Staging<'a> {
    /// Begins a folder that will hold some or all of `files`.
    ///
    /// # Errors
    ///
    /// When `target` exists and `overwrite` is false, or is no folder, or holds anything but `files`: replacing it would
    /// remove what somebody else put there.
    pub(crate) fn begin(target: &'a Path, overwrite: bool, files: &'a [&'a str]) -> Result<Self, FormatError> {
        refuse_existing(target, overwrite)?;
        refuse_foreign(target, files)?;
        let wrap = |error| FormatError::io(target, error);
        let workshop = tempfile::Builder::new().prefix(".model-").tempdir_in(parent(target)).map_err(wrap)?;
        let staging = Self { target, overwrite, files, workshop };
        // Made by the ordinary way, so with ordinary permissions: those of a temporary folder are private.
        fs::create_dir(staging.new_folder()).map_err(wrap)?;
        Ok(staging)
    }

    fn new_folder(&self) -> PathBuf {
        self.workshop.path().join("new")
    }

    /// Where a file of the folder is to be written.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.new_folder().join(name)
    }

    /// An error with the place in the target instead of the temporary one.
    pub(crate) fn placed(&self, mut error: FormatError) -> FormatError {
        if let FormatError::Io { path, .. } | FormatError::Tensor { file: path, .. } = &mut error
            && let Ok(name) = path.strip_prefix(self.new_folder())
        {
            *path = self.target.join(name);
        }
        error
    }

    /// Writes a small file.
    ///
    /// # Errors
    ///
    /// When writing fails; the error names the place in the target.
    pub(crate) fn write(&self, name: &str, data: &[u8]) -> Result<(), FormatError> {
        let write = || -> io::Result<()> {
            let path = self.path(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::create_new(path)?;
            file.write_all(data)?;
            file.sync_all()
        };
        write().map_err(|error| FormatError::io(&self.target.join(name), error))
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    ///
    /// When something has come to be there meanwhile (without `overwrite`), or the system refuses. What was there before is
    /// there again then.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        let wrap = |error| FormatError::io(self.target, error);
        refuse_existing(self.target, self.overwrite)?;
        let old = self.workshop.path().join("old");
        let replaces = self.target.symlink_metadata().is_ok();
        if replaces {
            refuse_foreign(self.target, self.files)?;
            fs::rename(self.target, &old).map_err(wrap)?;
        }
        fs::rename(self.new_folder(), self.target).map_err(|error| {
            if replaces {
                // Nothing better can be done if this fails too.
                let _ = fs::rename(&old, self.target);
            }
            wrap(error)
        })
    }
}

fn refuse_foreign(target: &Path, files: &[&str]) -> Result<(), FormatError> {
    let Ok(info) = target.symlink_metadata() else {
        return Ok(());
    };
    let wrap = |error| FormatError::io(target, error);
    if !info.is_dir() {
        return Err(wrap(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    match foreign(target, Path::new(""), files).map_err(wrap)? {
        Some(name) => {
            let what = format!("replacing a folder that holds {}, which no exported model does", name.display());
            Err(FormatError::unsupported(target, what))
        }
        None => Ok(()),
    }
}

/// Something in the folder `inner` of `target` that is none of `files`.
fn foreign(target: &Path, inner: &Path, files: &[&str]) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(target.join(inner))? {
        let entry = entry?;
        let name = inner.join(entry.file_name());
        if files.iter().any(|file| Path::new(file) == name) {
            continue;
        }
        let leads_to_files = files.iter().any(|file| Path::new(file).starts_with(&name));
        let found =
            if leads_to_files && entry.file_type()?.is_dir() { foreign(target, &name, files)? } else { Some(name) };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_when_it_is_whole_and_replaces_only_its_like() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        let files = ["a", "b"];
        let staging = Staging::begin(&target, false, &files).unwrap();
        staging.write("a", b"1").unwrap();
        assert!(!target.exists());
        let error = staging.placed(FormatError::tensor(&staging.path("b"), "t", "is bad"));
        assert_eq!(error.to_string(), format!("{}: tensor `t` is bad", target.join("b").display()));
        drop(staging);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "an abandoned folder leaves nothing");

        let staging = Staging::begin(&target, false, &files).unwrap();
        staging.write("a", b"1").unwrap();
        staging.finish().unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"1");
        assert!(Staging::begin(&target, false, &files).is_err());

        let staging = Staging::begin(&target, true, &files).unwrap();
        staging.write("b", b"2").unwrap();
        staging.finish().unwrap();
        assert!(!target.join("a").exists() && target.join("b").exists());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);

        let nested = ["b", "c/d"];
        let staging = Staging::begin(&target, true, &nested).unwrap();
        staging.write("c/d", b"3").unwrap();
        staging.finish().unwrap();
        assert!(!target.join("b").exists() && target.join("c/d").exists());
        fs::write(target.join("c/e"), b"mine").unwrap();
        let error = Staging::begin(&target, true, &nested).map(drop).unwrap_err().to_string();
        assert!(error.contains("c/e"), "{error}");
        fs::remove_dir_all(target.join("c")).unwrap();

        fs::write(target.join("diary"), b"dear").unwrap();
        let error = Staging::begin(&target, true, &files).map(drop).unwrap_err().to_string();
        assert!(error.contains("diary"), "{error}");
        fs::write(place.path().join("file"), b"").unwrap();
        assert!(Staging::begin(&place.path().join("file"), true, &files).is_err());
    }

    #[test]
    fn what_appears_meanwhile_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        let staging = Staging::begin(&target, false, &["a"]).unwrap();
        fs::write(&target, b"mine").unwrap();
        assert!(staging.finish().is_err());
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    }
}
