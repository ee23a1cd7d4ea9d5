//! The held-out tokens of a run, when its data may be gone.

use std::path::{Path, PathBuf};

use super::{Corpus, DataError, cache::Cache};

/// Looks in a folder of token caches for the held-out split of a data set with so many tokens. The files that it was made of
/// are not needed.
///
/// # Errors
/// When the folder or the cache cannot be read, or the cache is damaged.
pub fn find_held_out(folder: &Path, train_tokens: u64, valid_tokens: u64) -> Result<Option<Corpus>, DataError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataError::io(folder)(error)),
    };
    let mut paths = Vec::<PathBuf>::new();
    for entry in entries {
        paths.push(entry.map_err(DataError::io(folder))?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Held out of the training data, whose cache lies beside it, or given by itself.
        let beside = name.strip_suffix(".valid.tokens").map(|key| folder.join(format!("{key}.train.tokens")));
        if beside.is_none() && !name.ends_with(".all.tokens") {
            continue;
        }
        let fits = |path: &Path, tokens: u64| Ok::<_, DataError>(Cache::tokens(path)? == Some(tokens));
        if fits(&path, valid_tokens)? && beside.map_or(Ok(true), |train| fits(&train, train_tokens))? {
            return Ok(Cache::reopen(&path)?.map(Corpus::new));
        }
    }
    Ok(None)
}
