//! Which model it was.

use bitnet::format::{Checkpoint, FormatError};
use sha2::{Digest, Sha256};

/// Bytes of each end of a tensor that count.
const END: usize = 4 << 10;

/// SHA-256 over the name, type, shape, and first and last 4 KiB of every tensor, in hexadecimal.
///
/// It tells models apart without reading a gigabyte: whatever trains or quantizes a model changes all of its tensors. It
/// is no proof against someone who means to deceive.
///
/// # Errors
/// When a tensor cannot be read.
pub fn model_hash(checkpoint: &Checkpoint) -> Result<String, FormatError> {
    let mut hash = Sha256::new();
    for tensor in checkpoint.tensors() {
        let bytes = checkpoint.bytes(&tensor.name)?;
        hash.update(format!("{} {} {:?} ", tensor.name, tensor.dtype, tensor.shape));
        hash.update(&bytes[..bytes.len().min(END)]);
        hash.update(&bytes[bytes.len().saturating_sub(END)..]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
