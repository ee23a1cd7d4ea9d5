//! A model that is complete and has not got its name yet.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::folder::Staging;
use crate::FormatError;
use crate::atomic::Target;

/// A complete model under a temporary name, beside the place where it belongs. It can be opened and looked at;
/// [`publish`](Self::publish) gives it its name, and dropping it removes it.
#[derive(Debug)]
pub struct Draft<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    File(Target, NamedTempFile),
    Folder(Staging<'a>, PathBuf),
}

impl<'a> Draft<'a> {
    pub(crate) fn file((target, file): (Target, NamedTempFile)) -> Self {
        Self(Kind::File(target, file))
    }

    pub(super) fn folder(staging: Staging<'a>) -> Self {
        let place = staging.path("");
        Self(Kind::Folder(staging, place))
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Kind::File(_, file) => file.path(),
            Kind::Folder(_, place) => place,
        }
    }

    /// Brings it to disk, which may as well be done while it is looked at. Files of a folder are there already.
    ///
    /// # Errors
    ///
    /// When the system fails to.
    pub fn sync(&self) -> Result<(), FormatError> {
        match &self.0 {
            Kind::File(target, file) => {
                file.as_file().sync_all().map_err(|error| FormatError::io(target.path(), error))
            }
            Kind::Folder(..) => Ok(()),
        }
    }

    /// Brings it to disk and gives it its name.
    ///
    /// # Errors
    ///
    /// When the name has been taken meanwhile (without `overwrite`), or the system refuses; what was there is there still.
    pub fn publish(self) -> Result<(), FormatError> {
        match self.0 {
            Kind::File(target, file) => target.commit(file),
            Kind::Folder(staging, _) => staging.finish(),
        }
    }
}
