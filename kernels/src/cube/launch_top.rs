//! The best of some logits on tensors.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::launch::empty;
use super::target::Target;
use super::top;
use crate::cpu::best_logits::width;

/// Logits of a segment.
const SEGMENT: usize = 4096;

/// More ids than this are not exact as floats.
pub(crate) const MOST: usize = 1 << 24;

/// See [`crate::TernaryOps::top_logits`]; `count` is not zero.
pub(crate) fn top_logits(logits: CubeTensor, count: usize) -> CubeTensor {
    let logits = into_contiguous(logits);
    let (client, target) = (logits.client.clone(), Target::of(&logits.client));
    let [rows, vocab] = logits.shape().dims();
    let segments = vocab.div_ceil(SEGMENT);
    let values = empty(&logits, [rows, segments * count], DType::F32);
    let ids = empty(&logits, [rows, segments * count], DType::U32);
    let sums = empty(&logits, [rows, 2 * segments], DType::F32);
    let out = empty(&logits, [rows, width(count)], DType::U32);
    let units = target.units_of_a_row();
    let (cubes, dim) = target.rows(rows * segments);
    let (v, i, s) = (values.clone().into_buffer_arg(), ids.clone().into_buffer_arg(), sums.clone().into_buffer_arg());
    top::of_segments::launch(&client, cubes, dim, logits.into_buffer_arg(), v, i, s, vocab, SEGMENT, count, units);
    let (cubes, dim) = target.rows(rows);
    let (v, i, s) = (values.into_buffer_arg(), ids.into_buffer_arg(), sums.into_buffer_arg());
    top::merge::launch(&client, cubes, dim, v, i, s, out.clone().into_buffer_arg(), segments, count, units);
    out
}
