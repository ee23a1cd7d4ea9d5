//! The small model inside the library.

use std::path::Path;

use bitnet_format::Checkpoint;

use crate::Error;

/// The name that [`crate::open`] takes for the embedded model.
pub const EMBEDDED: &str = "embedded";

/// The files of a 4-layer BitNet b1.58 trained on *Moby Dick* (CC0 text) with Hugging Face transformers, packed; see
/// `assets/README.md`.
const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../assets/moby/config.json")),
    ("model.safetensors", include_bytes!("../assets/moby/model.safetensors")),
    ("tokenizer.json", include_bytes!("../assets/moby/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/moby/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../assets/moby/chat_template.jinja")),
];

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
