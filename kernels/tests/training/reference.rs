//! Every operation against its body in Burn's own terms, and the quantized ones against the integers of
//! `bitnet-ternary`.

use bitnet_kernels::ops::training::{self, AdamW, Precision, Quantization, reference};
use bitnet_kernels::ops::{self, Activations};
use bitnet_kernels::{Gate, TrainingOps};
use bitnet_ternary::{Granularity, Scale, TernaryMatrix, quantize, reference as exact};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use crate::support::{close, floats, given, noise, tensor};

const GRANULARITIES: [Granularity; 4] =
    [Granularity::Tensor, Granularity::Row, Granularity::Group(16), Granularity::Group(48)];

/// Tokens, rows and columns, few of them a multiple of what kernels take at a time.
const SHAPES: [[usize; 3]; 4] = [[1, 1, 1], [3, 5, 70], [17, 33, 100], [40, 64, 259]];

/// Sequences of a batch, heads of queries and of keys, and their width.
const HEADS: [(&[usize], usize, usize, usize); 4] =
    [(&[1], 1, 1, 4), (&[5, 1, 11], 4, 2, 8), (&[33, 16], 6, 3, 20), (&[7, 70], 3, 1, 64)];

/// Weights about as large as those of a model, none of them half way between two trits.
fn weights(rows: usize, cols: usize) -> Vec<f32> {
    noise(50, rows * cols).iter().map(|w| w * 0.013 + 1e-4).collect()
}

fn scales(matrix: &TernaryMatrix) -> Vec<f32> {
    match matrix.scale() {
        Scale::Tensor(scale) => vec![*scale],
        Scale::Row(values) | Scale::Group { values, .. } => values.clone(),
    }
}

fn words(x: Tensor<2, Int>) -> Vec<u32> {
    x.into_data().iter().collect()
}

fn codes(x: Tensor<2, Int>) -> Vec<i32> {
    assert_eq!(x.dtype(), DType::I8);
    x.into_data().iter().collect()
}

fn ternary(granularity: Granularity, activations: Activations, lambda: f32) -> Quantization {
    Quantization::Ternary { granularity, activations, lambda }
}

/// The tests of one backend.
macro_rules! suite {
    ($name:ident, $backend:ty, $device:expr) => {
        mod $name {
            use super::*;

            type B = $backend;

            fn device() -> Device {
                $device
            }

            fn prim<const D: usize>(x: &Tensor<D>) -> FloatTensor<B> {
                x.clone().try_into_primitive::<B>().expect("a tensor of this backend")
            }

            fn prim_int<const D: usize>(x: &Tensor<D, Int>) -> IntTensor<B> {
                x.clone().try_into_primitive::<B>().expect("a tensor of this backend")
            }

            fn back<const D: usize>(x: FloatTensor<B>) -> Tensor<D> {
                Tensor::from_primitive::<B>(x)
            }

            fn back_int(x: IntTensor<B>) -> Tensor<2, Int> {
                Tensor::from_primitive::<B>(x)
            }

            #[test]
            fn weights_become_the_same_trits_everywhere() {
                for [_, rows, cols] in SHAPES {
                    for granularity in GRANULARITIES {
                        let values = weights(rows, cols);
                        let matrix = quantize::absmean(&values, rows, cols, granularity).unwrap();
                        let w = given(values, [rows, cols], &device());
                        let (found, scale) = training::absmean_quantize(w.clone(), granularity);
                        assert_eq!(words(found), matrix.words(), "{rows}x{cols} {granularity}");
                        assert_eq!(floats(scale.clone()), scales(&matrix), "{rows}x{cols} {granularity}");

                        let (found, body) = reference::absmean_quantize::<B>(prim(&w), granularity);
                        assert_eq!(words(back_int(found)), matrix.words(), "body, {rows}x{cols} {granularity}");
                        close(back::<2>(body) * 100.0, scale * 100.0, "the scale of the body");
                    }
                }
            }

            #[test]
            fn fake_quantized_weights_are_those_of_the_matrix_and_pass_their_gradient_on() {
                for [_, rows, cols] in SHAPES {
                    for granularity in GRANULARITIES {
                        let values = weights(rows, cols);
                        let expected = quantize::absmean(&values, rows, cols, granularity).unwrap().to_f32();
                        let w = given(values.clone(), [rows, cols], &device());
                        let found = training::ternary_fake_quant(w.clone(), granularity);
                        assert_eq!(floats(found.clone()), expected, "{rows}x{cols} {granularity}");
                        let body = back::<2>(reference::ternary_fake_quant::<B>(prim(&w), granularity));
                        close(body * 100.0, found * 100.0, "body");

                        let autodiff = device().autodiff();
                        let w = given(values, [rows, cols], &autodiff).require_grad();
                        let dw = tensor::<2>(50, [rows, cols], &autodiff);
                        let y = training::ternary_fake_quant(w.clone(), granularity);
                        assert_eq!(floats(y.clone().inner()), expected, "{rows}x{cols} {granularity}, autodiff");
                        let found = w.grad(&(y * dw.clone()).sum().backward()).unwrap();
                        assert_eq!(floats(found), floats(dw.inner()), "straight through");
                    }
                }
            }

            #[test]
            fn blended_values_are_those_of_the_body_to_the_bit() {
                for [tokens, rows, cols] in SHAPES {
                    for lambda in [0.25, 0.7, 1.0] {
                        let x = tensor::<2>(52, [tokens, cols], &device());
                        let found = B::blended_input(prim(&x), lambda);
                        assert_eq!(
                            floats(back::<2>(found)),
                            floats(back::<2>(reference::blended_input::<B>(prim(&x), lambda)))
                        );
                        let w = given(weights(rows, cols), [rows, cols], &device());
                        for granularity in GRANULARITIES {
                            let found = B::blended_weight(prim(&w), granularity, lambda);
                            let body = reference::blended_weight::<B>(prim(&w), granularity, lambda);
                            assert_eq!(
                                floats(back::<2>(found)),
                                floats(back::<2>(body)),
                                "{rows}x{cols} {granularity}"
                            );
                        }
                    }
                }
            }

            #[test]
            fn activations_become_the_same_codes_everywhere() {
                for [tokens, _, cols] in SHAPES {
                    let x = tensor::<2>(51, [tokens, cols], &device());
                    // The last token has the floor for a magnitude.
                    let x = Tensor::cat(vec![x, Tensor::zeros([1, cols], &device())], 0);
                    let (found, multiplier) = B::absmax_quantize(prim(&x));
                    let (body, scale) = reference::absmax_quantize::<B>(prim(&x));
                    assert_eq!(codes(back_int(found)), codes(back_int(body)));
                    assert_eq!(floats(back::<2>(multiplier)), floats(back::<2>(scale)));
                }
            }

            #[test]
            fn products_of_codes_are_exact() {
                for [tokens, rows, cols] in SHAPES {
                    for granularity in GRANULARITIES {
                        let w = given(weights(rows, cols), [rows, cols], &device());
                        let matrix = quantize::absmean(&floats(w.clone()), rows, cols, granularity).unwrap();
                        let x = tensor::<2>(52, [tokens, cols], &device());
                        let expected = exact::linear(&floats(x.clone()), tokens, &matrix);

                        let how = ternary(granularity, Activations::Int8, 1.0);
                        let [y] = training::quantized_linears(x.clone(), [w.clone()], how, Precision::F32);
                        assert_eq!(floats(y), expected, "{tokens} {rows}x{cols} {granularity}");
                        let (codes, multiplier) = B::absmax_quantize(prim(&x));
                        let (words, scale) = B::absmean_quantize(prim(&w), granularity);
                        let body = reference::linear_of_codes::<B>(codes, multiplier, words, scale, granularity, cols);
                        assert_eq!(floats(back::<2>(body)), expected, "body, {tokens} {rows}x{cols} {granularity}");
                    }
                }
            }

            #[test]
            fn layers_of_one_input_are_those_layers_one_by_one() {
                let x = tensor::<2>(53, [9, 70], &device());
                let matrix = |rows, seed| tensor::<2>(seed, [rows, 70], &device());
                let [a, b, c] = [matrix(33, 54), matrix(16, 55), matrix(5, 56)];
                for how in [
                    Quantization::None,
                    Quantization::BITNET,
                    ternary(Granularity::Group(16), Activations::Int8, 0.5),
                    ternary(Granularity::Row, Activations::Float, 1.0),
                ] {
                    let all =
                        training::quantized_linears(x.clone(), [a.clone(), b.clone(), c.clone()], how, Precision::F32);
                    let two = training::quantized_linears(x.clone(), [a.clone(), b.clone()], how, Precision::F32);
                    for (i, w) in [&a, &b, &c].into_iter().enumerate() {
                        let [alone] = training::quantized_linears(x.clone(), [w.clone()], how, Precision::F32);
                        assert_eq!(floats(all[i].clone()), floats(alone.clone()), "{how:?}");
                        if let Some(y) = two.get(i) {
                            assert_eq!(floats(y.clone()), floats(alone), "{how:?}");
                        }
                    }
                }
            }

            #[test]
            fn gradients_of_quantized_layers_agree_with_the_reference() {
                for [tokens, rows, cols] in SHAPES {
                    let dy = tensor::<2>(57, [tokens, rows], &device());
                    let x = tensor::<2>(58, [tokens, cols], &device());
                    let (codes, multiplier) = B::absmax_quantize(prim(&x));
                    let body = reference::codes_weight_gradient::<B>(
                        prim(&dy),
                        codes.clone(),
                        multiplier.clone(),
                        cols,
                        Precision::F32,
                    );
                    let dw = B::codes_weight_gradient(prim(&dy), codes, multiplier, cols, Precision::F32);
                    close::<2>(back(dw), back(body), "dweight");
                    for granularity in GRANULARITIES {
                        let w = given(weights(rows, cols), [rows, cols], &device());
                        let (words, scale) = B::absmean_quantize(prim(&w), granularity);
                        let (also, spec) = ((words.clone(), scale.clone()), granularity);
                        let body =
                            reference::packed_input_gradient::<B>(prim(&dy), words, scale, spec, cols, Precision::F32);
                        let dx = B::packed_input_gradient(prim(&dy), also.0, also.1, spec, cols, Precision::F32);
                        close::<2>(back::<2>(dx) * 10.0, back::<2>(body) * 10.0, "dx");
                    }
                }
            }

            #[test]
            fn float_layers_are_matrix_products() {
                for [tokens, rows, cols] in SHAPES {
                    let (x, w) = (tensor::<2>(59, [tokens, cols], &device()), tensor::<2>(60, [rows, cols], &device()));
                    let dy = tensor::<2>(61, [tokens, rows], &device());
                    let y = back(B::float_linear(prim(&x), prim(&w), Precision::F32));
                    close(y, x.clone().matmul(w.clone().transpose()), "y");
                    close(
                        back(B::float_input_gradient(prim(&dy), prim(&w), Precision::F32)),
                        dy.clone().matmul(w),
                        "dx",
                    );
                    close(
                        back(B::float_weight_gradient(prim(&dy), prim(&x), Precision::F32)),
                        dy.transpose().matmul(x),
                        "dweight",
                    );
                }
            }

            #[test]
            fn gradients_of_norm_and_gate_agree_with_the_reference() {
                for [tokens, _, cols] in SHAPES {
                    let part = |seed| tensor::<2>(seed, [tokens, cols], &device());
                    let (x, up, dy, w) = (part(62), part(63), part(64), tensor::<1>(65, [cols], &device()));
                    let (dx, dw) = B::rms_norm_backward(prim(&x), prim(&w), prim(&dy), 1e-5);
                    let body = reference::rms_norm_backward::<B>(prim(&x), prim(&w), prim(&dy), 1e-5);
                    close::<2>(back(dx), back(body.0), "dx of the norm");
                    close::<1>(back(dw), back(body.1), "dweight of the norm");
                    for kind in [Gate::Relu2, Gate::Silu] {
                        let (dgate, dup) = B::gated_backward(prim(&x), prim(&up), prim(&dy), kind);
                        let body = reference::gated_backward::<B>(prim(&x), prim(&up), prim(&dy), kind);
                        close::<2>(back(dgate), back(body.0), "dgate");
                        close::<2>(back(dup), back(body.1), "dup");
                    }
                }
            }

            #[test]
            fn attention_within_sequences_agrees_with_the_reference() {
                for (segments, heads, kv_heads, width) in HEADS {
                    let tokens = segments.iter().sum::<usize>();
                    let side = |seed, heads| tensor::<3>(seed, [tokens, heads, width], &device());
                    let (q, k, v) = (side(66, heads), side(67, kv_heads), side(68, kv_heads));
                    let dout = side(69, heads);
                    let what = format!("{segments:?}, {heads} and {kv_heads} heads of {width}");
                    let out = training::segment_attention([q.clone(), k.clone(), v.clone()], segments, 0.2);
                    let body = reference::segment_attention::<B>(prim(&q), prim(&k), prim(&v), segments, 0.2);
                    close(out.clone(), back(body), &what);

                    let [pq, pk, pv, pout, pdout] = [&q, &k, &v, &out, &dout].map(prim);
                    let inputs = || (pq.clone(), pk.clone(), pv.clone(), pout.clone(), pdout.clone());
                    let (q, k, v, out, dout) = inputs();
                    let (dq, dk, dv) = B::segment_attention_backward(q, k, v, out, dout, segments.to_vec(), 0.2);
                    let (q, k, v, out, dout) = inputs();
                    let body = reference::segment_attention_backward::<B>(q, k, v, out, dout, segments, 0.2);
                    close::<3>(back(dq), back(body.0), &format!("dq, {what}"));
                    close::<3>(back(dk), back(body.1), &format!("dk, {what}"));
                    close::<3>(back(dv), back(body.2), &format!("dv, {what}"));
                }
            }

            #[test]
            fn attention_reads_no_later_token_and_no_other_sequence() {
                let side = |seed, heads| tensor::<3>(seed, [9, heads, 8], &device());
                let sides = [side(70, 4), side(71, 2), side(72, 2)];
                let y = floats(training::segment_attention(sides.clone(), &[4, 5], 0.3));
                // The first sequence, and what comes after the second token of the second one.
                let [q, k, v] = sides.map(|side| {
                    let [_, heads, width] = side.dims();
                    let side = side.slice_fill([0..4, 0..heads, 0..width], f32::NAN);
                    side.slice_fill([6..9, 0..heads, 0..width], 1e9)
                });
                let found = floats(training::segment_attention([q, k, v], &[4, 5], 0.3));
                let seen = 4 * 32..6 * 32;
                assert_eq!(found[seen.clone()], y[seen]);
            }

            #[test]
            fn the_loss_and_its_gradient_agree_with_the_reference() {
                for [tokens, _, vocab] in SHAPES {
                    // Logits whose exponentials do not fit in f32.
                    let logits = tensor::<2>(73, [tokens, vocab], &device()) * 100.0;
                    let ids: Vec<u32> = (0..tokens).map(|t| (t * 37 % vocab) as u32).collect();
                    let targets =
                        |dtype| Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [tokens]), (&device(), dtype));
                    let (native, plain) = (targets(DType::U32), targets(DType::I64));
                    let (loss, lse) = B::cross_entropy(prim(&logits), prim_int(&native));
                    let body = reference::cross_entropy::<B>(prim(&logits), prim_int(&plain));
                    close::<1>(back(loss), back(body.0), "loss");
                    close::<1>(back(lse.clone()), back(body.1), "logarithm of the sum");

                    let dloss = tensor::<1>(74, [tokens], &device());
                    let body = reference::cross_entropy_backward::<B>(
                        prim(&logits),
                        prim_int(&plain),
                        lse.clone(),
                        prim(&dloss),
                    );
                    let dlogits = B::cross_entropy_backward(prim(&logits), prim_int(&native), lse, prim(&dloss));
                    close::<2>(back(dlogits), back(body), "dlogits");
                }
            }

            #[test]
            fn values_are_rounded_as_a_file_stores_them() {
                let values: Vec<f32> = noise(75, 999).iter().map(|x| x * x * x * 1e-3).collect();
                let x = given(values.clone(), [27, 37], &device());
                let f16: Vec<f32> = values.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
                let bf16: Vec<f32> = values.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
                assert_eq!(floats(training::round_to(x.clone(), FloatDType::F16)), f16);
                assert_eq!(floats(training::round_to(x.clone(), FloatDType::BF16)), bf16);
                assert_eq!(floats(training::round_to(x.clone(), FloatDType::F32)), values);
                assert_eq!(floats(x), values, "what was rounded is a copy");
            }

            #[test]
            fn adamw_agrees_with_the_reference_and_changes_no_copy() {
                for shape in [[1, 1], [7, 33], [129, 67]] {
                    let start = tensor::<2>(76, shape, &device());
                    let zeros = || Tensor::<2>::zeros(shape, &device());
                    let (mut found, mut body) =
                        ((start.clone(), [zeros(), zeros()]), (start.clone(), zeros(), zeros()));
                    for step in 1..=4 {
                        let gradient = tensor::<2>(76 + step, shape, &device());
                        let how = AdamW {
                            learning_rate: 0.02,
                            beta_1: 0.9,
                            beta_2: 0.99,
                            epsilon: 1e-8,
                            weight_decay: 0.1,
                            gradient_scale: 0.3,
                            step,
                        };
                        let (w, mean, square) = body;
                        let (w, mean, square) =
                            reference::adamw::<B>(prim(&w), prim(&gradient), prim(&mean), prim(&square), how);
                        body = (back(w), back(mean), back(square));
                        found = training::adamw(found.0, gradient, found.1, how);
                        let (w, [mean, square]) = found.clone();
                        close(w, body.0.clone(), "weights");
                        close(mean, body.1.clone(), "mean");
                        close(square, body.2.clone(), "mean of squares");
                    }
                    assert_eq!(floats(start), floats(tensor::<2>(76, shape, &device())));
                }
            }

            #[test]
            fn sums_of_squares_are_sums() {
                for count in [1, 4096, 10_001] {
                    let x = tensor::<1>(81, [count], &device());
                    let sum: f64 = floats(x.clone()).iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                    let found = f64::from(floats(training::sum_of_squares(x))[0]);
                    assert!((found - sum).abs() < 1e-6 * sum, "{found} {sum}");
                }
            }

            #[test]
            fn views_are_read_in_their_own_order() {
                let view = |seed, rows, cols| {
                    let view = tensor::<2>(seed, [cols, rows], &device()).transpose();
                    let copy = given(floats(view.clone()), [rows, cols], &device());
                    [view, copy]
                };
                let same = |results: [Tensor<2>; 2]| {
                    let [a, b] = results.map(floats);
                    assert_eq!(a, b);
                };
                let (x, w, dy) = (view(82, 6, 50), view(83, 20, 50), view(84, 6, 20));
                let both = |f: &dyn Fn(usize) -> FloatTensor<B>| same([back(f(0)), back(f(1))]);
                both(&|i| B::float_linear(prim(&x[i]), prim(&w[i]), Precision::F32));
                both(&|i| B::float_input_gradient(prim(&dy[i]), prim(&w[i]), Precision::F32));
                both(&|i| B::float_weight_gradient(prim(&dy[i]), prim(&x[i]), Precision::F32));
                both(&|i| {
                    let (codes, multiplier) = B::absmax_quantize(prim(&x[i]));
                    B::codes_weight_gradient(prim(&dy[i]), codes, multiplier, 50, Precision::F32)
                });
                both(&|i| {
                    let (words, scale) = B::absmean_quantize(prim(&w[i]), Granularity::Row);
                    B::packed_input_gradient(prim(&dy[i]), words, scale, Granularity::Row, 50, Precision::F32)
                });
                both(&|i| B::round_to(prim(&x[i]), FloatDType::F16));
                let square = x.clone().map(|x| x.clone() * x);
                both(&|i| B::adamw(prim(&x[i]), prim(&x[i]), prim(&x[i]), prim(&square[i]), STEP).0);
                both(&|i| B::gated_backward(prim(&x[i]), prim(&x[1]), prim(&x[i]), Gate::Silu).0);
                let norm = tensor::<1>(85, [50], &device());
                both(&|i| B::rms_norm_backward(prim(&x[i]), prim(&norm), prim(&x[i]), 1e-5).0);
            }

            #[test]
            fn a_layer_of_a_normalized_input_is_the_layer_that_runs() {
                let (x, w) = (tensor::<2>(86, [5, 64], &device()), given(weights(20, 64), [20, 64], &device()));
                let normed = ops::rms_norm(x, tensor::<1>(87, [64], &device()), 1e-5);
                let [y] =
                    training::quantized_linears(normed.clone(), [w.clone()], Quantization::BITNET, Precision::F32);
                let (words, scale) = training::absmean_quantize(w, Granularity::Tensor);
                let spec = ops::TernarySpec {
                    cols: 64,
                    group: None,
                    activations: Activations::Int8,
                    order: bitnet_kernels::WeightOrder::Rows,
                };
                assert_eq!(floats(y), floats(ops::ternary_linear(normed, words, scale, spec)));
            }
        }
    };
}

/// Any step.
const STEP: AdamW = AdamW {
    learning_rate: 0.1,
    beta_1: 0.9,
    beta_2: 0.99,
    epsilon: 1e-8,
    weight_decay: 0.1,
    gradient_scale: 1.0,
    step: 3,
};

#[cfg(feature = "flex")]
suite!(flex, burn::backend::Flex, Device::flex());
#[cfg(feature = "ndarray")]
suite!(ndarray, burn::backend::NdArray, Device::ndarray());
