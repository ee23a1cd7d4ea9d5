//! The operations in Burn's own terms: what every faster version must equal.

use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Scalar, Shape, Slice, TensorData};

use super::{
    Activations, CacheSpec, LinearInput, Norm, Outputs, RowFormat, TernaryOps, TernarySpec, Weight, WeightOrder,
    Weights,
};
use crate::cpu::attention::cached::Step;
use crate::cpu::best_logits;
use crate::cpu::gate::Gate;
use crate::cpu::isa::Isa;
use crate::cpu::kv_cache::CacheShape;
use crate::cpu::tiles::TILE_ROWS;

const EPSILON: f64 = 1e-5;

/// See [`super::TernaryOps::ternary_linear`].
pub fn ternary_linear<B: Backend>(
    x: FloatTensor<B>,
    words: IntTensor<B>,
    scale: FloatTensor<B>,
    spec: TernarySpec,
) -> FloatTensor<B> {
    let (x, token_scale) = match spec.activations {
        Activations::Float => (x, None),
        Activations::Int8 => {
            let (codes, scale) = absmax_int8::<B>(x);
            (codes, Some(scale))
        }
    };
    let trits = B::float_transpose(trits::<B>(words, spec));
    let Some(group) = spec.group else {
        let scale = B::float_transpose(scale);
        let dots = B::float_matmul(x, trits);
        return B::float_mul(
            dots,
            match token_scale {
                Some(token_scale) => B::float_div(scale, token_scale),
                None => scale,
            },
        );
    };
    let mut sum: Option<FloatTensor<B>> = None;
    for (g, first) in (0..spec.cols).step_by(group).enumerate() {
        let columns = first..spec.cols.min(first + group);
        let x = B::float_slice(x.clone(), &[Slice::full(), columns.clone().into()]);
        let trits = B::float_slice(trits.clone(), &[columns.into(), Slice::full()]);
        let scale = B::float_transpose(B::float_slice(scale.clone(), &[Slice::full(), (g..g + 1).into()]));
        let part = B::float_mul(B::float_matmul(x, trits), scale);
        sum = Some(match sum {
            Some(sum) => B::float_add(sum, part),
            None => part,
        });
    }
    let sum = sum.expect("a matrix has columns");
    match token_scale {
        Some(token_scale) => B::float_div(sum, token_scale),
        None => sum,
    }
}

/// Int8 codes, as floats, of each row of `x`, and the scale `127 / max(max|x|, 1e-5)` (`[rows, 1]`) that made them.
pub fn absmax_int8<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let max = B::float_clamp_min(B::float_max_abs_dim(x.clone(), 1), EPSILON.into());
    let full = B::float_full(max.shape(), Scalar::from(127.0), &max.device(), FloatDType::F32);
    let scale = B::float_div(full, max);
    let codes = B::float_round(B::float_mul(x, scale.clone()));
    (B::float_clamp(codes, Scalar::from(-128.0), Scalar::from(127.0)), scale)
}

/// See [`super::TernaryOps::ternary_linears`].
pub fn ternary_linears<B: TernaryOps>(input: LinearInput<B>, norm: Norm<B>, weights: Weights<B>) -> Outputs<B> {
    let x = match input {
        LinearInput::Plain(x) => x,
        LinearInput::Gated { gate, up, kind } => B::gated(gate, up, kind),
    };
    let x = match norm {
        Norm::None => x,
        Norm::Rms { weight, eps } => B::rms_norm(x, weight, eps),
    };
    let weights = weights.into_vec().into_iter();
    Outputs::from_vec(weights.map(|w| B::ternary_linear(x.clone(), w.words, w.scale, w.spec)).collect())
}

/// See [`super::TernaryOps::ternary_linear_onto`].
pub fn ternary_linear_onto<B: TernaryOps>(
    residual: FloatTensor<B>,
    input: LinearInput<B>,
    norm: Norm<B>,
    weight: Weight<B>,
) -> FloatTensor<B> {
    let out = B::ternary_linears(input, norm, Weights::One(weight)).into_vec().pop();
    B::float_add(residual, out.expect("one output for one matrix"))
}

/// See [`super::TernaryOps::ternary_mlp`].
pub fn ternary_mlp<B: TernaryOps>(
    x: FloatTensor<B>,
    norm: Norm<B>,
    inner: Weights<B>,
    kind: Gate,
    inner_norm: Norm<B>,
    down: Weight<B>,
    residual: bool,
) -> FloatTensor<B> {
    let inner = B::ternary_linears(LinearInput::Plain(x.clone()), norm, inner).into_vec();
    let Ok([gate, up]) = <[_; 2]>::try_from(inner) else { panic!("a gated MLP has a gate and what it gates") };
    let input = LinearInput::Gated { gate, up, kind };
    if residual {
        return B::ternary_linear_onto(x, input, inner_norm, down);
    }
    let out = B::ternary_linears(input, inner_norm, Weights::One(down));
    out.into_vec().pop().expect("one output for one matrix")
}

/// Packed words in canonical order.
pub(crate) fn rows_of_words<B: Backend>(words: IntTensor<B>, order: WeightOrder, cols: usize) -> IntTensor<B> {
    let [rows, width] = words.shape().dims();
    match order {
        WeightOrder::Rows => words,
        WeightOrder::DenseTiles => {
            let device: Device<B> = words.device();
            let data = burn::tensor::read_sync(B::int_into_data(words)).expect("the words can be read back");
            let words = order.convert(WeightOrder::Rows, data.iter().collect(), cols);
            let shape = [rows, WeightOrder::Rows.words(cols)];
            B::int_from_data(TensorData::new(words, shape), &device)
        }
        WeightOrder::Tiles => {
            // Whole tiles, then the rows that are left as one tile with fewer lanes.
            let whole = rows / TILE_ROWS * TILE_ROWS;
            let parts = [(0, whole, TILE_ROWS), (whole, rows, rows - whole)];
            let part = |(from, to, lanes): (usize, usize, usize)| {
                let tiles = B::int_slice(words.clone(), &[(from..to).into(), Slice::full()]);
                let tiles = B::int_reshape(tiles, Shape::from([(to - from) / lanes, width, lanes]));
                B::int_reshape(B::int_swap_dims(tiles, 1, 2), Shape::from([to - from, width]))
            };
            B::int_cat(parts.into_iter().filter(|(from, to, _)| from < to).map(part).collect(), 0)
        }
    }
}

/// The trits of packed words (`[rows, ceil(cols / 16)]`) as floats, `[rows, cols]`.
pub fn trits<B: Backend>(words: IntTensor<B>, spec: TernarySpec) -> FloatTensor<B> {
    let (words, cols) = (rows_of_words::<B>(words, spec.order, spec.cols), spec.cols);
    let [rows, width] = words.shape().dims();
    let spread = Shape::from([rows, width, 16]);
    let shifts: Vec<u32> = (0..16).map(|j| 2 * j).collect();
    let shifts = B::int_from_data(TensorData::new(shifts, [1, 1, 16]), &words.device());
    let words = B::int_expand(B::int_reshape(words, Shape::from([rows, width, 1])), spread.clone());
    let codes = B::bitwise_and_scalar(B::bitwise_right_shift(words, B::int_expand(shifts, spread)), Scalar::from(3u32));
    let codes = B::float_reshape(B::int_into_float(codes, FloatDType::F32), Shape::from([rows, width * 16]));
    let codes = B::float_slice(codes, &[Slice::full(), (0..cols).into()]);
    B::float_sub_scalar(codes, Scalar::from(1.0))
}

/// See [`super::TernaryOps::ternary_dequantize`].
pub fn dequantize<B: Backend>(words: IntTensor<B>, scale: FloatTensor<B>, spec: TernarySpec) -> FloatTensor<B> {
    let trits = trits::<B>(words, spec);
    let scale = match spec.group {
        None => scale,
        Some(size) => {
            let [rows, groups] = scale.shape().dims();
            let scale = B::float_reshape(scale, Shape::from([rows, groups, 1]));
            let scale = B::float_expand(scale, Shape::from([rows, groups, size]));
            let scale = B::float_reshape(scale, Shape::from([rows, groups * size]));
            B::float_slice(scale, &[Slice::full(), (0..spec.cols).into()])
        }
    };
    B::float_mul(trits, scale)
}

/// See [`super::TernaryOps::dense_linear`].
pub fn dense_linear<B: Backend>(x: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
    let w = if w.dtype() == DType::F32 { w } else { B::float_cast(w, FloatDType::F32) };
    B::float_matmul(x, B::float_transpose(w))
}

/// See [`super::TernaryOps::rows_linear`].
pub fn rows_linear<B: Backend>(
    x: FloatTensor<B>,
    rows: IntTensor<B>,
    format: RowFormat,
    cols: usize,
) -> FloatTensor<B> {
    dense_linear::<B>(x, decode_rows::<B>(rows, format, cols))
}

/// See [`super::TernaryOps::decode_rows`]: the bytes are read back and decoded on the host.
pub fn decode_rows<B: Backend>(rows: IntTensor<B>, format: RowFormat, cols: usize) -> FloatTensor<B> {
    let device: Device<B> = rows.device();
    let [count, _] = rows.shape().dims();
    let data = burn::tensor::read_sync(B::int_into_data(rows)).expect("the rows can be read back");
    let row_bytes = (data.as_bytes().len() / count.max(1)).max(1);
    let mut values = vec![0f32; count * cols];
    for (bytes, row) in data.as_bytes().chunks_exact(row_bytes).zip(values.chunks_exact_mut(cols)) {
        format.decode(bytes, row);
    }
    B::float_from_data(TensorData::new(values, [count, cols]), &device)
}

/// See [`super::TernaryOps::rms_norm`].
pub fn rms_norm<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let [width] = weight.shape().dims();
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let scale = B::float_recip(B::float_sqrt(B::float_add_scalar(mean, Scalar::from(eps))));
    B::float_mul(B::float_mul(x, scale), B::float_reshape(weight, Shape::from([1, width])))
}

/// See [`super::TernaryOps::rope`].
pub fn rope<B: Backend>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>, start: usize) -> FloatTensor<B> {
    let [_, tokens, _, head_dim] = x.shape().dims();
    let [_, half] = cos.shape().dims();
    let part = |from: usize, to: usize| {
        B::float_slice(x.clone(), &[Slice::full(), Slice::full(), Slice::full(), (from..to).into()])
    };
    let table = |table: FloatTensor<B>| {
        let rows = B::float_slice(table, &[(start..start + tokens).into(), Slice::full()]);
        B::float_reshape(rows, Shape::from([1, tokens, 1, half]))
    };
    let (cos, sin) = (table(cos), table(sin));
    let (low, high) = (part(0, half), part(half, 2 * half));
    let new_low = B::float_sub(B::float_mul(low.clone(), cos.clone()), B::float_mul(high.clone(), sin.clone()));
    let new_high = B::float_add(B::float_mul(high, cos), B::float_mul(low, sin));
    let mut parts = vec![new_low, new_high];
    if 2 * half < head_dim {
        parts.push(part(2 * half, head_dim));
    }
    B::float_cat(parts, 3)
}

/// See [`super::TernaryOps::cached_attention`]: read back and computed on the host.
#[expect(clippy::too_many_arguments, reason = "a tensor each")]
pub fn cached_attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    keys: IntTensor<B>,
    values: IntTensor<B>,
    places: IntTensor<B>,
    spec: CacheSpec,
) -> (FloatTensor<B>, IntTensor<B>, IntTensor<B>) {
    let device: Device<B> = q.device();
    let (shape, cache_shape) = (q.shape(), keys.shape());
    let [_, heads, head_dim] = shape.dims();
    let [batch, kv_heads, blocks, _] = cache_shape.dims();
    let [_, half] = cos.shape().dims();
    let (q, k, v) = (floats::<B>(q), floats::<B>(k), floats::<B>(v));
    let (cos, sin) = (floats::<B>(cos), floats::<B>(sin));
    let (mut keys, mut values, places) = (words::<B>(keys), words::<B>(values), words::<B>(places));
    let cache = CacheShape { batch, kv_heads, head_dim, blocks, format: spec.format };
    let scale = spec.scale as f32;
    let step = Step { q: &q, k: &k, v: &v, cos: &cos, sin: &sin, places: &places, heads, half, scale };
    step.write_keys(Isa::Scalar, cache, &mut keys);
    step.write_values(cache, &mut values);
    let mut out = vec![0f32; q.len()];
    step.attend(Isa::Scalar, cache, &keys, &values, &mut out);
    let side = |words: Vec<u32>| B::int_from_data(TensorData::new(words, cache_shape.clone()), &device);
    let (keys, values) = (side(keys), side(values));
    (B::float_from_data(TensorData::new(out, shape), &device), keys, values)
}

/// See [`super::TernaryOps::top_logits`]: read back and computed on the host.
pub fn top_logits<B: Backend>(logits: FloatTensor<B>, count: usize) -> IntTensor<B> {
    let (device, [rows, vocab]): (Device<B>, _) = (logits.device(), logits.shape().dims());
    let words = best_logits::top_logits(Isa::active(), &floats::<B>(logits), vocab, count);
    B::int_from_data(TensorData::new(words, [rows, best_logits::width(count)]), &device)
}

fn floats<B: Backend>(x: FloatTensor<B>) -> Vec<f32> {
    burn::tensor::read_sync(B::float_into_data(x)).expect("the tensor can be read back").iter().collect()
}

fn words<B: Backend>(x: IntTensor<B>) -> Vec<u32> {
    burn::tensor::read_sync(B::int_into_data(x)).expect("the tensor can be read back").iter().collect()
}

/// See [`super::TernaryOps::gated`].
pub fn gated<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>, kind: Gate) -> FloatTensor<B> {
    let gate = match kind {
        Gate::Relu2 => {
            let gate = B::relu(gate);
            B::float_mul(gate.clone(), gate)
        }
        Gate::Silu => B::float_mul(gate.clone(), B::sigmoid(gate)),
    };
    B::float_mul(gate, up)
}
