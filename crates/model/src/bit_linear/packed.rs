//! Trits in memory.

use bitnet_kernels::ops::{self, Activations, Packed, TernarySpec};
use bitnet_kernels::{WeightOrder, dense_weight_order, weight_order};
use bitnet_ternary::{CODES_PER_WORD, Granularity, Scale, TernaryMatrix};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Int, Tensor, TensorData};

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
        let order = order(bits, matches!(matrix.granularity(), Granularity::Group(_)), device)?;
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
        Ok(Self::from_data(words, TensorData::new(values, scale_shape), group, order, cols, device))
    }

    fn from_data(
        words: TensorData,
        scale: TensorData,
        group: Option<usize>,
        order: WeightOrder,
        cols: usize,
        device: &Device,
    ) -> Self {
        let words = ops::gapless(words, device, DType::U32);
        let scale = Tensor::<2>::from_data(scale, (device, DType::F32));
        Self {
            words: Param::initialized(ParamId::new(), words)
                .load_mapper(move |words| reorder(words, WeightOrder::Rows, order, cols))
                .save_mapper(move |words| reorder(words, order, WeightOrder::Rows, cols)),
            scale: Param::from_tensor(scale).set_require_grad(false),
            group,
            order,
        }
    }

    /// Everything as [`PackedWeight::kept`] reads it: rows, columns, group, rows and columns of the scales, 64 bytes; the scales
    /// in whole 64 bytes; the words as the kernel streams them.
    pub(super) fn keep(&self, cols: usize) -> [Vec<u8>; 2] {
        let ([rows, _], [down, across]) = (self.words.dims(), self.scale.dims());
        let mut front = Vec::new();
        for number in [rows, cols, self.group.unwrap_or(0), down, across, 0, 0, 0] {
            front.extend_from_slice(&(number as u64).to_le_bytes());
        }
        front.extend(self.scale.val().into_data().iter::<f32>().flat_map(f32::to_le_bytes));
        front.resize(front.len().next_multiple_of(KEPT), 0);
        [front, self.words.val().into_data().into_parts().0.to_vec()]
    }

    /// What [`PackedWeight::keep`] wrote of a matrix of this shape, without a copy of the words; `None` where it was another.
    pub(super) fn kept(bytes: bytes::Bytes, shape: [usize; 2], bits: WeightBits, device: &Device) -> Option<Self> {
        let number = |i: usize| -> Option<usize> {
            usize::try_from(u64::from_le_bytes(*bytes.get(8 * i..)?.first_chunk()?)).ok()
        };
        let [rows, cols] = shape;
        let (group, down, across) = (number(2)?, number(3)?, number(4)?);
        let group = (group > 0).then_some(group);
        let order = order(bits, group.is_some(), device).ok()?;
        let scales = down.checked_mul(across)?;
        let begin = KEPT.checked_add(scales.checked_mul(4)?.checked_next_multiple_of(KEPT)?)?;
        let size = rows * order.words(cols) * size_of::<u32>();
        if [number(0)?, number(1)?] != shape || bytes.len() != begin.checked_add(size)? {
            return None;
        }
        let scale: Vec<f32> =
            bytes[KEPT..][..4 * scales].as_chunks::<4>().0.iter().map(|scale| f32::from_le_bytes(*scale)).collect();
        let words = Bytes::from_shared(bytes.slice(begin..), AllocationProperty::File);
        let words = TensorData::from_bytes(words, [rows, order.words(cols)], DType::U32);
        let scale = TensorData::new(scale, [down, across]);
        Some(Self::from_data(words, scale, group, order, cols, device))
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

/// Parts of a kept matrix begin at multiples of this.
const KEPT: usize = 64;

/// The order of words for so many bits.
fn order(bits: WeightBits, has_groups: bool, device: &Device) -> Result<WeightOrder, ModelError> {
    match bits {
        WeightBits::Two => Ok(weight_order(device)),
        WeightBits::OnePointSix if has_groups => {
            let what = "1.6-bit weights of a model with a scale for each group".to_string();
            Err(ModelError::Unsupported { what })
        }
        WeightBits::OnePointSix => dense_weight_order(device)
            .ok_or_else(|| ModelError::Unsupported { what: format!("1.6-bit weights on {device:?}") }),
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
