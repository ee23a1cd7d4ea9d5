//! Embedding and head: matrices that are not ternary.

use bitnet_format::{BlockFormat, Checkpoint, StorageType};
use bitnet_kernels::{RowFormat, ops};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Int, Tensor, TensorData};

use crate::ModelError;

/// A float matrix `[rows, cols]` that stays as its file stores it, row by row, and on the CPU stays mapped.
///
/// It can be F32, F16, BF16, Q8_0, Q6_K, Q4_0, Q4_K or IQ4_NL; a row becomes f32 when it is used.
#[derive(Module, Debug)]
pub struct DenseMatrix {
    /// U8 `[rows, row_bytes]`.
    stored: Param<Tensor<2, Int>>,
    cols: usize,
    #[module(skip)]
    format: RowFormat,
}

impl DenseMatrix {
    /// The tensor `name` of `checkpoint`, which must be `[rows, cols]`.
    ///
    /// # Errors
    /// When the tensor is missing, has another shape, or is stored in a type that has no float values.
    pub fn load(
        checkpoint: &Checkpoint,
        name: &str,
        rows: usize,
        cols: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let bytes = checkpoint.shared_bytes(name)?;
        let info = checkpoint.info(name).expect("its bytes were just found");
        if info.shape != [rows, cols] {
            return Err(ModelError::MatrixShape {
                name: name.to_string(),
                found: info.shape.clone(),
                needed: [rows, cols],
            });
        }
        let format = row_format(info.dtype).ok_or_else(|| ModelError::Unsupported {
            what: format!("tensor {name} of type {}, where floats belong,", info.dtype),
        })?;
        let shape = [rows, bytes.len() / rows.max(1)];
        let data = TensorData::from_bytes(Bytes::from_shared(bytes, AllocationProperty::File), shape, DType::U8);
        let stored = Tensor::<2, Int>::from_data(data, (device, DType::U8));
        Ok(Self { stored: Param::initialized(ParamId::new(), stored), cols, format })
    }

    /// The rows `ids` as floats, `[ids, cols]`.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        ops::decode_rows(self.stored.val().select(0, ids), self.format, self.cols)
    }

    /// `x wᵀ`: `[tokens, cols] → [tokens, rows]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rows_linear(x, self.stored.val(), self.format, self.cols)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.stored.dims()[0]
    }
}

fn row_format(dtype: StorageType) -> Option<RowFormat> {
    const WHOLE: &str = "a row is whole blocks: the reader has checked it";
    match dtype {
        StorageType::F32 => Some(RowFormat::F32),
        StorageType::F16 => Some(RowFormat::F16),
        StorageType::BF16 => Some(RowFormat::Bf16),
        other => Some(match other.block_format()? {
            BlockFormat::Q8_0 => {
                RowFormat::Other(|bytes, row| BlockFormat::Q8_0.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q6_K => {
                RowFormat::Q6K(|bytes, row| BlockFormat::Q6_K.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q4_0 => {
                RowFormat::Other(|bytes, row| BlockFormat::Q4_0.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q4_K => {
                RowFormat::Other(|bytes, row| BlockFormat::Q4_K.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::IQ4_NL => {
                RowFormat::Other(|bytes, row| BlockFormat::IQ4_NL.dequantize_row(bytes, row).expect(WHOLE))
            }
        }),
    }
}
