//! The slice kernels as backend operations, for every backend whose tensors are slices in memory.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};

use super::written::written;
use crate::cpu::attention::cached::Step;
use crate::cpu::best_logits;
use crate::cpu::dense::{self, DenseView, RowFormat};
use crate::cpu::float_activations;
use crate::cpu::gate::{self, Gate, gated};
use crate::cpu::isa::Isa;
use crate::cpu::kv_cache::CacheShape;
use crate::cpu::norm;
use crate::cpu::rope;
use crate::cpu::ternary::{self, ScaleView, TernaryView};
use crate::ops::{
    Activations, CacheSpec, LinearInput, Norm, Outputs, TernaryOps, TernarySpec, Weight, Weights, reference,
};

/// A backend whose tensors can be borrowed as slices.
///
/// The borrows need contiguous tensors of the named dtype; they panic on another dtype, as Burn's own operations do.
pub(crate) trait HostBackend: Backend {
    /// The same values, contiguous, row-major.
    fn contiguous(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The same values, contiguous, row-major.
    fn contiguous_int(x: IntTensor<Self>) -> IntTensor<Self>;
    /// The values of a contiguous F32 tensor.
    fn f32s(x: &FloatTensor<Self>) -> &[f32];
    /// The values of a contiguous U32 tensor.
    fn words(x: &IntTensor<Self>) -> &[u32];
    /// The values of a contiguous U8 tensor.
    fn bytes(x: &IntTensor<Self>) -> &[u8];
    /// Changes the values of a U32 tensor: in place if nothing else holds them, else in a copy.
    fn change_words(x: IntTensor<Self>, f: impl FnOnce(&mut [u32])) -> IntTensor<Self>;
    /// The values of a contiguous I8 tensor.
    fn codes(x: &IntTensor<Self>) -> &[i8];
    /// Changes the values of an F32 tensor: in place if nothing else holds them, else in a copy.
    fn change_f32s(x: FloatTensor<Self>, f: impl FnOnce(&mut [f32])) -> FloatTensor<Self>;
    /// A new F32 tensor.
    fn from_f32s(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self>;
    /// A new U32 tensor.
    fn from_words(values: Vec<u32>, shape: &[usize]) -> IntTensor<Self>;
    /// A new I8 tensor.
    fn from_codes(values: Vec<i8>, shape: &[usize]) -> IntTensor<Self>;
}

pub(super) fn scale_view<'a>(scale: &'a [f32], shape: [usize; 2], spec: &TernarySpec) -> ScaleView<'a> {
    match (spec.group, shape) {
        (Some(size), _) => ScaleView::Group { size, values: scale },
        (None, [1, 1]) => ScaleView::Tensor(scale[0]),
        (None, _) => ScaleView::Row(scale),
    }
}

fn view<'a, B: HostBackend>(words: &'a IntTensor<B>, scale: &'a FloatTensor<B>, spec: &TernarySpec) -> TernaryView<'a> {
    let [rows, _] = words.shape().dims();
    let scale = scale_view(B::f32s(scale), scale.shape().dims(), spec);
    TernaryView { words: B::words(words), order: spec.order, rows, cols: spec.cols, scale }
}

/// All layers of one input, which `row` writes for one token.
fn linears<B: HostBackend>(
    tokens: usize,
    row: impl Fn(usize, &mut [f32]) + Sync,
    weights: Weights<B>,
) -> Vec<FloatTensor<B>> {
    let contiguous =
        |w: Weight<B>| Weight { words: B::contiguous_int(w.words), scale: B::contiguous(w.scale), spec: w.spec };
    let tensors: Vec<Weight<B>> = weights.into_vec().into_iter().map(contiguous).collect();
    let specs: Vec<TernarySpec> = tensors.iter().map(|w| w.spec).collect();
    let weights: Vec<TernaryView<'_>> = tensors.iter().map(|w| view::<B>(&w.words, &w.scale, &w.spec)).collect();
    let all_int8 = specs.iter().all(|spec| spec.activations == Activations::Int8);
    if let ([w], true) = (&*weights, all_int8) {
        let out = written(tokens * w.rows, |out| ternary::linears(Isa::active(), tokens, row, &weights, &mut [out]));
        return vec![B::from_f32s(out, &[tokens, w.rows])];
    }
    let mut out: Vec<Vec<f32>> = weights.iter().map(|w| vec![0f32; tokens * w.rows]).collect();
    if all_int8 {
        let mut out: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        ternary::linears(Isa::active(), tokens, row, &weights, &mut out);
    } else {
        let cols = weights.first().map_or(0, |w| w.cols);
        let mut x = vec![0f32; tokens * cols];
        x.chunks_exact_mut(cols.max(1)).enumerate().for_each(|(token, x)| row(token, x));
        for ((w, spec), out) in weights.iter().zip(&specs).zip(&mut out) {
            match spec.activations {
                Activations::Int8 => ternary::linear(Isa::active(), &x, tokens, w, out),
                Activations::Float => float_activations::linear_float(Isa::active(), &x, tokens, w, out),
            }
        }
    }
    out.into_iter().zip(&weights).map(|(out, w)| B::from_f32s(out, &[tokens, w.rows])).collect()
}

/// Runs `f` with the number of tokens of an input and what writes the values of one, after its norm.
fn with_rows<B: HostBackend, R>(
    input: LinearInput<B>,
    norm: Norm<B>,
    f: impl FnOnce(usize, &(dyn Fn(usize, &mut [f32]) + Sync)) -> R,
) -> R {
    let isa = Isa::active();
    let norm = match norm {
        Norm::None => None,
        Norm::Rms { weight, eps } => Some((B::contiguous(weight), eps as f32)),
    };
    let normalize = |row: &mut [f32]| {
        if let Some((weight, eps)) = &norm {
            norm::normalize(isa, row, B::f32s(weight), *eps);
        }
    };
    match input {
        LinearInput::Plain(x) => {
            let x = B::contiguous(x);
            let [tokens, cols] = x.shape().dims();
            let x = B::f32s(&x);
            f(tokens, &|token: usize, row: &mut [f32]| {
                row.copy_from_slice(&x[token * cols..][..cols]);
                normalize(row);
            })
        }
        LinearInput::Gated { gate, up, kind } => {
            let (gate, up) = (B::contiguous(gate), B::contiguous(up));
            let [tokens, cols] = gate.shape().dims();
            let (gate, up) = (B::f32s(&gate), B::f32s(&up));
            f(tokens, &|token: usize, row: &mut [f32]| {
                let (gate, up) = (&gate[token * cols..][..cols], &up[token * cols..][..cols]);
                gate::gated_row(isa, kind, gate, up, row);
                normalize(row);
            })
        }
    }
}

impl<B: HostBackend> TernaryOps for B {
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let weights = Weights::One(Weight { words, scale, spec });
        let out = B::ternary_linears(LinearInput::Plain(x), Norm::None, weights);
        out.into_vec().pop().expect("one output for each matrix")
    }

    fn ternary_linears(input: LinearInput<Self>, norm: Norm<Self>, weights: Weights<Self>) -> Outputs<Self> {
        Outputs::from_vec(with_rows::<B, _>(input, norm, |tokens, row| linears::<B>(tokens, row, weights)))
    }

    fn ternary_linear_onto(
        residual: FloatTensor<Self>,
        input: LinearInput<Self>,
        norm: Norm<Self>,
        weight: Weight<Self>,
    ) -> FloatTensor<Self> {
        if weight.spec.activations == Activations::Float {
            return reference::ternary_linear_onto::<B>(residual, input, norm, weight);
        }
        let (words, scale) = (B::contiguous_int(weight.words), B::contiguous(weight.scale));
        let w = view::<B>(&words, &scale, &weight.spec);
        let residual = B::contiguous(residual);
        let residual = B::f32s(&residual);
        with_rows::<B, _>(input, norm, |tokens, row| {
            let isa = Isa::active();
            let out = written(tokens * w.rows, |out| ternary::linear_onto(isa, residual, tokens, row, &w, out));
            B::from_f32s(out, &[tokens, w.rows])
        })
    }

    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        let (words, scale) = (B::contiguous_int(words), B::contiguous(scale));
        let w = view::<B>(&words, &scale, &spec);
        let rows = w.rows;
        let out = written(rows * spec.cols, |out| ternary::dequantize(&w, out));
        B::from_f32s(out, &[rows, spec.cols])
    }

    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, w) = (B::contiguous(x), B::contiguous(w));
        let [tokens, cols] = x.shape().dims();
        let [rows, _] = w.shape().dims();
        let w = DenseView::Floats { values: B::f32s(&w), cols };
        let out = written(tokens * rows, |out| dense::linear(Isa::active(), B::f32s(&x), tokens, &w, out));
        B::from_f32s(out, &[tokens, rows])
    }

    fn rows_linear(x: FloatTensor<Self>, rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        let (x, stored) = (B::contiguous(x), B::contiguous_int(rows));
        let [tokens, _] = x.shape().dims();
        let [rows, row_bytes] = stored.shape().dims();
        let w = DenseView::Stored { bytes: B::bytes(&stored), cols, row_bytes, format };
        let out = written(tokens * rows, |out| dense::linear(Isa::active(), B::f32s(&x), tokens, &w, out));
        B::from_f32s(out, &[tokens, rows])
    }

    fn decode_rows(rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        let stored = B::contiguous_int(rows);
        let [rows, row_bytes] = stored.shape().dims();
        let mut out = vec![0f32; rows * cols];
        for (bytes, row) in B::bytes(&stored).chunks_exact(row_bytes).zip(out.chunks_exact_mut(cols)) {
            format.decode(bytes, row);
        }
        B::from_f32s(out, &[rows, cols])
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let (x, weight) = (B::contiguous(x), B::contiguous(weight));
        let (values, weight) = (B::f32s(&x), B::f32s(&weight));
        let out = written(values.len(), |out| norm::rms_norm(Isa::active(), values, weight, eps as f32, out));
        B::from_f32s(out, x.shape().as_slice())
    }

    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, start: usize) -> FloatTensor<Self> {
        let (x, cos, sin) = (B::contiguous(x), B::contiguous(cos), B::contiguous(sin));
        let [_, half] = cos.shape().dims();
        let mut out = B::f32s(&x).to_vec();
        rope::rotate(Isa::active(), &mut out, x.shape().dims(), B::f32s(&cos), B::f32s(&sin), half, start);
        B::from_f32s(out, x.shape().as_slice())
    }

    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        keys: IntTensor<Self>,
        values: IntTensor<Self>,
        places: IntTensor<Self>,
        spec: CacheSpec,
    ) -> (FloatTensor<Self>, IntTensor<Self>, IntTensor<Self>) {
        let isa = Isa::active();
        let (q, k, v) = (B::contiguous(q), B::contiguous(k), B::contiguous(v));
        let (cos, sin, places) = (B::contiguous(cos), B::contiguous(sin), B::contiguous_int(places));
        let shape: [usize; 3] = q.shape().dims();
        let [_, heads, head_dim] = shape;
        let [batch, kv_heads, blocks, _] = keys.shape().dims();
        let [_, half] = cos.shape().dims();
        let cache = CacheShape { batch, kv_heads, head_dim, blocks, format: spec.format };
        let step = Step {
            q: B::f32s(&q),
            k: B::f32s(&k),
            v: B::f32s(&v),
            cos: B::f32s(&cos),
            sin: B::f32s(&sin),
            places: B::words(&places),
            heads,
            half,
            scale: spec.scale as f32,
        };
        let keys = B::change_words(keys, |keys| step.write_keys(isa, cache, keys));
        let values = B::change_words(values, |values| step.write_values(cache, values));
        let (k, v) = (B::words(&keys), B::words(&values));
        let out = written(step.q.len(), |out| step.attend(isa, cache, k, v, out));
        (B::from_f32s(out, &shape), keys, values)
    }

    fn top_logits(logits: FloatTensor<Self>, count: usize) -> IntTensor<Self> {
        let logits = B::contiguous(logits);
        let [rows, vocab] = logits.shape().dims();
        B::from_words(
            best_logits::top_logits(Isa::active(), B::f32s(&logits), vocab, count),
            &[rows, best_logits::width(count)],
        )
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        let (gate, up) = (B::contiguous(gate), B::contiguous(up));
        let (gates, ups) = (B::f32s(&gate), B::f32s(&up));
        let out = written(gates.len(), |out| gated(Isa::active(), kind, gates, ups, out));
        B::from_f32s(out, gate.shape().as_slice())
    }
}
