//! Which model it is.

use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::{Checkpoint, FormatError};

/// Bytes of each end of a tensor that count.
const END: usize = 4 << 10;

impl Checkpoint {
    /// SHA-256 over the name, type, shape, and first and last 4 KiB of every tensor.
    ///
    /// It tells models apart without reading a gigabyte: whatever trains or quantizes a model changes all of its tensors. It
    /// is no proof against someone who means to deceive.
    ///
    /// # Errors
    ///
    /// When a tensor cannot be read.
    pub fn content_hash(&self) -> Result<[u8; 32], FormatError> {
        let mut hash = Sha256::new();
        for tensor in self.tensors() {
            let bytes = self.bytes(&tensor.name)?;
            hash.update(format!("{} {} {:?} ", tensor.name, tensor.dtype, tensor.shape));
            hash.update(&bytes[..bytes.len().min(END)]);
            hash.update(&bytes[bytes.len().saturating_sub(END)..]);
        }
        Ok(hash.finalize().into())
    }

    /// [`Checkpoint::content_hash`] together with the sizes of the files and when they were changed last, and with how their
    /// codes are read: what was made of a checkpoint with this identity need not be made again.
    ///
    /// # Errors
    ///
    /// When a tensor cannot be read, or the system does not know a file any more.
    pub fn identity(&self) -> Result<[u8; 32], FormatError> {
        let mut hash = Sha256::new();
        hash.update(self.content_hash()?);
        for file in &self.source().files {
            let info = file.path.metadata().map_err(|e| FormatError::io(&file.path, e))?;
            let changed = info.modified().map_err(|e| FormatError::io(&file.path, e))?;
            let changed = changed.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
            hash.update(file.bytes.to_le_bytes());
            hash.update(changed.to_le_bytes());
        }
        for tensor in self.tensors() {
            hash.update(format!("{:?} {:?}", tensor.dtype, tensor.interleaved_heads));
        }
        Ok(hash.finalize().into())
    }
}
