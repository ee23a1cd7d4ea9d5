//! The kernels of training on tensors.

use bitnet_ternary::Granularity;
use bitnet_ternary::quantize::FLOOR;
use burn::backend::{DType, TensorMetadata};
use burn::tensor::FloatDType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{empty, own};
use super::quantize::WORD;
use super::target::Target;
use super::training::{self as kernels, CODES, Half};
use crate::cpu::adamw::AdamW;

/// Columns that share a scale.
fn group_of(granularity: Granularity, cols: usize) -> usize {
    match granularity {
        Granularity::Group(size) => size,
        Granularity::Tensor | Granularity::Row => cols,
    }
}

/// Codes of each row of `x` (`[tokens, cols]`), `[tokens, ceil(cols / 4)]` words, and the multipliers, `[tokens, 1]`.
pub(crate) fn absmax(x: CubeTensor) -> (CubeTensor, CubeTensor) {
    let x = into_contiguous(x);
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let [tokens, cols] = x.shape().dims();
    let words = cols.div_ceil(CODES);
    let (codes, multiplier) = (empty(&x, [tokens, words], DType::U32), empty(&x, [tokens, 1], DType::F32));
    let vector = target.vector_of(cols).min(CODES);
    let (count, dim) = target.rows(tokens);
    let (to, factors) = (codes.clone().into_buffer_arg(), multiplier.clone().into_buffer_arg());
    let (x, units) = (x.into_buffer_arg(), target.units_of_a_row());
    kernels::absmax::launch(&client, count, dim, vector, x, to, factors, cols / vector, words, units);
    (codes, multiplier)
}

/// The codes as floats, `[tokens, cols]`, `divided` by the multipliers if need be.
pub(crate) fn values_of_codes(codes: CubeTensor, multiplier: CubeTensor, cols: usize, divided: bool) -> CubeTensor {
    let (codes, multiplier) = (into_contiguous(codes), into_contiguous(multiplier));
    let (client, target) = (codes.client.clone(), Target::of(&codes.client));
    let [tokens, words] = codes.shape().dims();
    assert_eq!(words, cols.div_ceil(CODES), "words of a row of codes");
    let out = empty(&codes, [tokens, cols], DType::F32);
    let (count, dim) = target.tasks(tokens * words);
    let (codes, multiplier) = (codes.into_buffer_arg(), multiplier.into_buffer_arg());
    let y = out.clone().into_buffer_arg();
    kernels::values_of_codes::launch(&client, count, dim, codes, multiplier, y, cols, words, divided);
    out
}

/// The mean magnitude of each group of columns of `w`, `[rows, groups]`; `Granularity::Tensor` is taken as one a row.
pub(crate) fn mean_magnitudes(w: &CubeTensor, granularity: Granularity) -> CubeTensor {
    let w = into_contiguous(w.clone());
    let (client, target) = (w.client.clone(), Target::of(&w.client));
    let [rows, cols] = w.shape().dims();
    let group = group_of(granularity, cols);
    let scales = rows * cols.div_ceil(group);
    let out = empty(&w, [rows, cols.div_ceil(group)], DType::F32);
    let (count, dim) = target.rows(scales);
    let (w, y) = (w.into_buffer_arg(), out.clone().into_buffer_arg());
    // The mean over a tensor has its floor once all of it is there.
    let floor = if granularity == Granularity::Tensor { 0.0 } else { FLOOR };
    kernels::mean_magnitudes::launch(&client, count, dim, w, y, cols, group, floor, target.units_of_a_row());
    out
}

/// The words of `w` for these scales.
pub(crate) fn pack(w: CubeTensor, scale: CubeTensor, granularity: Granularity) -> CubeTensor {
    let (w, scale) = (into_contiguous(w), into_contiguous(scale));
    let (client, target) = (w.client.clone(), Target::of(&w.client));
    let [rows, cols] = w.shape().dims();
    let out = empty(&w, [rows, cols.div_ceil(WORD)], DType::U32);
    let (count, dim) = target.tasks(rows * cols.div_ceil(WORD));
    let (w, scale, y) = (w.into_buffer_arg(), scale.into_buffer_arg(), out.clone().into_buffer_arg());
    kernels::pack::launch(&client, count, dim, w, scale, y, cols, group_of(granularity, cols));
    out
}

/// The values of words in canonical order, `[rows, cols]`: trits, or `scaled`. `group` is that of the scales.
pub(crate) fn unpack(words: CubeTensor, scale: CubeTensor, cols: usize, group: usize, scaled: bool) -> CubeTensor {
    let (words, scale) = (into_contiguous(words), into_contiguous(scale));
    let (client, target) = (words.client.clone(), Target::of(&words.client));
    let [rows, width] = words.shape().dims();
    assert_eq!(width, cols.div_ceil(WORD), "words of a row");
    let out = empty(&words, [rows, cols], DType::F32);
    let (count, dim) = target.tasks(rows * width);
    let (words, scale, y) = (words.into_buffer_arg(), scale.into_buffer_arg(), out.clone().into_buffer_arg());
    kernels::unpack::launch(&client, count, dim, words, scale, y, cols, group, scaled);
    out
}

/// The values as `to` can hold them, in F32.
pub(crate) fn round_to(x: CubeTensor, to: FloatDType) -> Option<CubeTensor> {
    let to = match to {
        FloatDType::F16 => Half::F16,
        FloatDType::BF16 => Half::Bf16,
        FloatDType::F32 => return Some(x),
        _ => return None,
    };
    let x = into_contiguous(x);
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let out = like(&x);
    let (count, dim) = target.tasks(x.shape().num_elements());
    kernels::round_to::launch(&client, count, dim, x.into_buffer_arg(), out.clone().into_buffer_arg(), to);
    Some(out)
}

/// Weights and both means after one step, changed in place where nothing else holds them.
pub(crate) fn adamw([w, gradient, mean, square]: [CubeTensor; 4], step: AdamW) -> (CubeTensor, CubeTensor, CubeTensor) {
    let gradient = into_contiguous(gradient);
    let [w, mean, square] = [w, mean, square].map(own);
    let (client, target) = (w.client.clone(), Target::of(&w.client));
    let f = step.factors();
    let (count, dim) = target.tasks(w.shape().num_elements());
    let [a, b, c] = [&w, &mean, &square].map(|x| x.clone().into_buffer_arg());
    let g = gradient.into_buffer_arg();
    kernels::adamw::launch(
        &client, count, dim, a, g, b, c, f.keep, f.scale, f.beta_1, f.beta_2, f.epsilon, f.size, f.root,
    );
    (w, mean, square)
}

/// A new tensor of the shape of `x`.
fn like(x: &CubeTensor) -> CubeTensor {
    burn_cubecl::ops::numeric::empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.shape(), DType::F32)
}
