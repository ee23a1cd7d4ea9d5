//! Trits in memory.

use bitnet_kernels::ops::{self, Activations, Packed, TernarySpec};
use bitnet_kernels::{WeightOrder, dense_weight_order, weight_order};
use bitnet_ternary::{CODES_PER_WORD, Granularity, Scale, TernaryMatrix};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::WeightBits;
use crate::ModelError;

/// Packed ternary weights.
///
/// # Fields
/// * `words`: U32 `[rows, ceil(cols / 16)]`, 16 two-bit codes `trit + 1` a word, lowest bits first. On the CPU backends the
///   words of 16 rows are interleaved, see [`WeightOrder`]; a record always has them row by row.
/// * `scale`: F32 `[1, 1]` for the matrix, `[rows, 1]` for each row, or `[rows, groups]`.
#[derive(Module, Debug)]
pub struct PackedWeight {
    words: Param<Tensor<2, Int>>,
    scale: Param<Tensor<2>>,
    group: Option<usize>,
    #[module(skip)]
    order: WeightOrder,
}

impl PackedWeight {
    pub(super) fn new(matrix: TernaryMatrix, bits: WeightBits, device: &Device) -> Result<Self, ModelError> {
        let order = match (bits, matrix.granularity()) {
            (WeightBits::Two, _) => weight_order(device),
            (WeightBits::OnePointSix, Granularity::Tensor | Granularity::Row) => dense_weight_order(device)
                .ok_or_else(|| ModelError::Unsupported { what: format!("1.6-bit weights on {device:?}") })?,
            (WeightBits::OnePointSix, _) => {
                let what = "1.6-bit weights of a model with a scale for each group".to_string();
                return Err(ModelError::Unsupported { what });
            }
        };
        let (rows, cols, words, scale) = matrix.into_parts();
        let (values, columns, group) = match scale {
            Scale::Tensor(scale) => (vec![scale], 1, None),
            Scale::Row(values) => (values, 1, None),
            Scale::Group { size, values } => (values, cols.div_ceil(size), Some(size)),
        };
        if let Some(size) = group.filter(|size| !size.is_multiple_of(CODES_PER_WORD)) {
            let what = format!("a ternary matrix with one scale for each {size} columns (a multiple of 16 is needed)");
            return Err(ModelError::Unsupported { what });
        }
        let scale_shape = [values.len() / columns, columns];
        let words = WeightOrder::Rows.convert(order, words, cols);
        let words = TensorData::new(words, [rows, order.words(cols)]);
        let words = ops::gapless(words, device, DType::U32);
        let scale = Tensor::<2>::from_data(TensorData::new(values, scale_shape), (device, DType::F32));
        Ok(Self {
            words: Param::initialized(ParamId::new(), words)
                .load_mapper(move |words| reorder(words, WeightOrder::Rows, order, cols))
                .save_mapper(move |words| reorder(words, order, WeightOrder::Rows, cols)),
            scale: Param::from_tensor(scale).set_require_grad(false),
            group,
            order,
        })
    }

    pub(super) fn parts(&self, cols: usize, activations: Activations) -> Packed {
        let spec = TernarySpec { cols, group: self.group, activations, order: self.order };
        Packed { words: self.words.val(), scale: self.scale.val(), spec }
    }

    pub(super) fn ternary(&self, cols: usize) -> Result<TernaryMatrix, ModelError> {
        let words = self.order.convert(WeightOrder::Rows, self.words.val().into_data().iter().collect(), cols);
        let values: Vec<f32> = self.scale.val().into_data().iter().collect();
        let scale = match (self.group, self.scale.dims()) {
            (Some(size), _) => Scale::Group { size, values },
            (None, [1, 1]) => Scale::Tensor(values[0]),
            (None, _) => Scale::Row(values),
        };
        Ok(TernaryMatrix::from_words(self.rows(), cols, words, scale)?)
    }

    pub(super) fn rows(&self) -> usize {
        self.words.dims()[0]
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.dims().iter().product::<usize>() * size_of::<u32>()
    }
}

/// The same matrix with its words in another order.
fn reorder(words: Tensor<2, Int>, from: WeightOrder, to: WeightOrder, cols: usize) -> Tensor<2, Int> {
    if from == to {
        return words;
    }
    let ([rows, _], device) = (words.dims(), words.device());
    let values = from.convert(to, words.into_data().iter().collect(), cols);
    ops::gapless(TensorData::new(values, [rows, to.words(cols)]), &device, DType::U32)
}
