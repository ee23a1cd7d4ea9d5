//! Embedding and head: matrices that are not ternary.

use bitnet_format::{BlockFormat, Checkpoint, StorageType};
use bitnet_kernels::{RowFormat, ops};
use bitnet_ternary::Packing;
use bitnet_ternary::packing::q2_0;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, FloatDType, Int, Tensor, TensorData};

use crate::ModelError;

/// A float matrix `[rows, cols]`: the embedding, or the head.
///
/// One of a model that runs stays as its file stores it, row by row, and on the CPU stays mapped; it can be F32, F16, BF16,
/// Q8_0, Q6_K, Q4_0, Q4_K, IQ4_NL or Q2_0 (Bonsai's, which is ternary as the linears are), and a row becomes f32 when it is used. One of a model in training is in F32 and has
/// a gradient.
#[derive(Module, Debug)]
pub struct DenseMatrix {
    values: Values,
    cols: usize,
}

#[derive(Module, Debug)]
enum Values {
    Stored(StoredRows),
    Trained(TrainedRows),
}

#[derive(Module, Debug)]
struct StoredRows {
    /// U8 `[rows, row_bytes]`.
    bytes: Param<Tensor<2, Int>>,
    #[module(skip)]
    format: RowFormat,
}

#[derive(Module, Debug)]
struct TrainedRows {
    weight: Param<Tensor<2>>,
    /// What the model is to be stored in: it computes with the values that this type can hold.
    #[module(skip)]
    storage: FloatDType,
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
        let bytes = Param::initialized(ParamId::new(), stored);
        Ok(Self { values: Values::Stored(StoredRows { bytes, format }), cols })
    }

    /// To be trained, from F32 weights `[rows, cols]`. The model computes with the values that `storage` (F32, F16 or BF16)
    /// can hold, so that it is the same model when it is stored so; the gradient passes unchanged.
    pub fn trained(weight: Tensor<2>, storage: FloatDType) -> Self {
        let [_, cols] = weight.dims();
        let weight = Param::from_tensor(weight);
        Self { values: Values::Trained(TrainedRows { weight, storage }), cols }
    }

    /// The rows `ids` as floats, `[ids, cols]`.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        match &self.values {
            Values::Stored(rows) => ops::decode_rows(rows.bytes.val().select(0, ids), rows.format, self.cols),
            Values::Trained(rows) => rows.rounded().select(0, ids),
        }
    }

    /// `x wᵀ`: `[tokens, cols] → [tokens, rows]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.values {
            Values::Stored(rows) => ops::rows_linear(x, rows.bytes.val(), rows.format, self.cols),
            Values::Trained(rows) => ops::dense_linear(x, rows.rounded()),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match &self.values {
            Values::Stored(rows) => rows.bytes.dims()[0],
            Values::Trained(rows) => rows.weight.dims()[0],
        }
    }

    /// The weights in training, where it has them.
    pub fn param(&self) -> Option<&Param<Tensor<2>>> {
        match &self.values {
            Values::Stored(_) => None,
            Values::Trained(rows) => Some(&rows.weight),
        }
    }

    /// The values that the model computes with, `[rows, cols]` in F32.
    pub fn floats(&self) -> Tensor<2> {
        match &self.values {
            Values::Stored(rows) => ops::decode_rows(rows.bytes.val(), rows.format, self.cols),
            Values::Trained(rows) => rows.rounded(),
        }
    }

    /// The float type that a model in training is to be stored in.
    pub fn storage(&self) -> Option<FloatDType> {
        match &self.values {
            Values::Stored(_) => None,
            Values::Trained(rows) => Some(rows.storage),
        }
    }
}

impl TrainedRows {
    fn rounded(&self) -> Tensor<2> {
        match self.storage {
            FloatDType::F32 => self.weight.val(),
            storage => ops::training::round_to(self.weight.val(), storage),
        }
    }
}

fn row_format(dtype: StorageType) -> Option<RowFormat> {
    const WHOLE: &str = "a row is whole blocks: the reader has checked it";
    match dtype {
        StorageType::F32 => Some(RowFormat::F32),
        StorageType::F16 => Some(RowFormat::F16),
        StorageType::BF16 => Some(RowFormat::Bf16),
        StorageType::Ternary(Packing::Q2_0 { group: 64 }) => {
            Some(RowFormat::Other(|bytes, row| q2_0::dequantize_row(bytes, 64, row)))
        }
        StorageType::Ternary(Packing::Q2_0 { group: 128 }) => {
            Some(RowFormat::Other(|bytes, row| q2_0::dequantize_row(bytes, 128, row)))
        }
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
