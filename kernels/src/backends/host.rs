//! The slice kernels as backend operations, for every backend whose tensors are slices in memory.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};

use crate::cpu::attention::{AttentionShape, attention};
use crate::cpu::dense::{self, DenseView, RowFormat};
use crate::cpu::gate::{Gate, gated};
use crate::cpu::isa::Isa;
use crate::cpu::norm;
use crate::cpu::rope;
use crate::cpu::ternary::{self, ScaleView, TernaryView};
use crate::ops::{Activations, TernaryOps, TernarySpec};

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
    /// A new F32 tensor.
    fn from_f32s(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self>;
}

fn scale_view<'a>(scale: &'a [f32], shape: [usize; 2], spec: &TernarySpec) -> ScaleView<'a> {
    match (spec.group, shape) {
        (Some(size), _) => ScaleView::Group { size, values: scale },
        (None, [1, 1]) => ScaleView::Tensor(scale[0]),
        (None, _) => ScaleView::Row(scale),
    }
}

impl<B: HostBackend> TernaryOps for B {
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let (x, words, scale) = (B::contiguous(x), B::contiguous_int(words), B::contiguous(scale));
        let [tokens, _] = x.shape().dims();
        let [rows, _] = words.shape().dims();
        let scale = scale_view(B::f32s(&scale), scale.shape().dims(), &spec);
        let w = TernaryView { words: B::words(&words), rows, cols: spec.cols, scale };
        let mut out = vec![0f32; tokens * rows];
        match spec.activations {
            Activations::Int8 => ternary::linear(Isa::active(), B::f32s(&x), tokens, &w, &mut out),
            Activations::Float => ternary::linear_float(Isa::active(), B::f32s(&x), tokens, &w, &mut out),
        }
        B::from_f32s(out, &[tokens, rows])
    }

    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        let (words, scale) = (B::contiguous_int(words), B::contiguous(scale));
        let [rows, _] = words.shape().dims();
        let scale = scale_view(B::f32s(&scale), scale.shape().dims(), &spec);
        let w = TernaryView { words: B::words(&words), rows, cols: spec.cols, scale };
        let mut out = vec![0f32; rows * spec.cols];
        ternary::dequantize(&w, &mut out);
        B::from_f32s(out, &[rows, spec.cols])
    }

    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, w) = (B::contiguous(x), B::contiguous(w));
        let [tokens, cols] = x.shape().dims();
        let [rows, _] = w.shape().dims();
        let mut out = vec![0f32; tokens * rows];
        let w = DenseView::Floats { values: B::f32s(&w), cols };
        dense::linear(Isa::active(), B::f32s(&x), tokens, &w, &mut out);
        B::from_f32s(out, &[tokens, rows])
    }

    fn rows_linear(x: FloatTensor<Self>, rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        let (x, stored) = (B::contiguous(x), B::contiguous_int(rows));
        let [tokens, _] = x.shape().dims();
        let [rows, row_bytes] = stored.shape().dims();
        let w = DenseView::Stored { bytes: B::bytes(&stored), cols, row_bytes, format };
        let mut out = vec![0f32; tokens * rows];
        dense::linear(Isa::active(), B::f32s(&x), tokens, &w, &mut out);
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
        let mut out = vec![0f32; x.shape().num_elements()];
        norm::rms_norm(B::f32s(&x), B::f32s(&weight), eps as f32, &mut out);
        B::from_f32s(out, x.shape().as_slice())
    }

    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, start: usize) -> FloatTensor<Self> {
        let (x, cos, sin) = (B::contiguous(x), B::contiguous(cos), B::contiguous(sin));
        let [_, half] = cos.shape().dims();
        let mut out = B::f32s(&x).to_vec();
        rope::rotate(&mut out, x.shape().dims(), B::f32s(&cos), B::f32s(&sin), half, start);
        B::from_f32s(out, x.shape().as_slice())
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        start: usize,
        scale: f64,
    ) -> FloatTensor<Self> {
        let (q, k, v) = (B::contiguous(q), B::contiguous(k), B::contiguous(v));
        let [batch, tokens, heads, head_dim] = q.shape().dims();
        let [_, kv_heads, capacity, _] = k.shape().dims();
        let shape = AttentionShape { batch, tokens, heads, kv_heads, head_dim, capacity, start };
        let mut out = vec![0f32; q.shape().num_elements()];
        attention(Isa::active(), B::f32s(&q), B::f32s(&k), B::f32s(&v), shape, scale as f32, &mut out);
        B::from_f32s(out, q.shape().as_slice())
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        let (gate, up) = (B::contiguous(gate), B::contiguous(up));
        let mut out = vec![0f32; gate.shape().num_elements()];
        gated(kind, B::f32s(&gate), B::f32s(&up), &mut out);
        B::from_f32s(out, gate.shape().as_slice())
    }
}
