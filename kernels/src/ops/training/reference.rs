//! The operations of training in Burn's own terms: what every faster version must equal.

use bitnet_ternary::Granularity;
use bitnet_ternary::quantize::FLOOR;
use burn::backend::tensor::{Device, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, IntDType, Scalar, Shape, Slice, TensorData};

use super::super::{Activations, TernarySpec, WeightOrder, reference as ops};
use super::{AdamW, Gate, LatentWeights, Precision, Quantization, TrainingOps};

/// See [`TrainingOps::quantized_linears`].
pub fn quantized_linears<B: TrainingOps>(
    x: FloatTensor<B>,
    weights: LatentWeights<B>,
    how: Quantization,
    precision: Precision,
) -> Vec<FloatTensor<B>> {
    let weights = weights.into_vec().into_iter();
    match how {
        how if how.is_float() => weights.map(|w| B::float_linear(x.clone(), w, precision)).collect(),
        Quantization::Ternary { granularity, activations: Activations::Int8, lambda: 1.0 } => {
            let [_, cols] = x.shape().dims();
            let (codes, multiplier) = B::absmax_quantize(x);
            let product = |w: FloatTensor<B>| {
                let (words, scale) = B::absmean_quantize(w, granularity);
                B::linear_of_codes(codes.clone(), multiplier.clone(), words, scale, granularity, cols)
            };
            weights.map(product).collect()
        }
        how => {
            let x = input_of::<B>(x, how);
            weights.map(|w| B::float_linear(x.clone(), weight_of::<B>(w, how), precision)).collect()
        }
    }
}

/// What the input of a layer is taken for.
pub(crate) fn input_of<B: TrainingOps>(x: FloatTensor<B>, how: Quantization) -> FloatTensor<B> {
    match how {
        Quantization::Ternary { activations: Activations::Int8, lambda, .. } => B::blended_input(x, lambda),
        Quantization::Ternary { activations: Activations::Float, .. } | Quantization::None => x,
    }
}

/// What the weights of a layer are taken for.
pub(crate) fn weight_of<B: TrainingOps>(w: FloatTensor<B>, how: Quantization) -> FloatTensor<B> {
    match how {
        Quantization::Ternary { granularity, lambda, .. } => B::blended_weight(w, granularity, lambda),
        Quantization::None => w,
    }
}

/// See [`TrainingOps::blended_input`].
pub fn blended_input<B: Backend>(x: FloatTensor<B>, lambda: f32) -> FloatTensor<B> {
    let (codes, multiplier) = ops::absmax_int8::<B>(x.clone());
    blend::<B>(x, B::float_div(codes, multiplier), lambda)
}

/// See [`TrainingOps::blended_weight`].
pub fn blended_weight<B: TrainingOps>(w: FloatTensor<B>, granularity: Granularity, lambda: f32) -> FloatTensor<B> {
    let quantized = B::ternary_fake_quant(w.clone(), granularity);
    blend::<B>(w, quantized, lambda)
}

/// See [`TrainingOps::ternary_fake_quant`].
pub fn ternary_fake_quant<B: TrainingOps>(w: FloatTensor<B>, granularity: Granularity) -> FloatTensor<B> {
    let [_, cols] = w.shape().dims();
    let (words, scale) = B::absmean_quantize(w, granularity);
    ops::dequantize::<B>(words, scale, spec(granularity, cols))
}

fn blend<B: Backend>(from: FloatTensor<B>, to: FloatTensor<B>, lambda: f32) -> FloatTensor<B> {
    if lambda == 1.0 {
        return to;
    }
    let difference = B::float_mul_scalar(B::float_sub(to, from.clone()), Scalar::from(lambda));
    B::float_add(from, difference)
}

/// Words in canonical order for int8 activations.
pub(crate) fn spec(granularity: Granularity, cols: usize) -> TernarySpec {
    let group = match granularity {
        Granularity::Group(size) => Some(size),
        Granularity::Tensor | Granularity::Row => None,
    };
    TernarySpec { cols, group, activations: Activations::Int8, order: WeightOrder::Rows }
}

/// See [`TrainingOps::absmean_quantize`]. The mean is taken in F32 here, where the slice kernels take it in f64.
pub fn absmean_quantize<B: Backend>(w: FloatTensor<B>, granularity: Granularity) -> (IntTensor<B>, FloatTensor<B>) {
    let [rows, cols] = w.shape().dims();
    let device: Device<B> = w.device();
    let magnitudes = B::float_abs(w.clone());
    let mean = match granularity {
        Granularity::Tensor => B::float_reshape(B::float_mean(magnitudes), Shape::from([1, 1])),
        Granularity::Row => B::float_mean_dim(magnitudes, 1),
        Granularity::Group(size) => {
            let parts = (0..cols).step_by(size).map(|first| {
                let columns = first..cols.min(first + size);
                B::float_mean_dim(B::float_slice(magnitudes.clone(), &[Slice::full(), columns.into()]), 1)
            });
            B::float_cat(parts.collect(), 1)
        }
    };
    let scale = B::float_clamp_min(mean, Scalar::from(FLOOR));
    let spread = match granularity {
        Granularity::Group(size) => {
            let groups = cols.div_ceil(size);
            let wide = B::float_expand(
                B::float_reshape(scale.clone(), Shape::from([rows, groups, 1])),
                Shape::from([rows, groups, size]),
            );
            let wide = B::float_reshape(wide, Shape::from([rows, groups * size]));
            B::float_slice(wide, &[Slice::full(), (0..cols).into()])
        }
        Granularity::Tensor | Granularity::Row => scale.clone(),
    };
    let trits = B::float_round(B::float_mul(w, B::float_recip(spread)));
    let trits = B::float_clamp(trits, Scalar::from(-1.0), Scalar::from(1.0));
    let codes = B::float_add_scalar(trits, Scalar::from(1.0));
    // Columns that are not there are trits of zero.
    let width = cols.div_ceil(16);
    let padding = width * 16 - cols;
    let codes = if padding == 0 {
        codes
    } else {
        let ones = B::float_full(Shape::from([rows, padding]), Scalar::from(1.0), &device, FloatDType::F32);
        B::float_cat(vec![codes, ones], 1)
    };
    let codes = B::float_into_int(codes, IntDType::U32);
    let codes = B::int_reshape(codes, Shape::from([rows, width, 16]));
    let shifts: Vec<u32> = (0..16).map(|j| 2 * j).collect();
    let shifts = B::int_from_data(TensorData::new(shifts, [1, 1, 16]), &device);
    let shifts = B::int_expand(shifts, Shape::from([rows, width, 16]));
    let words = B::int_sum_dim(B::bitwise_left_shift(codes, shifts), 2);
    (B::int_reshape(words, Shape::from([rows, width])), scale)
}

/// See [`TrainingOps::absmax_quantize`].
pub fn absmax_quantize<B: Backend>(x: FloatTensor<B>) -> (IntTensor<B>, FloatTensor<B>) {
    let (codes, multiplier) = ops::absmax_int8::<B>(x);
    (B::float_into_int(codes, IntDType::I8), multiplier)
}

/// See [`TrainingOps::linear_of_codes`].
pub fn linear_of_codes<B: Backend>(
    codes: IntTensor<B>,
    multiplier: FloatTensor<B>,
    words: IntTensor<B>,
    scale: FloatTensor<B>,
    granularity: Granularity,
    cols: usize,
) -> FloatTensor<B> {
    let spec = TernarySpec { activations: Activations::Float, ..spec(granularity, cols) };
    let codes = B::int_into_float(codes, FloatDType::F32);
    match spec.group {
        // The scales are divided first, as where the input is quantized by the layer itself.
        None => {
            let trits = B::float_transpose(ops::trits::<B>(words, spec));
            let factor = B::float_div(B::float_transpose(scale), multiplier);
            B::float_mul(B::float_matmul(codes, trits), factor)
        }
        Some(_) => B::float_div(ops::ternary_linear::<B>(codes, words, scale, spec), multiplier),
    }
}

/// The matrix product, with operands in `precision`. Burn gives one of bfloat16 operands in bfloat16.
pub fn product<B: Backend>(left: FloatTensor<B>, right: FloatTensor<B>, precision: Precision) -> FloatTensor<B> {
    match precision {
        Precision::F32 => B::float_matmul(left, right),
        Precision::Bf16 => {
            let short = |side| B::float_cast(side, FloatDType::BF16);
            B::float_cast(B::float_matmul(short(left), short(right)), FloatDType::F32)
        }
    }
}

/// See [`TrainingOps::packed_input_gradient`].
pub fn packed_input_gradient<B: Backend>(
    dy: FloatTensor<B>,
    words: IntTensor<B>,
    scale: FloatTensor<B>,
    granularity: Granularity,
    cols: usize,
    precision: Precision,
) -> FloatTensor<B> {
    product::<B>(dy, ops::dequantize::<B>(words, scale, spec(granularity, cols)), precision)
}

/// See [`TrainingOps::codes_weight_gradient`].
pub fn codes_weight_gradient<B: Backend>(
    dy: FloatTensor<B>,
    codes: IntTensor<B>,
    multiplier: FloatTensor<B>,
    cols: usize,
    precision: Precision,
) -> FloatTensor<B> {
    debug_assert_eq!(codes.shape().dims::<2>()[1], cols);
    let x = B::float_div(B::int_into_float(codes, FloatDType::F32), multiplier);
    product::<B>(B::float_transpose(dy), x, precision)
}

/// See [`TrainingOps::rms_norm_backward`].
pub fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    dy: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [width] = weight.shape().dims();
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let r = B::float_recip(B::float_sqrt(B::float_add_scalar(mean, Scalar::from(eps))));
    let g = B::float_mul(dy.clone(), B::float_reshape(weight, Shape::from([1, width])));
    let normed = B::float_mul(x, r.clone());
    let through = B::float_mean_dim(B::float_mul(g.clone(), normed.clone()), 1);
    let dx = B::float_mul(B::float_sub(g, B::float_mul(normed.clone(), through)), r);
    let dweight = B::float_sum_dim(B::float_mul(dy, normed), 0);
    (dx, B::float_reshape(dweight, Shape::from([width])))
}

/// See [`TrainingOps::gated_backward`].
pub fn gated_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    dy: FloatTensor<B>,
    kind: Gate,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (value, slope) = match kind {
        Gate::Relu2 => {
            let g = B::relu(gate);
            (B::float_mul(g.clone(), g.clone()), B::float_mul_scalar(g, Scalar::from(2.0)))
        }
        Gate::Silu => {
            let sigmoid = B::sigmoid(gate.clone());
            let value = B::float_mul(gate, sigmoid.clone());
            // s + g s (1 - s)
            let rest = B::float_sub(value.clone(), B::float_mul(value.clone(), sigmoid.clone()));
            (value, B::float_add(sigmoid, rest))
        }
    };
    (B::float_mul(B::float_mul(dy.clone(), up), slope), B::float_mul(dy, value))
}

/// One segment of `x` (`[tokens, heads, head_dim]`) as `[heads, length, head_dim]`, each head `times` times.
fn heads_of<B: Backend>(x: &FloatTensor<B>, first: usize, length: usize, times: usize) -> FloatTensor<B> {
    let [_, heads, head_dim] = x.shape().dims();
    let part = B::float_slice(x.clone(), &[(first..first + length).into()]);
    let part = B::float_reshape(B::float_swap_dims(part, 0, 1), Shape::from([heads, 1, length, head_dim]));
    let part = B::float_expand(part, Shape::from([heads, times, length, head_dim]));
    B::float_reshape(part, Shape::from([heads * times, length, head_dim]))
}

/// Probabilities of one segment, `[heads, length, length]`.
fn probabilities<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, scale: f64) -> FloatTensor<B> {
    let [heads, length, _] = q.shape().dims();
    let device: Device<B> = q.device();
    let scores = B::float_mul_scalar(B::float_matmul(q, B::float_swap_dims(k, 1, 2)), Scalar::from(scale));
    let future = |t, p| if p > t { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..length).flat_map(|t| (0..length).map(move |p| future(t, p))).collect();
    let mask = B::float_from_data(TensorData::new(mask, [1, length, length]), &device);
    let scores = B::float_add(scores, B::float_expand(mask, Shape::from([heads, length, length])));
    let max = B::float_max_dim(scores.clone(), 2);
    let p = B::float_exp(B::float_sub(scores, max));
    B::float_div(p.clone(), B::float_sum_dim(p, 2))
}

fn starts(segments: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    segments.iter().scan(0, |start, length| Some((std::mem::replace(start, *start + length), *length)))
}

/// See [`TrainingOps::segment_attention`].
pub fn segment_attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    segments: &[usize],
    scale: f64,
) -> FloatTensor<B> {
    let ([_, heads, _], [_, kv_heads, _]): ([usize; 3], [usize; 3]) = (q.shape().dims(), k.shape().dims());
    let parts = starts(segments).map(|(first, length)| {
        let side = |x: &FloatTensor<B>| heads_of::<B>(x, first, length, heads / kv_heads);
        let p = probabilities::<B>(heads_of::<B>(&q, first, length, 1), side(&k), scale);
        B::float_swap_dims(B::float_matmul(p, side(&v)), 0, 1)
    });
    B::float_cat(parts.collect(), 0)
}

/// See [`TrainingOps::segment_attention_backward`].
pub fn segment_attention_backward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    out: FloatTensor<B>,
    dout: FloatTensor<B>,
    segments: &[usize],
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let ([_, heads, head_dim], [_, kv_heads, _]): ([usize; 3], [usize; 3]) = (q.shape().dims(), k.shape().dims());
    let group = heads / kv_heads;
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for (first, length) in starts(segments) {
        let side = |x: &FloatTensor<B>| heads_of::<B>(x, first, length, group);
        let query = |x: &FloatTensor<B>| heads_of::<B>(x, first, length, 1);
        let (q, k, v, dout, out) = (query(&q), side(&k), side(&v), query(&dout), query(&out));
        let p = probabilities::<B>(q.clone(), k.clone(), scale);
        let dp = B::float_matmul(dout.clone(), B::float_swap_dims(v, 1, 2));
        let through = B::float_sum_dim(B::float_mul(dout.clone(), out), 2);
        let ds = B::float_mul(p.clone(), B::float_sub(dp, through));
        let ds = B::float_mul_scalar(ds, Scalar::from(scale));
        // The gradient of a KV head is the sum over the query heads that read it.
        let sum = |x: FloatTensor<B>| {
            let x = B::float_reshape(x, Shape::from([kv_heads, group, length, head_dim]));
            let x = B::float_reshape(B::float_sum_dim(x, 1), Shape::from([kv_heads, length, head_dim]));
            B::float_swap_dims(x, 0, 1)
        };
        dq.push(B::float_swap_dims(B::float_matmul(ds.clone(), k), 0, 1));
        dk.push(sum(B::float_matmul(B::float_swap_dims(ds, 1, 2), q)));
        dv.push(sum(B::float_matmul(B::float_swap_dims(p, 1, 2), dout)));
    }
    (B::float_cat(dq, 0), B::float_cat(dk, 0), B::float_cat(dv, 0))
}

/// See [`TrainingOps::cross_entropy`].
pub fn cross_entropy<B: Backend>(logits: FloatTensor<B>, targets: IntTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let [tokens, _] = logits.shape().dims();
    let max = B::float_max_dim(logits.clone(), 1);
    let sum = B::float_sum_dim(B::float_exp(B::float_sub(logits.clone(), max.clone())), 1);
    let lse = B::float_add(B::float_log(sum), max);
    let picked = B::float_gather(1, logits, B::int_reshape(targets, Shape::from([tokens, 1])));
    let flat = |x| B::float_reshape(x, Shape::from([tokens]));
    (flat(B::float_sub(lse.clone(), picked)), flat(lse))
}

/// See [`TrainingOps::cross_entropy_backward`].
pub fn cross_entropy_backward<B: Backend>(
    logits: FloatTensor<B>,
    targets: IntTensor<B>,
    lse: FloatTensor<B>,
    dloss: FloatTensor<B>,
) -> FloatTensor<B> {
    let [tokens, _] = logits.shape().dims();
    let column = |x| B::float_reshape(x, Shape::from([tokens, 1]));
    let p = B::float_exp(B::float_sub(logits, column(lse)));
    let dloss = column(dloss);
    let targets = B::int_reshape(targets, Shape::from([tokens, 1]));
    B::float_scatter(1, B::float_mul(p, dloss.clone()), targets, B::float_neg(dloss), IndexingUpdateOp::Add)
}

/// See [`TrainingOps::adamw`].
pub fn adamw<B: Backend>(
    w: FloatTensor<B>,
    gradient: FloatTensor<B>,
    mean: FloatTensor<B>,
    square: FloatTensor<B>,
    step: AdamW,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let AdamW { learning_rate, beta_1, beta_2, epsilon, weight_decay, gradient_scale, step } = step;
    debug_assert_eq!(w.dtype(), DType::F32);
    let times = |x, factor: f32| B::float_mul_scalar(x, Scalar::from(factor));
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(i32::try_from(step).unwrap_or(i32::MAX));
    let g = times(gradient, gradient_scale);
    let mean = B::float_add(times(mean, beta_1), times(g.clone(), 1.0 - beta_1));
    let square = B::float_add(times(square, beta_2), times(B::float_mul(g.clone(), g), 1.0 - beta_2));
    let root = times(B::float_sqrt(square.clone()), (1.0 / correction(beta_2).sqrt()) as f32);
    let size = (f64::from(learning_rate) / correction(beta_1)) as f32;
    let update = B::float_div(times(mean.clone(), size), B::float_add_scalar(root, Scalar::from(epsilon)));
    let kept = times(w, (1.0 - f64::from(learning_rate) * f64::from(weight_decay)) as f32);
    (B::float_sub(kept, update), mean, square)
}
