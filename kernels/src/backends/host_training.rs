//! The slice kernels of training as backend operations, for every backend whose tensors are slices in memory.

use bitnet_ternary::Granularity;
use burn::backend::TensorMetadata;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::FloatDType;

use super::host::{HostBackend, scale_view};
use super::written::written;
use crate::cpu::adamw::{self, AdamW};
use crate::cpu::attention::segments::{self, Heads};
use crate::cpu::gate::{self, Gate};
use crate::cpu::isa::Isa;
use crate::cpu::ternary::{self, TernaryView};
use crate::cpu::{blend, cross_entropy, linear_backward, norm, quantize, round};
use crate::ops::training::{Precision, TrainingOps, reference};
use crate::ops::{TernaryOps, WeightOrder};

/// Borrows canonical words and their scale.
fn view<'a, B: HostBackend>(
    words: &'a IntTensor<B>,
    scale: &'a FloatTensor<B>,
    granularity: Granularity,
    cols: usize,
) -> TernaryView<'a> {
    let [rows, _] = words.shape().dims();
    let scale = scale_view(B::f32s(scale), scale.shape().dims(), &reference::spec(granularity, cols));
    TernaryView { words: B::words(words), order: WeightOrder::Rows, rows, cols, scale }
}

fn heads_of<B: HostBackend>(q: &FloatTensor<B>, k: &FloatTensor<B>) -> Heads {
    let ([_, heads, head_dim], [_, kv_heads, _]): ([usize; 3], [usize; 3]) = (q.shape().dims(), k.shape().dims());
    Heads { heads, kv_heads, head_dim }
}

impl<B: HostBackend> TrainingOps for B {
    fn absmean_quantize(w: FloatTensor<Self>, granularity: Granularity) -> (IntTensor<Self>, FloatTensor<Self>) {
        let w = B::contiguous(w);
        let [rows, cols] = w.shape().dims();
        let width = cols.div_ceil(16);
        let (of_row, scales) = quantize::scales(granularity, rows, cols);
        let (mut words, mut scale) = (vec![0u32; rows * width], vec![0f32; scales]);
        quantize::absmean(Isa::active(), B::f32s(&w), cols, granularity, &mut words, &mut scale);
        (B::from_words(words, &[rows, width]), B::from_f32s(scale, &[scales / of_row, of_row]))
    }

    fn ternary_fake_quant(w: FloatTensor<Self>, granularity: Granularity) -> FloatTensor<Self> {
        let [_, cols] = w.shape().dims();
        let (words, scale) = B::absmean_quantize(w, granularity);
        B::ternary_dequantize(words, scale, reference::spec(granularity, cols))
    }

    fn blended_input(x: FloatTensor<Self>, lambda: f32) -> FloatTensor<Self> {
        let x = B::contiguous(x);
        let [tokens, cols] = x.shape().dims();
        let out = written(tokens * cols, |out| blend::activations(Isa::active(), B::f32s(&x), cols, lambda, out));
        B::from_f32s(out, &[tokens, cols])
    }

    fn blended_weight(w: FloatTensor<Self>, granularity: Granularity, lambda: f32) -> FloatTensor<Self> {
        let w = B::contiguous(w);
        let [rows, cols] = w.shape().dims();
        let (words, scale) = B::absmean_quantize(w.clone(), granularity);
        let trits = view::<B>(&words, &scale, granularity, cols);
        let out = written(rows * cols, |out| blend::weights(Isa::active(), B::f32s(&w), &trits, lambda, out));
        B::from_f32s(out, &[rows, cols])
    }

    fn absmax_quantize(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        let x = B::contiguous(x);
        let [tokens, cols] = x.shape().dims();
        let (mut codes, mut multiplier) = (vec![0i8; tokens * cols], vec![0f32; tokens]);
        quantize::absmax(Isa::active(), B::f32s(&x), cols, &mut codes, &mut multiplier);
        (B::from_codes(codes, &[tokens, cols]), B::from_f32s(multiplier, &[tokens, 1]))
    }

    fn linear_of_codes(
        codes: IntTensor<Self>,
        multiplier: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        granularity: Granularity,
        cols: usize,
    ) -> FloatTensor<Self> {
        let [tokens, _] = codes.shape().dims();
        let w = view::<B>(&words, &scale, granularity, cols);
        let out = written(tokens * w.rows, |out| {
            ternary::linears_of_codes(Isa::active(), B::codes(&codes), B::f32s(&multiplier), &[w], &mut [out]);
        });
        B::from_f32s(out, &[tokens, w.rows])
    }

    fn packed_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        granularity: Granularity,
        cols: usize,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let dy = B::contiguous(dy);
        let [tokens, _] = dy.shape().dims();
        let w = view::<B>(&words, &scale, granularity, cols);
        let dx = written(tokens * cols, |dx| {
            linear_backward::ternary_input(Isa::active(), precision, B::f32s(&dy), tokens, &w, dx);
        });
        B::from_f32s(dx, &[tokens, cols])
    }

    fn codes_weight_gradient(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        multiplier: FloatTensor<Self>,
        cols: usize,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let dy = B::contiguous(dy);
        let [_, rows] = dy.shape().dims();
        let (codes, multiplier) = (B::codes(&codes), B::f32s(&multiplier));
        let dw = written(rows * cols, |dw| {
            linear_backward::quantized_weight(Isa::active(), precision, B::f32s(&dy), codes, multiplier, dw);
        });
        B::from_f32s(dw, &[rows, cols])
    }

    fn float_linear(x: FloatTensor<Self>, w: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        let (x, w) = (B::contiguous(x), B::contiguous(w));
        let ([tokens, cols], [rows, _]): ([usize; 2], [usize; 2]) = (x.shape().dims(), w.shape().dims());
        let y = written(tokens * rows, |y| {
            linear_backward::float_forward(Isa::active(), precision, B::f32s(&x), B::f32s(&w), cols, y);
        });
        B::from_f32s(y, &[tokens, rows])
    }

    fn float_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        let (dy, w) = (B::contiguous(dy), B::contiguous(w));
        let ([tokens, _], [_, cols]): ([usize; 2], [usize; 2]) = (dy.shape().dims(), w.shape().dims());
        let dx = written(tokens * cols, |dx| {
            linear_backward::float_input(Isa::active(), precision, B::f32s(&dy), B::f32s(&w), cols, dx);
        });
        B::from_f32s(dx, &[tokens, cols])
    }

    fn float_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        let (dy, x) = (B::contiguous(dy), B::contiguous(x));
        let ([tokens, rows], [_, cols]): ([usize; 2], [usize; 2]) = (dy.shape().dims(), x.shape().dims());
        let dw = written(rows * cols, |dw| {
            linear_backward::float_weight(Isa::active(), precision, B::f32s(&dy), B::f32s(&x), tokens, dw);
        });
        B::from_f32s(dw, &[rows, cols])
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight, dy) = (B::contiguous(x), B::contiguous(weight), B::contiguous(dy));
        let [width] = weight.shape().dims();
        let mut dweight = vec![0f32; width];
        let (values, weights) = (B::f32s(&x), B::f32s(&weight));
        let dx = written(values.len(), |dx| {
            norm::backward(Isa::active(), values, weights, eps as f32, B::f32s(&dy), dx, &mut dweight);
        });
        (B::from_f32s(dx, x.shape().as_slice()), B::from_f32s(dweight, &[width]))
    }

    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kind: Gate,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (gate, up, dy) = (B::contiguous(gate), B::contiguous(up), B::contiguous(dy));
        let shape = gate.shape();
        let (gate, up, dy) = (B::f32s(&gate), B::f32s(&up), B::f32s(&dy));
        let mut dup = Vec::new();
        let dgate = written(gate.len(), |dgate| {
            dup = written(gate.len(), |dup| gate::backward(Isa::active(), kind, gate, up, dy, dgate, dup));
        });
        (B::from_f32s(dgate, shape.as_slice()), B::from_f32s(dup, shape.as_slice()))
    }

    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Vec<usize>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let (q, k, v) = (B::contiguous(q), B::contiguous(k), B::contiguous(v));
        let heads = heads_of::<B>(&q, &k);
        let (queries, keys, values) = (B::f32s(&q), B::f32s(&k), B::f32s(&v));
        let out = written(queries.len(), |out| {
            segments::attend(Isa::active(), queries, keys, values, &segments, heads, scale as f32, out);
        });
        B::from_f32s(out, q.shape().as_slice())
    }

    fn segment_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        segments: Vec<usize>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (q, k, v) = (B::contiguous(q), B::contiguous(k), B::contiguous(v));
        let (out, dout) = (B::contiguous(out), B::contiguous(dout));
        let heads = heads_of::<B>(&q, &k);
        let (q_shape, k_shape) = (q.shape(), k.shape());
        let inputs = [B::f32s(&q), B::f32s(&k), B::f32s(&v)];
        let (out, dout, scale) = (B::f32s(&out), B::f32s(&dout), scale as f32);
        let (mut dk, mut dv) = (Vec::new(), Vec::new());
        let dq = written(out.len(), |dq| {
            dk = written(k_shape.num_elements(), |dk| {
                dv = written(k_shape.num_elements(), |dv| {
                    segments::backward(Isa::active(), inputs, out, dout, &segments, heads, scale, [dq, dk, dv]);
                });
            });
        });
        let side = |values| B::from_f32s(values, k_shape.as_slice());
        (B::from_f32s(dq, q_shape.as_slice()), side(dk), side(dv))
    }

    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (logits, targets) = (B::contiguous(logits), B::contiguous_int(targets));
        let [tokens, _] = logits.shape().dims();
        let (mut loss, mut lse) = (vec![0f32; tokens], vec![0f32; tokens]);
        cross_entropy::cross_entropy(Isa::active(), B::f32s(&logits), B::words(&targets), &mut loss, &mut lse);
        (B::from_f32s(loss, &[tokens]), B::from_f32s(lse, &[tokens]))
    }

    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        lse: FloatTensor<Self>,
        dloss: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (logits, targets) = (B::contiguous(logits), B::contiguous_int(targets));
        let (lse, dloss) = (B::contiguous(lse), B::contiguous(dloss));
        let (values, targets) = (B::f32s(&logits), B::words(&targets));
        let out = written(values.len(), |out| {
            cross_entropy::backward(Isa::active(), values, targets, B::f32s(&lse), B::f32s(&dloss), out);
        });
        B::from_f32s(out, logits.shape().as_slice())
    }

    fn round_to(x: FloatTensor<Self>, to: FloatDType) -> FloatTensor<Self> {
        let x = B::contiguous(x);
        B::change_f32s(x, |values| match to {
            FloatDType::F16 => round::to_f16(values),
            FloatDType::BF16 => round::to_bf16(values),
            FloatDType::F32 | FloatDType::F64 => {}
            other => panic!("values are rounded to f16 or bf16, not {other:?}"),
        })
    }

    fn adamw(
        w: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        step: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let gradient = B::contiguous(gradient);
        let (mut mean, mut square) = (Some(mean), Some(square));
        let w = B::change_f32s(B::contiguous(w), |w| {
            mean = mean.take().map(|mean| {
                B::change_f32s(B::contiguous(mean), |mean| {
                    square = square.take().map(|square| {
                        B::change_f32s(B::contiguous(square), |square| {
                            adamw::adamw(Isa::active(), step, w, B::f32s(&gradient), mean, square);
                        })
                    });
                })
            });
        });
        (w, mean.expect("it was changed"), square.expect("it was changed"))
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = B::contiguous(x);
        B::from_f32s(vec![adamw::sum_of_squares(Isa::active(), B::f32s(&x)) as f32], &[1])
    }
}
