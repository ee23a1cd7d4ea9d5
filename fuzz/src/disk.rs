//! Inputs as files, since that is how models come: each run writes over the last one's.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use tempfile::TempDir;

/// A folder of this process, in memory where the system has such a place.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a temporary folder can be made")
});

/// Puts these files, and only these, into the folder, and gives its path.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> PathBuf {
    let path = FOLDER.path();
    for entry in fs::read_dir(path).expect("the folder is there").flatten() {
        if !files.iter().any(|(name, _)| entry.file_name() == *name) {
            fs::remove_file(entry.path()).expect("the folder can be cleared");
        }
    }
    for (name, bytes) in files {
        fs::write(path.join(name), bytes).expect("there is room for the input");
    }
    path.to_path_buf()
}
