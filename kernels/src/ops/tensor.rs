//! The operations on `Tensor`, whatever backend it is on.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{CacheSpec, LinearInput, Norm, RowFormat, TernaryOps, TernarySpec, Weight, Weights};
use crate::cpu::gate::Gate;

/// The weights of a ternary linear layer.
#[derive(Clone, Debug)]
pub struct Packed {
    /// U32, two-bit codes.
    pub words: Tensor<2, Int>,
    /// `[1, 1]`, `[rows, 1]` or `[rows, groups]`.
    pub scale: Tensor<2>,
    /// What they look like.
    pub spec: TernarySpec,
}

/// A matrix whose rows lie one behind the other on the device. That is not what `Tensor::from_data` gives everywhere: on CUDA
/// a row ends at a multiple of 512 bytes, and kernels that read rows without gaps would copy the matrix each time.
pub fn gapless(data: TensorData, device: &Device, dtype: DType) -> Tensor<2, Int> {
    let (bytes, shape, stored) = data.into_parts();
    let [rows, cols] = shape.dims();
    let flat = TensorData::from_bytes(bytes, [rows * cols], stored);
    Tensor::<1, Int>::from_data(flat, (device, dtype)).reshape([rows, cols])
}

/// A ternary linear layer, `[tokens, cols] → [tokens, rows]`; see [`TernaryOps::ternary_linear`].
///
/// The gradient with respect to `x` is that of the straight-through estimator: `dy · dequantize(words)`.
pub fn ternary_linear(x: Tensor<2>, words: Tensor<2, Int>, scale: Tensor<2>, spec: TernarySpec) -> Tensor<2> {
    let (x, words, scale) = (x.into_dispatch(), words.into_dispatch(), scale.into_dispatch());
    Tensor::from_dispatch(Dispatch::ternary_linear(x, words, scale, spec))
}

/// Several ternary linear layers (one to three) for one input, after an RMSNorm if `norm` is its weight and epsilon; see
/// [`TernaryOps::ternary_linears`].
pub fn ternary_linears<const N: usize>(
    x: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    weights: [Packed; N],
) -> [Tensor<2>; N] {
    run(LinearInput::Plain(x.into_dispatch()), norm, weights)
}

/// A ternary linear layer of `act(gate) * up`, after an RMSNorm if `norm` is its weight and epsilon; see
/// [`TernaryOps::ternary_linears`].
pub fn gated_ternary_linear(
    gate: Tensor<2>,
    up: Tensor<2>,
    kind: Gate,
    norm: Option<(Tensor<1>, f64)>,
    weight: Packed,
) -> Tensor<2> {
    let [y] = run(LinearInput::Gated { gate: gate.into_dispatch(), up: up.into_dispatch(), kind }, norm, [weight]);
    y
}

fn run<const N: usize>(
    input: LinearInput<Dispatch>,
    norm: Option<(Tensor<1>, f64)>,
    weights: [Packed; N],
) -> [Tensor<2>; N] {
    let mut out = Dispatch::ternary_linears(input, norm_of(norm), weights_of(weights))
        .into_vec()
        .into_iter()
        .map(Tensor::from_dispatch);
    std::array::from_fn(|_| out.next().expect("one output for each matrix"))
}

/// `residual` and what a ternary linear layer makes of `x`, after an RMSNorm if `norm` is its weight and epsilon; see
/// [`TernaryOps::ternary_linear_onto`].
pub fn ternary_linear_onto(
    residual: Tensor<2>,
    x: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    weight: Packed,
) -> Tensor<2> {
    let (residual, input) = (residual.into_dispatch(), LinearInput::Plain(x.into_dispatch()));
    Tensor::from_dispatch(Dispatch::ternary_linear_onto(residual, input, norm_of(norm), weight_of(weight)))
}

/// A gated MLP with an RMSNorm at its beginning and one inside, where those are weight and epsilon, and `x` added to it
/// where it is a `residual` one; see [`TernaryOps::ternary_mlp`].
pub fn ternary_mlp(
    x: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    inner: [Packed; 2],
    kind: Gate,
    inner_norm: Option<(Tensor<1>, f64)>,
    down: Packed,
    residual: bool,
) -> Tensor<2> {
    let (norm, inner_norm) = (norm_of(norm), norm_of(inner_norm));
    let (inner, down) = (weights_of(inner), weight_of(down));
    Tensor::from_dispatch(Dispatch::ternary_mlp(x.into_dispatch(), norm, inner, kind, inner_norm, down, residual))
}

fn norm_of(norm: Option<(Tensor<1>, f64)>) -> Norm<Dispatch> {
    match norm {
        Some((weight, eps)) => Norm::Rms { weight: weight.into_dispatch(), eps },
        None => Norm::None,
    }
}

fn weight_of(Packed { words, scale, spec }: Packed) -> Weight<Dispatch> {
    Weight { words: words.into_dispatch(), scale: scale.into_dispatch(), spec }
}

fn weights_of<const N: usize>(weights: [Packed; N]) -> Weights<Dispatch> {
    const { assert!(N >= 1 && N <= 3, "one to three layers") };
    let mut weights = weights.into_iter().map(weight_of);
    match (weights.next(), weights.next(), weights.next()) {
        (Some(a), Some(b), Some(c)) => Weights::Three(a, b, c),
        (Some(a), Some(b), None) => Weights::Two(a, b),
        (Some(a), ..) => Weights::One(a),
        (None, ..) => unreachable!("one to three layers"),
    }
}

/// The dense matrix of packed words, `[rows, cols]`; see [`TernaryOps::ternary_dequantize`].
pub fn dequantize(words: Tensor<2, Int>, scale: Tensor<2>, spec: TernarySpec) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::ternary_dequantize(words.into_dispatch(), scale.into_dispatch(), spec))
}

/// `x wᵀ` with float weights `[rows, cols]`; see [`TernaryOps::dense_linear`].
pub fn dense_linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::dense_linear(x.into_dispatch(), w.into_dispatch()))
}

/// `x wᵀ` with weights in stored form; see [`TernaryOps::rows_linear`].
pub fn rows_linear(x: Tensor<2>, rows: Tensor<2, Int>, format: RowFormat, cols: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::rows_linear(x.into_dispatch(), rows.into_dispatch(), format, cols))
}

/// Rows in stored form as values, `[rows, cols]`; see [`TernaryOps::decode_rows`].
pub fn decode_rows(rows: Tensor<2, Int>, format: RowFormat, cols: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::decode_rows(rows.into_dispatch(), format, cols))
}

/// RMSNorm of each row; see [`TernaryOps::rms_norm`].
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// Half-split rotary embedding; see [`TernaryOps::rope`].
pub fn rope(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, start: usize) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::rope(x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch(), start))
}

/// One attention step over a KV cache (`keys` and `values`), which is given back with the output; see
/// [`TernaryOps::cached_attention`]. Nothing has a gradient through it.
pub fn cached_attention(
    [q, k, v]: [Tensor<3>; 3],
    [cos, sin]: [Tensor<2>; 2],
    [keys, values]: [Tensor<4, Int>; 2],
    places: Tensor<2, Int>,
    spec: CacheSpec,
) -> (Tensor<3>, [Tensor<4, Int>; 2]) {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    let (keys, values) = (keys.into_dispatch(), values.into_dispatch());
    let (out, keys, values) = Dispatch::cached_attention(q, k, v, cos, sin, keys, values, places.into_dispatch(), spec);
    (Tensor::from_dispatch(out), [Tensor::from_dispatch(keys), Tensor::from_dispatch(values)])
}

/// The best of a row of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Top {
    /// Logarithm of the sum of the exponentials of all finite logits.
    pub log_sum_exp: f32,
    /// Ids and logits, largest first, of equal ones that with the lower id; only finite ones.
    pub best: Vec<(u32, f32)>,
}

/// The `count` best logits of each row, still on the device; see [`TernaryOps::top_logits`] and [`Top::read`].
pub fn top_logits(logits: Tensor<2>, count: usize) -> Tensor<2, Int> {
    Tensor::from_dispatch(Dispatch::top_logits(logits.into_dispatch(), count))
}

impl Top {
    /// Reads what [`top_logits`] gave, one for each row.
    pub fn read(top: &Tensor<2, Int>) -> Vec<Self> {
        let [rows, width] = top.dims();
        let words: Vec<u32> = top.to_data().iter().collect();
        let count = (width - 1) / 2;
        (0..rows)
            .map(|row| {
                let (sum, best) = words[row * width..][..width].split_first().expect("a row begins with the sum");
                let (logits, ids) = best.split_at(count);
                let best = ids.iter().copied().zip(logits.iter().map(|bits| f32::from_bits(*bits)));
                Top { log_sum_exp: f32::from_bits(*sum), best: best.filter(|(id, _)| *id != u32::MAX).collect() }
            })
            .collect()
    }
}

/// `act(gate) * up`; see [`TernaryOps::gated`].
pub fn gated(gate: Tensor<2>, up: Tensor<2>, kind: Gate) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gated(gate.into_dispatch(), up.into_dispatch(), kind))
}
