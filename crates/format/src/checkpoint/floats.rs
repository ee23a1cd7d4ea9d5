//! Tensors as f32.

use std::ops::Range;
use std::path::Path;

use bitnet_ternary::zeroed;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::Checkpoint;
use crate::blob::Blob;
use crate::tensor_info::stored_row;
use crate::{FormatError, StorageType, TensorInfo};

impl Checkpoint {
    /// A whole tensor as f32, row-major in its shape, block formats and ternary packings dequantized, rows in Hugging Face
    /// order.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, it holds integers, or its ternary codes are bad.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, FormatError> {
        let info = self.need(name)?;
        self.check_float(info)?;
        if let StorageType::Ternary(_) = info.dtype {
            return Ok(self.decode_ternary(info)?.to_f32());
        }
        let (rows, _) = info.rows_cols();
        let mut out = zeroed(info.elements());
        self.plain_rows(info, 0..rows, &mut out)?;
        Ok(out)
    }

    /// Some rows of a tensor as f32, so that a large embedding need not be held whole: `out` is `[rows.len(), cols]`.
    ///
    /// A ternary tensor is decoded whole for each call.
    ///
    /// # Errors
    ///
    /// As [`floats`](Self::floats), and when `rows` or `out` do not fit the tensor.
    pub fn float_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), FormatError> {
        let info = self.need(name)?;
        self.check_float(info)?;
        let (all, cols) = info.rows_cols();
        if rows.start > rows.end || rows.end > all || rows.len().checked_mul(cols) != Some(out.len()) {
            let reason = format!("has shape {:?}: rows {rows:?} do not fill a buffer of {}", info.shape, out.len());
            return Err(self.refuse(info, reason));
        }
        if let StorageType::Ternary(_) = info.dtype {
            let floats = self.decode_ternary(info)?.to_f32();
            out.copy_from_slice(&floats[rows.start * cols..rows.end * cols]);
            return Ok(());
        }
        self.plain_rows(info, rows, out)
    }

    fn check_float(&self, info: &TensorInfo) -> Result<(), FormatError> {
        if info.dtype.is_readable_as_float() {
            return Ok(());
        }
        Err(self.refuse(info, format!("is stored as {}, where floats are needed", info.dtype)))
    }

    /// The rows of a float tensor as something that reads them when asked, on any thread and without this checkpoint.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, or it is not of plain floats or blocks of them.
    pub fn float_reader(&self, name: &str) -> Result<FloatReader, FormatError> {
        let info = self.need(name)?;
        self.check_float(info)?;
        if let StorageType::Ternary(_) = info.dtype {
            return Err(self.refuse(info, format!("is stored as {}, which is decoded whole", info.dtype)));
        }
        Ok(FloatReader { blob: self.files[info.file].clone(), info: info.clone() })
    }

    /// Every `step`-th of a tensor's numbers as the file has them; `None` for a type of blocks.
    pub(super) fn sample(&self, info: &TensorInfo, step: usize) -> Option<Vec<f32>> {
        let plain = [StorageType::F32, StorageType::F16, StorageType::BF16, StorageType::F64];
        let bytes = self.stored_bytes(info);
        let size = bytes.len().checked_div(info.elements()).filter(|_| plain.contains(&info.dtype))?;
        let mut values = vec![0.0; info.elements().div_ceil(step)];
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(size).step_by(step)) {
            dequantize(info.dtype, bytes, std::slice::from_mut(value)).ok()?;
        }
        Some(values)
    }

    /// Rows of a plain or block type, which `out` is sized for.
    pub(super) fn plain_rows(&self, info: &TensorInfo, rows: Range<usize>, out: &mut [f32]) -> Result<(), FormatError> {
        read_rows(self.path_of(info), info, self.stored_bytes(info), rows, out)
    }
}

/// A float tensor in its file, read a few rows at a time: for what is too large to hold as f32.
#[derive(Debug, Clone)]
pub struct FloatReader {
    blob: Blob,
    info: TensorInfo,
}

impl FloatReader {
    /// Number of rows and of columns; every dimension but the last counts as rows.
    pub fn rows_cols(&self) -> (usize, usize) {
        self.info.rows_cols()
    }

    /// How the file stores it.
    pub fn dtype(&self) -> StorageType {
        self.info.dtype
    }

    /// Reads some rows as f32: `out` is `[rows.len(), cols]`, rows in Hugging Face order.
    ///
    /// # Errors
    ///
    /// When `rows` or `out` do not fit the tensor.
    pub fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), FormatError> {
        let (all, cols) = self.info.rows_cols();
        if rows.start > rows.end || rows.end > all || rows.len().checked_mul(cols) != Some(out.len()) {
            let reason =
                format!("has shape {:?}: rows {rows:?} do not fill a buffer of {}", self.info.shape, out.len());
            return Err(FormatError::tensor(self.blob.path(), &self.info.stored_name, reason));
        }
        let offset = self.info.offset as usize;
        let bytes = &self.blob.bytes()[offset..offset + self.info.bytes as usize];
        read_rows(self.blob.path(), &self.info, bytes, rows, out)
    }

    /// The stored bytes of some rows, where the file has them in this order.
    pub(crate) fn stored(&self, rows: Range<usize>) -> Option<&[u8]> {
        let (all, _) = self.info.rows_cols();
        if self.info.interleaved_heads.is_some() || rows.end > all {
            return None;
        }
        let (offset, row_bytes) = (self.info.offset as usize, self.info.bytes as usize / all.max(1));
        self.blob.bytes().get(offset + rows.start * row_bytes..offset + rows.end * row_bytes)
    }

    /// Tells the system that the pages of these rows are not needed any more, where the rows are in the file's order.
    pub fn release(&self, rows: Range<usize>) {
        let (all, _) = self.info.rows_cols();
        if self.info.interleaved_heads.is_none() && rows.end <= all {
            let (offset, row_bytes) = (self.info.offset as usize, self.info.bytes as usize / all.max(1));
            self.blob.release(offset + rows.start * row_bytes..offset + rows.end * row_bytes);
        }
    }
}

/// Decodes rows of a plain or block type from the tensor's bytes.
fn read_rows(
    file: &Path,
    info: &TensorInfo,
    bytes: &[u8],
    rows: Range<usize>,
    out: &mut [f32],
) -> Result<(), FormatError> {
    let (all, cols) = info.rows_cols();
    if out.is_empty() {
        return Ok(());
    }
    let row_bytes = bytes.len() / all;
    let decode = |bytes: &[u8], out: &mut [f32]| {
        dequantize(info.dtype, bytes, out).map_err(|reason| FormatError::tensor(file, &info.stored_name, reason))
    };
    let Some(heads) = info.interleaved_heads else {
        return decode(&bytes[rows.start * row_bytes..rows.end * row_bytes], out);
    };
    for (row, out) in rows.zip(out.chunks_exact_mut(cols)) {
        decode(&bytes[stored_row(row, all, heads) * row_bytes..][..row_bytes], out)?;
    }
    Ok(())
}

/// Decodes whole rows of a plain or block type.
pub(crate) fn dequantize(dtype: StorageType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    match dtype {
        StorageType::F32 => {
            for (y, x) in out.iter_mut().zip(bytes.as_chunks().0) {
                *y = f32::from_le_bytes(*x);
            }
        }
        StorageType::F64 => {
            for (y, x) in out.iter_mut().zip(bytes.as_chunks().0) {
                *y = f64::from_le_bytes(*x) as f32;
            }
        }
        StorageType::F16 => halves(bytes, out),
        // The upper half of an f32.
        StorageType::BF16 => {
            for (y, x) in out.iter_mut().zip(bytes.as_chunks().0) {
                *y = f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
            }
        }
        other => match other.block_format() {
            Some(block) => block.dequantize_row(bytes, out).map_err(|e| e.to_string())?,
            None => return Err(format!("is stored as {other}, where floats are needed")),
        },
    }
    Ok(())
}

/// Converts through a small aligned buffer: file bytes may lie at odd addresses, and whole slices convert fastest.
fn halves(bytes: &[u8], out: &mut [f32]) {
    const CHUNK: usize = 256;
    let mut buffer = [f16::ZERO; CHUNK];
    for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
        let buffer = &mut buffer[..out.len()];
        for (value, bytes) in buffer.iter_mut().zip(bytes.as_chunks().0) {
            *value = f16::from_le_bytes(*bytes);
        }
        buffer.convert_to_f32_slice(out);
    }
}
