//! The small model inside the library.

use std::path::Path;

use bitnet_format::Checkpoint;

use crate::Error;

/// The name that [`crate::open`] takes for the embedded model.
pub const EMBEDDED: &str = "embedded";

/// A 6-layer BitNet b1.58 trained on seven novels in the public domain with this project; see `assets/README.md`.
const FILES: [(&str, &[u8]); 1] = [("novels.gguf", include_bytes!("../assets/novels.gguf"))];

/// Writes the embedded model to a folder, which is made if it is not there: for what needs a path.
///
/// # Errors
/// When it cannot be written.
pub fn write_embedded(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    FILES.iter().try_for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes))
}

/// Opens the embedded model.
///
/// # Errors
/// Never, unless the library was built from damaged assets.
pub fn embedded() -> Result<Checkpoint, Error> {
    Ok(Checkpoint::from_memory(&FILES)?)
}
