//! Models by name from the Hugging Face Hub, kept in the cache that every Hugging Face tool shares.
//!
//! [`resolve`] turns `org/name[@revision][:file]` into a path that [`open`](crate::open) takes. What is in the cache
//! already is not fetched again, and a download that broke off goes on where it stopped.

mod choose;
mod download;
mod failure;
mod options;
mod spec;

use std::path::PathBuf;

pub use options::{Event, HubOptions};
pub use spec::Spec;

use crate::{FormatError, safetensors};
use choose::Weights;
use download::Repository;

/// Brings the model `spec` (`org/name[@revision][:file]`) into the cache and gives the path to open.
///
/// A repository with `config.json` and safetensors gives those, its tokenizer fetched beside them; any other gives its
/// one `.gguf`. `:file` picks one of several.
///
/// With [`HubOptions::offline`] the cached copy is taken. It is also taken when the hub cannot be reached, and an
/// [`Event::Note`] says so.
///
/// # Errors
///
/// When `spec` is malformed; there is no such model, revision or file; it may not be read with this token, or without one;
/// there are several models and none was picked; the hub cannot be reached and the cache does not have the file. The
/// error is one line that says what to do.
pub fn resolve(spec: &str, options: &HubOptions<'_>) -> Result<PathBuf, FormatError> {
    let spec: Spec = spec.parse()?;
    let repository = Repository::new(&spec, options)?;
    let listing = repository.listing()?;
    let choice = choose::choose(&listing.files, spec.file.as_deref()).map_err(|reason| spec.error(reason))?;
    for file in &choice.beside {
        repository.fetch(file, &listing)?;
    }
    match choice.weights {
        Weights::Safetensors(file) => repository.fetch(&file, &listing),
        Weights::Index(file) => {
            let index = repository.fetch(&file, &listing)?;
            let text = std::fs::read(&index).map_err(|e| FormatError::io(&index, e))?;
            for shard in safetensors::shard_names(&index, &text)? {
                repository.fetch(&shard, &listing)?;
            }
            Ok(index)
        }
        Weights::Gguf { first, others } => {
            for file in &others {
                repository.fetch(file, &listing)?;
            }
            repository.fetch(&first, &listing)
        }
    }
}
