//! From a tensor's data to the bytes of a stored type.

use std::io::{self, Write};
use std::path::Path;

use bitnet_ternary::{Packing, TernaryMatrix};
use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Tensor, TensorData, TensorKind};
use crate::tensor_info::stored_row;
use crate::{FormatError, StorageType};

/// Data that is known to fit its tensor, ready to be streamed.
#[derive(Debug)]
pub(super) enum Payload {
    /// The stored bytes.
    Bytes(Bytes),
    /// Finite numbers that stay finite as `dtype`, which is `F32`, `F16` or `BF16`.
    Floats { values: Vec<f32>, dtype: StorageType },
}

impl Payload {
    /// Takes a tensor's floats or stored bytes; `dtype` is what floats become, one that [`check_dtype`] allows.
    ///
    /// # Errors
    ///
    /// When the data is not of the declared kind and shape, or a number is not finite or does not stay so.
    pub(super) fn plain(
        file: &Path,
        tensor: &Tensor,
        data: TensorData,
        dtype: StorageType,
    ) -> Result<Self, FormatError> {
        let refuse = |reason: String| FormatError::tensor(file, &tensor.name, reason);
        match (tensor.kind, data) {
            (TensorKind::Floats, TensorData::Floats(values)) => {
                let wanted = tensor.shape.iter().product::<usize>();
                if values.len() != wanted {
                    return Err(refuse(format!("has {} numbers instead of {wanted}", values.len())));
                }
                if let Some(at) = values.iter().position(|value| !rounded(*value, dtype).is_finite()) {
                    let reason = if values[at].is_finite() {
                        format!(", which no {dtype} number reaches")
                    } else {
                        String::new()
                    };
                    return Err(refuse(format!("has {} at element {at}{reason}", values[at])));
                }
                Ok(Self::Floats { values, dtype })
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

    /// Writes everything.
    pub(super) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        const CHUNK: usize = 1 << 12;
        let (values, dtype) = match self {
            Self::Bytes(bytes) => return out.write_all(bytes),
            Self::Floats { values, dtype } => (values, dtype),
        };
        let mut bytes = Vec::with_capacity(4 * CHUNK);
        let (mut halves, mut brains) = ([f16::ZERO; CHUNK], [bf16::ZERO; CHUNK]);
        for chunk in values.chunks(CHUNK) {
            bytes.clear();
            match dtype {
                StorageType::F16 => {
                    halves[..chunk.len()].convert_from_f32_slice(chunk);
                    bytes.extend(halves[..chunk.len()].iter().flat_map(|x| x.to_le_bytes()));
                }
                StorageType::BF16 => {
                    brains[..chunk.len()].convert_from_f32_slice(chunk);
                    bytes.extend(brains[..chunk.len()].iter().flat_map(|x| x.to_le_bytes()));
                }
                _ => bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes())),
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Brings the rows of a Q or K weight into the order of interleaved rotary pairs.
    pub(super) fn interleave(self, tensor: &Tensor, heads: usize) -> Self {
        let rows = tensor.shape[0];
        let source = interleaved(rows, heads);
        match self {
            Self::Floats { values, dtype } => Self::Floats { values: gather(&values, &source), dtype },
            Self::Bytes(bytes) => Self::Bytes(gather(&bytes, &source).into()),
        }
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

/// Refuses a type that floats are not written as.
pub(super) fn check_dtype(file: &Path, dtype: StorageType) -> Result<(), FormatError> {
    match dtype {
        StorageType::F32 | StorageType::F16 | StorageType::BF16 => Ok(()),
        other => Err(FormatError::unsupported(file, format!("writing floats as {other} (F32, F16 and BF16 can be)"))),
    }
}

/// The nearest number of a type that floats are written as.
pub(super) fn rounded(value: f32, dtype: StorageType) -> f32 {
    match dtype {
        StorageType::F16 => f16::from_f32(value).to_f32(),
        StorageType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

fn other_kind(file: &Path, tensor: &Tensor) -> FormatError {
    FormatError::tensor(file, &tensor.name, format!("is given as other data than declared ({:?})", tensor.kind))
}
