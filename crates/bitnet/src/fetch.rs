//! From the name of a model to its path on this machine.

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use bitnet_format::FormatError;
#[cfg(feature = "hub")]
use bitnet_format::hub::{self, Event, HubOptions};

use crate::Error;

/// Who is told of the progress of a download. Without the `hub` feature nothing is ever told.
#[cfg(feature = "hub")]
pub type Observer<'a> = &'a dyn Fn(Event<'_>);
/// Who is told of the progress of a download. Without the `hub` feature nothing is ever told.
#[cfg(not(feature = "hub"))]
pub type Observer<'a> = &'a dyn Fn(std::convert::Infallible);

/// The path of a model: `spec` itself when it is one, else that of `org/name[@revision][:file]`, which is downloaded from
/// the Hugging Face Hub unless the cache has it. With `offline` only the cache is asked.
///
/// # Errors
/// When there is neither such a file nor such a repository, or it cannot be downloaded.
pub fn fetch(spec: &str, offline: bool, observer: Option<Observer<'_>>) -> Result<PathBuf, Error> {
    if spec.is_empty() {
        return Err(not_found("(an empty name)", "no such file or folder"));
    }
    let path = Path::new(spec);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if !is_hub_name(spec) {
        return Err(not_found(spec, "no such file or folder"));
    }
    download(spec, offline, observer)
}

#[cfg(feature = "hub")]
fn download(spec: &str, offline: bool, observer: Option<Observer<'_>>) -> Result<PathBuf, Error> {
    let mut options = HubOptions::from_env()?;
    options.offline |= offline;
    options.observer = observer;
    Ok(hub::resolve(spec, &options)?)
}

#[cfg(not(feature = "hub"))]
fn download(spec: &str, _: bool, _: Option<Observer<'_>>) -> Result<PathBuf, Error> {
    let reason = "no such file, and this program was built without the `hub` feature, which downloads models";
    Err(not_found(spec, reason))
}

fn not_found(spec: &str, reason: &'static str) -> Error {
    FormatError::Io { path: spec.into(), source: IoError::new(ErrorKind::NotFound, reason) }.into()
}

/// `org/name`, which no path of ours looks like: not absolute, not deeper, not with the ending of a model file.
fn is_hub_name(spec: &str) -> bool {
    let name = spec.split(['@', ':']).next().unwrap_or(spec);
    let is_file = [".gguf", ".safetensors", ".json", ".bpk"].iter().any(|ending| name.ends_with(ending));
    !is_file && !name.starts_with(['/', '.', '~']) && name.split('/').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        for name in ["org/name", "org/name@main", "org/name:model.gguf", "org/name@refs/pr/1:sub/model.gguf"] {
            assert!(is_hub_name(name), "{name}");
        }
        for path in ["model.gguf", "models/a.gguf", "./org/name", "/org/name", "a/b/c", "~/model", "name"] {
            assert!(!is_hub_name(path), "{path}");
        }
        let error = fetch("models/absent.gguf", true, None).unwrap_err().to_string();
        assert!(error.contains("models/absent.gguf") && error.contains("no such file"), "{error}");
    }
}
