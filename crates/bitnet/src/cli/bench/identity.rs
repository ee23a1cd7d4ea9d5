//! Which model it was.

use bitnet::format::{Checkpoint, FormatError};

/// [`Checkpoint::content_hash`] in hexadecimal.
///
/// # Errors
/// When a tensor cannot be read.
pub fn model_hash(checkpoint: &Checkpoint) -> Result<String, FormatError> {
    Ok(checkpoint.content_hash()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
