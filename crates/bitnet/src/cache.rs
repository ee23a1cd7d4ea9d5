//! The folder of prepared weights.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How the names of its files end.
const SUFFIX: &str = "weights";

/// Where prepared weights are kept: `BITNET_CACHE`, else `bitnet` in the user's folder for caches (`XDG_CACHE_HOME`,
/// `~/.cache`, or `LOCALAPPDATA` on Windows). `None` where there is none of these, or `BITNET_CACHE` is empty.
pub fn cache_folder() -> Option<PathBuf> {
    folder(|name| std::env::var_os(name).map(PathBuf::from))
}

fn folder(get: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let named = |path: PathBuf| Some(path).filter(|path| !path.as_os_str().is_empty());
    if let Some(own) = get("BITNET_CACHE") {
        return named(own);
    }
    let home = || get("HOME").and_then(named).map(|home| home.join(".cache"));
    let caches = get("XDG_CACHE_HOME").and_then(named).or_else(home);
    Some(caches.or_else(|| get("LOCALAPPDATA").and_then(named))?.join("bitnet"))
}

/// The files of prepared weights in a folder, with their sizes; none where there is no such folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn cached_weights(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            files.push((path.clone(), path.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// Removes the files of prepared weights from a folder; gives how many there were, and their bytes.
///
/// # Errors
/// When the system refuses.
pub fn clear_cache(folder: &Path) -> io::Result<(usize, u64)> {
    let files = cached_weights(folder)?;
    files.iter().try_for_each(|(path, _)| fs::remove_file(path))?;
    Ok((files.len(), files.iter().map(|(_, bytes)| bytes).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_folder() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            folder(move |name| set.iter().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value)))
        };
        assert_eq!(with(&[("BITNET_CACHE", "/c"), ("HOME", "/u")]), Some(PathBuf::from("/c")));
        assert_eq!(with(&[("BITNET_CACHE", ""), ("HOME", "/u")]), None);
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/u")]), Some(PathBuf::from("/x/bitnet")));
        assert_eq!(with(&[("XDG_CACHE_HOME", ""), ("HOME", "/u")]), Some(PathBuf::from("/u/.cache/bitnet")));
        assert_eq!(with(&[("LOCALAPPDATA", "/l")]), Some(PathBuf::from("/l/bitnet")));
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn only_prepared_weights_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(cached_weights(&folder.path().join("none")).unwrap().is_empty());
        for name in ["a.weights", "b.weights", "notes.txt"] {
            fs::write(folder.path().join(name), "12345").unwrap();
        }
        assert_eq!(clear_cache(folder.path()).unwrap(), (2, 10));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
