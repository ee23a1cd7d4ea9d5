//! From a tensor's data to the bytes of a stored type.

use std::io::{self, Write};
use std::path::Path;

use bitnet_ternary::{Packing, TernaryMatrix};
use bytes::Bytes;

use super::{Tensor, TensorData, TensorKind, floats};
use crate::tensor_info::stored_row;
use crate::{FloatReader, FormatError, StorageType};

/// Floats that are encoded at once, a megabyte of them.
const CHUNK: usize = 1 << 18;

/// Data that is known to fit its tensor, ready to be streamed.
#[derive(Debug)]
pub(super) enum Payload {
    /// The stored bytes.
    Bytes(Bytes),
    /// Numbers to be written as `dtype`, one that [`floats::check_dtype`] allows.
    Floats { values: Vec<f32>, dtype: StorageType },
    /// Numbers of a file, to be written as `dtype`.
    Reader { reader: FloatReader, dtype: StorageType },
}

impl Payload {
    /// Takes a tensor's floats or stored bytes; `dtype` is what floats become.
    ///
    /// # Errors
    ///
    /// When the data is not of the declared kind and shape.
    pub(super) fn plain(
        file: &Path,
        tensor: &Tensor,
        data: TensorData,
        dtype: StorageType,
    ) -> Result<Self, FormatError> {
        let refuse = |reason: String| FormatError::tensor(file, &tensor.name, reason);
        let wanted = tensor.shape.iter().product::<usize>();
        match (tensor.kind, data) {
            (TensorKind::Floats, TensorData::Floats(values)) => {
                if values.len() != wanted {
                    return Err(refuse(format!("has {} numbers instead of {wanted}", values.len())));
                }
                Ok(Self::Floats { values, dtype })
            }
            (TensorKind::Floats, TensorData::Reader(reader)) => {
                let (rows, cols) = reader.rows_cols();
                if rows * cols != wanted || tensor.shape.last() != Some(&cols) {
                    return Err(refuse(format!("is read as [{rows}, {cols}] instead of {:?}", tensor.shape)));
                }
                Ok(Self::Reader { reader, dtype })
            }
            (TensorKind::Stored(stored), TensorData::Stored(bytes)) => {
                if stored.byte_len(&tensor.shape) != Some(bytes.len()) {
                    let reason = format!("has {} bytes, which are not {stored} {:?}", bytes.len(), tensor.shape);
                    return Err(refuse(reason));
                }
                Ok(Self::Bytes(bytes))
            }
            _ => Err(other_kind(file, tensor)),
        }
    }

    /// Writes everything. What is wrong with the data itself is a [`FormatError`] of `file` and `tensor` in the
    /// [`io::Error`], which [`cause`] takes out again.
    pub(super) fn write_to(&self, file: &Path, tensor: &str, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        let refuse = |reason| io::Error::other(FormatError::tensor(file, tensor, reason));
        match self {
            Self::Bytes(bytes) => out.write_all(bytes),
            // Rows are of whole blocks, and so is a chunk.
            Self::Floats { values, dtype } => values.chunks(CHUNK).enumerate().try_for_each(|(index, values)| {
                bytes.clear();
                floats::encode(values, *dtype, index * CHUNK, &mut bytes).map_err(refuse)?;
                out.write_all(&bytes)
            }),
            Self::Reader { reader, dtype } => {
                let (rows, cols) = reader.rows_cols();
                let step = (CHUNK / cols.max(1)).max(1);
                let mut values = vec![0.0; step.min(rows) * cols];
                for start in (0..rows).step_by(step) {
                    let range = start..rows.min(start + step);
                    let values = &mut values[..range.len() * cols];
                    reader.read(range.clone(), values).map_err(io::Error::other)?;
                    match reader.stored(range.clone()).filter(|_| reader.dtype() == *dtype) {
                        Some(stored) => {
                            floats::check(values, *dtype, start * cols).map_err(refuse)?;
                            out.write_all(stored)?;
                        }
                        None => {
                            bytes.clear();
                            floats::encode(values, *dtype, start * cols, &mut bytes).map_err(refuse)?;
                            out.write_all(&bytes)?;
                        }
                    }
                    // With the rows before, for the pages that the two share.
                    reader.release(start.saturating_sub(step)..range.end);
                }
                Ok(())
            }
        }
    }

    /// Brings the rows of a Q or K weight into the order of interleaved rotary pairs.
    ///
    /// # Errors
    ///
    /// When rows that are still in a file cannot be read.
    pub(super) fn interleave(self, tensor: &Tensor, heads: usize) -> Result<Self, FormatError> {
        let source = interleaved(tensor.shape[0], heads);
        Ok(match self {
            Self::Floats { values, dtype } => Self::Floats { values: gather(&values, &source), dtype },
            Self::Bytes(bytes) => Self::Bytes(gather(&bytes, &source).into()),
            Self::Reader { reader, dtype } => {
                let (rows, cols) = reader.rows_cols();
                let mut values = vec![0.0; rows * cols];
                reader.read(0..rows, &mut values)?;
                Self::Floats { values: gather(&values, &source), dtype }
            }
        })
    }
}

/// What is wrong with the data, where writing failed for that and not for the system.
pub(super) fn cause(error: FormatError) -> FormatError {
    match error {
        FormatError::Io { path, source } => source.downcast().unwrap_or_else(|source| FormatError::Io { path, source }),
        other => other,
    }
}

/// Takes a tensor's trits.
///
/// # Errors
///
/// When the data is not of the declared kind and shape.
pub(super) fn matrix(file: &Path, tensor: &Tensor, data: TensorData) -> Result<TernaryMatrix, FormatError> {
    match (tensor.kind, data) {
        (TensorKind::Ternary, TensorData::Ternary(matrix)) => {
            if tensor.shape != [matrix.rows(), matrix.cols()] {
                let reason =
                    format!("is a matrix of [{}, {}] instead of {:?}", matrix.rows(), matrix.cols(), tensor.shape);
                return Err(FormatError::tensor(file, &tensor.name, reason));
            }
            Ok(matrix)
        }
        _ => Err(other_kind(file, tensor)),
    }
}

/// Packs a matrix.
///
/// # Errors
///
/// When the packing cannot hold its shape or its scales.
pub(super) fn pack(file: &Path, name: &str, packing: Packing, matrix: &TernaryMatrix) -> Result<Payload, FormatError> {
    let bytes = packing.encode(matrix).map_err(|source| FormatError::Ternary {
        file: file.to_path_buf(),
        tensor: name.to_string(),
        source,
    })?;
    Ok(Payload::Bytes(bytes.into()))
}

/// The rows of `matrix` in the order of interleaved rotary pairs.
pub(super) fn interleave_matrix(matrix: &TernaryMatrix, heads: usize) -> TernaryMatrix {
    let source = interleaved(matrix.rows(), heads);
    matrix.permute_rows(|row| source[row])
}

/// For each row of a file with interleaved rotary pairs, the row of the Hugging Face order that belongs there.
fn interleaved(rows: usize, heads: usize) -> Vec<usize> {
    let mut source = vec![0; rows];
    for row in 0..rows {
        source[stored_row(row, rows, heads)] = row;
    }
    source
}

fn gather<T: Copy>(values: &[T], source: &[usize]) -> Vec<T> {
    let width = values.len() / source.len();
    source.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
}

fn other_kind(file: &Path, tensor: &Tensor) -> FormatError {
    FormatError::tensor(file, &tensor.name, format!("is given as other data than declared ({:?})", tensor.kind))
}
