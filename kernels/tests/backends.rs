//! Every operation on every compiled backend, against its body in Burn's own terms and the integers of
//! `bitnet-ternary`.
#![cfg(feature = "burn")]
#![cfg_attr(feature = "ndarray", expect(deprecated, reason = "kept as long as Burn has this backend"))]

mod support;

use bitnet_kernels::ops::{self, Activations, CacheSpec, Packed, TernarySpec, reference};
use bitnet_kernels::{CacheFormat, CodeRows, Gate, RowFormat, RowStorage, WeightOrder, row_storage};
use bitnet_ternary::{Scale, TernaryMatrix, reference as exact};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use support::{close, floats, noise, tensor};

struct Case {
    matrix: TernaryMatrix,
    words: Tensor<2, Int>,
    scale: Tensor<2>,
    spec: TernarySpec,
}

fn case(rows: usize, cols: usize, group: Option<usize>, activations: Activations, device: &Device) -> Case {
    let trits: Vec<i8> = noise(7, rows * cols).iter().map(|x| ((x * 7.0) as i32).rem_euclid(3) as i8 - 1).collect();
    let groups = |n: usize| noise(8, n).iter().map(|x| x.abs() + 0.1).collect::<Vec<_>>();
    let (scale, shape) = match group {
        None => (Scale::Tensor(0.37), [1, 1]),
        Some(0) => (Scale::Row(groups(rows)), [rows, 1]),
        Some(size) => {
            let count = cols.div_ceil(size);
            (Scale::Group { size, values: groups(rows * count) }, [rows, count])
        }
    };
    let matrix = TernaryMatrix::from_trits(rows, cols, &trits, scale).unwrap();
    let values = match matrix.scale() {
        Scale::Tensor(s) => vec![*s],
        Scale::Row(s) | Scale::Group { values: s, .. } => s.clone(),
    };
    let words = TensorData::new(matrix.words().to_vec(), [rows, cols.div_ceil(16)]);
    Case {
        words: Tensor::from_data(words, (device, DType::U32)),
        scale: Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)),
        spec: TernarySpec { cols, group: group.filter(|size| *size > 0), activations, order: WeightOrder::Rows },
        matrix,
    }
}

const GROUPS: [Option<usize>; 4] = [None, Some(0), Some(16), Some(128)];

/// Outputs of a ternary layer are its integers, scaled: equal to the bit, but for sums of groups where a device's compiler
/// fuses multiplications and additions.
fn same(y: &[f32], expected: &[f32], group: Option<usize>, device: &Device) {
    if group.is_none_or(|group| group == 0) || row_storage(device) == RowStorage::Bytes {
        assert_eq!(y, expected);
    }
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    assert_eq!(y.len(), expected.len());
    for (y, expected) in y.iter().zip(expected) {
        assert!((y - expected).abs() <= 16.0 * f32::EPSILON * largest, "{group:?}: {y} {expected}");
    }
}

/// Rows as the kernels of the device read them.
fn stored_rows(bytes: &[u8], rows: usize, device: &Device) -> Tensor<2, Int> {
    let (data, dtype) = match row_storage(device) {
        RowStorage::Bytes => (TensorData::new(bytes.to_vec(), [rows, bytes.len() / rows]), DType::U8),
        RowStorage::Words { .. } => {
            let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
            (TensorData::new(words, [rows, bytes.len() / rows / 4]), DType::U32)
        }
    };
    Tensor::from_data(data, (device, dtype))
}

/// The tests of one backend.
macro_rules! suite {
    ($name:ident, $backend:ty, $device:expr, $bodies:expr) => {
        mod $name {
            use super::*;

            /// Whether the bodies in Burn's terms are compared here. Its matrix product takes tens of seconds to compile
            /// for a CPU through CubeCL, and the bodies are the same everywhere.
            const BODIES: bool = $bodies;

            fn device() -> Device {
                $device
            }

            fn prim<const D: usize>(x: &Tensor<D>) -> burn::backend::tensor::FloatTensor<$backend> {
                x.clone().try_into_primitive::<$backend>().expect("a tensor of this backend")
            }

            fn prim_int(x: &Tensor<2, Int>) -> burn::backend::tensor::IntTensor<$backend> {
                x.clone().try_into_primitive::<$backend>().expect("a tensor of this backend")
            }

            #[test]
            fn the_ternary_linear_is_exact() {
                for (rows, cols, tokens) in [(5, 70, 1), (33, 256, 3), (64, 300, 6), (3, 16_384, 2), (9, 48, 600)] {
                    for group in GROUPS {
                        let c = case(rows, cols, group, Activations::Int8, &device());
                        let x = tensor::<2>(1, [tokens, cols], &device());
                        let expected = exact::linear(&floats(x.clone()), tokens, &c.matrix);
                        let y = ops::ternary_linear(x.clone(), c.words.clone(), c.scale.clone(), c.spec);
                        assert_eq!(y.dims(), [tokens, rows]);
                        same(&floats(y), &expected, group, &device());

                        if !BODIES {
                            continue;
                        }
                        let body =
                            reference::ternary_linear::<$backend>(prim(&x), prim_int(&c.words), prim(&c.scale), c.spec);
                        same(&floats(Tensor::<2>::from_primitive::<$backend>(body)), &expected, group, &device());
                    }
                }
            }

            /// What every 8-bit code and every trit at its largest add up to, for a few tokens and for many.
            #[test]
            fn the_largest_sums_are_exact() {
                for (tokens, cols) in [(2, 16_384), (12, 16_384), (40, 9_000)] {
                    for sign in [1i8, -1] {
                        let matrix =
                            TernaryMatrix::from_trits(3, cols, &vec![sign; 3 * cols], Scale::Tensor(0.37)).unwrap();
                        let words = TensorData::new(matrix.words().to_vec(), [3, cols.div_ceil(16)]);
                        let words = Tensor::from_data(words, (&device(), DType::U32));
                        let scale = Tensor::from_data(TensorData::new(vec![0.37f32], [1, 1]), (&device(), DType::F32));
                        let spec =
                            TernarySpec { cols, group: None, activations: Activations::Int8, order: WeightOrder::Rows };
                        let x = Tensor::<2>::full([tokens, cols], -3.0, (&device(), DType::F32));
                        let y = ops::ternary_linear(x.clone(), words, scale, spec);
                        assert_eq!(floats(y), exact::linear(&floats(x), tokens, &matrix), "{tokens} {cols} {sign}");
                    }
                }
            }

            /// The case with its words in the order of the native kernels.
            fn tiled(c: &Case) -> Packed {
                let words = WeightOrder::Rows.convert(WeightOrder::Tiles, c.matrix.words().to_vec(), c.spec.cols);
                let words = Tensor::from_data(TensorData::new(words, c.words.dims()), (&device(), DType::U32));
                Packed { words, scale: c.scale.clone(), spec: TernarySpec { order: WeightOrder::Tiles, ..c.spec } }
            }

            #[test]
            fn tiles_mean_what_rows_mean() {
                for (rows, group) in [(33, None), (7, Some(16)), (64, Some(0))] {
                    let c = case(rows, 100, group, Activations::Int8, &device());
                    let x = tensor::<2>(1, [3, 100], &device());
                    let t = tiled(&c);
                    let y = ops::ternary_linear(x.clone(), t.words.clone(), t.scale.clone(), t.spec);
                    same(&floats(y), &exact::linear(&floats(x.clone()), 3, &c.matrix), group, &device());
                    let dense = ops::dequantize(t.words.clone(), t.scale.clone(), t.spec);
                    assert_eq!(floats(dense), c.matrix.to_f32());
                    let body = reference::dequantize::<$backend>(prim_int(&t.words), prim(&t.scale), t.spec);
                    assert_eq!(floats(Tensor::<2>::from_primitive::<$backend>(body)), c.matrix.to_f32());
                }
            }

            #[test]
            fn fused_layers_are_their_parts() {
                for activations in [Activations::Int8, Activations::Float] {
                    let (a, b) =
                        (case(33, 96, None, activations, &device()), case(20, 96, Some(16), activations, &device()));
                    let (a, b) = (tiled(&a), tiled(&b));
                    let alone =
                        |x: Tensor<2>, p: &Packed| ops::ternary_linear(x, p.words.clone(), p.scale.clone(), p.spec);
                    for tokens in [1, 5] {
                        let (x, up) =
                            (tensor::<2>(31, [tokens, 96], &device()), tensor::<2>(32, [tokens, 96], &device()));
                        let w = tensor::<1>(33, [96], &device());
                        let normed = ops::rms_norm(x.clone(), w.clone(), 1e-5);
                        let norm = Some((w.clone(), 1e-5));
                        let [ya, yb] = ops::ternary_linears(x.clone(), norm.clone(), [a.clone(), b.clone()]);
                        assert_eq!(floats(ya), floats(alone(normed.clone(), &a)));
                        assert_eq!(floats(yb), floats(alone(normed.clone(), &b)));
                        let [y] = ops::ternary_linears(x.clone(), None, [a.clone()]);
                        assert_eq!(floats(y), floats(alone(x.clone(), &a)));
                        for (i, layer) in [&a, &b].into_iter().enumerate() {
                            let residual = tensor::<2>(35, [tokens, [33, 20][i]], &device());
                            let y = ops::ternary_linear_onto(residual.clone(), x.clone(), norm.clone(), layer.clone());
                            let sum = residual + alone(normed.clone(), layer);
                            // A device's compiler may fuse the scale with the sum.
                            for (y, sum) in floats(y).into_iter().zip(floats(sum)) {
                                assert!((y - sum).abs() <= 1e-6 * sum.abs().max(1.0), "{y} {sum}");
                            }
                        }

                        for gate in [Gate::Relu2, Gate::Silu] {
                            let inner_norm = Some((tensor::<1>(34, [33], &device()), 1e-5));
                            let down = tiled(&case(96, 33, None, activations, &device()));
                            let other = tiled(&case(33, 96, Some(0), activations, &device()));
                            for inner in [[a.clone(), other.clone()], [other, a.clone()]] {
                                let [g, u] = ops::ternary_linears(x.clone(), norm.clone(), inner.clone());
                                let parts = ops::gated_ternary_linear(g, u, gate, inner_norm.clone(), down.clone());
                                for residual in [false, true] {
                                    let (norm, inner_norm, down) = (norm.clone(), inner_norm.clone(), down.clone());
                                    let (x, inner) = (x.clone(), inner.clone());
                                    let parts = if residual { x.clone() + parts.clone() } else { parts.clone() };
                                    let y = ops::ternary_mlp(x, norm, inner, gate, inner_norm, down, residual);
                                    for (y, part) in floats(y).into_iter().zip(floats(parts)) {
                                        // A device's compiler may fuse what the gate multiplies, and a code then rounds
                                        // the other way.
                                        assert!((y - part).abs() <= 0.02 * part.abs().max(1.0), "{gate:?}: {y} {part}");
                                    }
                                }
                            }
                            let inner = ops::gated(x.clone(), up.clone(), gate);
                            let y = ops::gated_ternary_linear(x.clone(), up.clone(), gate, None, a.clone());
                            assert_eq!(floats(y), floats(alone(inner.clone(), &a)));
                            let y = ops::gated_ternary_linear(x.clone(), up.clone(), gate, norm.clone(), b.clone());
                            assert_eq!(floats(y), floats(alone(ops::rms_norm(inner, w.clone(), 1e-5), &b)));
                        }
                    }
                }
            }

            /// Slots and positions of some runs of tokens: slot, first position, tokens.
            fn places(runs: &[[usize; 3]]) -> Tensor<2, Int> {
                let each = |[slot, start, tokens]: [usize; 3]| (start..start + tokens).map(move |at| [slot, at]);
                let places: Vec<u32> = runs.iter().flat_map(|run| each(*run)).flatten().map(|x| x as u32).collect();
                let count = places.len() / 2;
                Tensor::from_data(TensorData::new(places, [count, 2]), (&device(), DType::U32))
            }

            #[test]
            fn attention_over_a_cache_is_attention_over_all_positions() {
                // Heads and KV heads of some widths: groups of 2, 1 and 6 that a cube takes, widths of whole blocks and not.
                for (heads, kv_heads, head_dim) in [(6, 3, 24), (4, 4, 32), (6, 1, 16)] {
                    let x = |seed, length, heads, on: &Device| tensor::<3>(seed, [length, heads, head_dim], on);
                    // Two sequences of unequal length, in slots 2 and 0 of four.
                    let lengths = [45, 21];
                    let qkv = |i: usize, on: &Device| {
                        let (seed, length) = (i as u32, lengths[i]);
                        let [k, v] = [51, 61].map(|first| x(first + seed, length, kv_heads, on));
                        [x(41 + seed, length, heads, on), k, v]
                    };
                    let states = [0, 1].map(|i| qkv(i, &device()));
                    let tables = |on: &Device| {
                        let angles = tensor::<2>(44, [64, 8], on);
                        [angles.clone().cos(), angles.sin()]
                    };
                    // On the host: Burn's matrix product takes long to compile for some devices.
                    let host = Device::flex();
                    let whole = [0, 1].map(|i| {
                        let ([q, k, v], [cos, sin]) = (qkv(i, &host), tables(&host));
                        let turn =
                            |x: Tensor<3>| ops::rope(x.unsqueeze(), cos.clone(), sin.clone(), 0).squeeze_dim::<3>(0);
                        ops::training::segment_attention([turn(q), turn(k), v], &[lengths[i]], 0.05)
                    });
                    for (format, tolerance) in
                        [(CacheFormat::F32, 4e-6), (CacheFormat::F16, 4e-3), (CacheFormat::Int8, 0.1)]
                    {
                        let empty = || {
                            let shape = [4, kv_heads, 4, format.block_words(head_dim)];
                            Tensor::<4, Int>::zeros(shape, (&device(), DType::U32))
                        };
                        let mut cache = [empty(), empty()];
                        let mut fork = None;
                        let slots = [2, 0];
                        let mut seen = [0, 0];
                        // Tokens of each sequence in a step, and the length of runs that is told.
                        let steps = [[5, 5], [1, 0], [1, 1], [20, 3], [3, 7], [0, 2], [14, 1], [1, 1], [0, 1]];
                        for (number, step) in steps.into_iter().enumerate() {
                            let parts: Vec<usize> = (0..2).filter(|i| step[*i] > 0).collect();
                            let run = match *parts {
                                [i] => step[i],
                                _ if step[0] == step[1] => step[0],
                                _ => 1,
                            };
                            let part = |which: usize| {
                                let of =
                                    |i: &usize| states[*i][which].clone().slice_dim(0, seen[*i]..seen[*i] + step[*i]);
                                Tensor::cat(parts.iter().map(of).collect(), 0)
                            };
                            let runs: Vec<_> = parts.iter().map(|i| [slots[*i], seen[*i], step[*i]]).collect();
                            if number == 3 {
                                fork = Some(cache.clone());
                            }
                            let spec = CacheSpec { format, scale: 0.05, run };
                            let (q, k, v) = (part(0), part(1), part(2));
                            let (out, changed) =
                                ops::cached_attention([q, k, v], tables(&device()), cache, places(&runs), spec);
                            cache = changed;
                            let of = |i: &usize| floats(whole[*i].clone().slice_dim(0, seen[*i]..seen[*i] + step[*i]));
                            let expected: Vec<f32> = parts.iter().flat_map(of).collect();
                            let found = floats(out);
                            assert_eq!(found.len(), expected.len());
                            for (y, expected) in found.iter().zip(&expected) {
                                assert!((y - expected).abs() < tolerance, "{format} {number}: {y} {expected}");
                            }
                            parts.iter().for_each(|i| seen[*i] += step[*i]);
                        }
                        assert_eq!(seen, lengths);
                        let [keys, _] = fork.unwrap();
                        let [later, _] = cache;
                        let words = |x: Tensor<4, Int>| x.into_data().iter::<u32>().collect::<Vec<_>>();
                        assert_ne!(words(keys), words(later), "a fork keeps what it had");
                    }
                }
            }

            #[test]
            fn attention_over_a_long_cache_is_split_and_put_together() {
                let (heads, kv_heads, head_dim, length) = (4, 1, 32, 700);
                let x = |seed, heads, on: &Device| tensor::<3>(seed, [length, heads, head_dim], on);
                let qkv = |on: &Device| [x(1, heads, on), x(2, kv_heads, on), x(3, kv_heads, on)];
                let (cos, sin) = (Tensor::ones([1024, 8], &device()), Tensor::zeros([1024, 8], &device()));
                let whole = ops::training::segment_attention(qkv(&Device::flex()), &[length], 0.3);
                let empty = || Tensor::<4, Int>::zeros([1, kv_heads, 64, 16 * head_dim], (&device(), DType::U32));
                let (mut cache, mut start) = ([empty(), empty()], 0);
                for step in [690, 1, 9] {
                    let part = |x: &Tensor<3>| x.clone().slice_dim(0, start..start + step);
                    let spec = CacheSpec { format: CacheFormat::F32, scale: 0.3, run: step };
                    let angles = [cos.clone(), sin.clone()];
                    let places = places(&[[0, start, step]]);
                    let (out, changed) =
                        ops::cached_attention(qkv(&device()).each_ref().map(part), angles, cache, places, spec);
                    cache = changed;
                    for (y, expected) in floats(out).iter().zip(floats(part(&whole))) {
                        // 700 exponentials, each as the device makes them.
                        assert!((y - expected).abs() < 5e-5, "{start}: {y} {expected}");
                    }
                    start += step;
                }
            }

            #[test]
            fn the_best_logits_are_found_where_they_are() {
                for (rows, vocab) in [(1, 1), (3, 70), (2, 9000)] {
                    let mut values = noise(71, rows * vocab);
                    // Ties, and what is no number.
                    values.iter_mut().for_each(|x| *x = (*x * 40.0).round() / 4.0);
                    if vocab > 50 {
                        (values[7], values[11], values[20]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
                        values[vocab..2 * vocab].fill(f32::NAN);
                        values[vocab + 40] = -3.0;
                    }
                    for count in [1, 4] {
                        let expected = ops::Top::read(&{
                            let x = TensorData::new(values.clone(), [rows, vocab]);
                            ops::top_logits(Tensor::from_data(x, &Device::flex()), count)
                        });
                        let logits = Tensor::<2>::from_data(TensorData::new(values.clone(), [rows, vocab]), &device());
                        let found = ops::Top::read(&ops::top_logits(logits, count));
                        for (found, expected) in found.iter().zip(&expected) {
                            assert_eq!(found.best, expected.best);
                            let sum = (found.log_sum_exp - expected.log_sum_exp).abs();
                            assert!(sum < 1e-5, "{} {}", found.log_sum_exp, expected.log_sum_exp);
                        }
                        assert_eq!(found.len(), rows);
                        if vocab > 50 {
                            assert_eq!(found[1].best, [(40, -3.0)], "one usable logit");
                        }
                    }
                }
            }

            #[test]
            fn weight_only_layers_and_dense_weights_agree_with_the_reference() {
                for group in GROUPS {
                    let c = case(21, 160, group, Activations::Float, &device());
                    let x = tensor::<2>(2, [4, 160], &device());
                    let y = ops::ternary_linear(x.clone(), c.words.clone(), c.scale.clone(), c.spec);
                    let dense = Tensor::<1>::from_floats(&*c.matrix.to_f32(), &Device::flex()).reshape([21, 160]);
                    let x_on_host = Tensor::<2>::from_data(x.to_data(), &Device::flex());
                    close(
                        y.clone().to_device(&Device::flex()),
                        x_on_host.matmul(dense.transpose()),
                        "float activations",
                    );
                    if BODIES {
                        let body =
                            reference::ternary_linear::<$backend>(prim(&x), prim_int(&c.words), prim(&c.scale), c.spec);
                        close(y, Tensor::from_primitive::<$backend>(body), "float activations");
                    }

                    let dense = ops::dequantize(c.words.clone(), c.scale.clone(), c.spec);
                    assert_eq!(floats(dense), c.matrix.to_f32());
                    let body = reference::dequantize::<$backend>(prim_int(&c.words), prim(&c.scale), c.spec);
                    assert_eq!(floats(Tensor::<2>::from_primitive::<$backend>(body)), c.matrix.to_f32());
                }
                let (x, w) = (tensor::<2>(3, [3, 90], &device()), tensor::<2>(4, [11, 90], &device()));
                let body = reference::dense_linear::<$backend>(prim(&x), prim(&w));
                close(ops::dense_linear(x, w), Tensor::from_primitive::<$backend>(body), "dense");
            }

            #[test]
            fn stored_rows_agree_with_the_reference() {
                let (rows, cols) = (13, 48);
                let values = noise(5, rows * cols);
                let stored: Vec<u8> = values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
                let stored = stored_rows(&stored, rows, &device());
                let format = RowFormat::Bf16;
                let x = tensor::<2>(6, [5, cols], &device());

                let decoded = ops::decode_rows(stored.clone(), format, cols);
                let expected: Vec<f32> = values.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
                assert_eq!(floats(decoded), expected);
                let body = reference::decode_rows::<$backend>(prim_int(&stored), format, cols);
                assert_eq!(floats(Tensor::<2>::from_primitive::<$backend>(body)), expected);
                let y = ops::rows_linear(x.clone(), stored.clone(), format, cols);
                let on_host = |x: Tensor<2>| Tensor::<2>::from_data(x.to_data(), &Device::flex());
                let w = Tensor::<1>::from_floats(&*expected, &Device::flex()).reshape([rows, cols]).transpose();
                close(on_host(y.clone()), on_host(x.clone()).matmul(w), "stored rows");
                if BODIES {
                    let body = reference::rows_linear::<$backend>(prim(&x), prim_int(&stored), format, cols);
                    close(y, Tensor::from_primitive::<$backend>(body), "stored rows");
                }
            }

            #[test]
            fn rows_of_codes_are_their_values() {
                let lanes = match row_storage(&device()) {
                    RowStorage::Bytes => 4,
                    RowStorage::Words { lanes, .. } => lanes,
                };
                let shapes = [(13, 16, 1), (7, 32, 5)];
                for ((rows, group, tokens), bits) in shapes.into_iter().flat_map(|shape| [(shape, 8), (shape, 6)]) {
                    let (layout, cols) = (CodeRows { group, lanes, bits }, 2 * group * lanes);
                    let code = |x: &f32| (x * 256.0).clamp(-128.0, 127.0) as i8 >> (8 - bits);
                    let codes: Vec<i8> = noise(51, rows * cols).iter().map(code).collect();
                    let scales = noise(52, rows * cols / group);
                    let mut words = vec![0; rows * layout.words(cols)];
                    for (row, words) in words.chunks_exact_mut(layout.words(cols)).enumerate() {
                        let scales = &scales[row * cols / group..][..cols / group];
                        layout.encode(&codes[row * cols..][..cols], scales, words);
                    }
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                    let stored = stored_rows(&bytes, rows, &device());
                    let value = |i: usize| scales[i / group] * f32::from(codes[i]);
                    let expected: Vec<f32> = (0..rows * cols).map(value).collect();
                    let format = RowFormat::Codes(layout);
                    assert_eq!(floats(ops::decode_rows(stored.clone(), format, cols)), expected);
                    let x = tensor::<2>(53, [tokens, cols], &device());
                    let y = floats(ops::rows_linear(x.clone(), stored, format, cols));
                    let x = floats(x);
                    for (i, y) in y.iter().enumerate() {
                        let (token, row) = (i / rows, i % rows);
                        let (x, w) = (&x[token * cols..][..cols], &expected[row * cols..][..cols]);
                        let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(x * w)).sum();
                        assert!((f64::from(*y) - sum).abs() < 0.05, "{group}: {y} {sum}");
                    }
                }
            }

            #[test]
            fn norm_rope_and_gate_agree_with_the_reference() {
                let (x, w) = (tensor::<2>(9, [6, 70], &device()), tensor::<1>(10, [70], &device()));
                let body = reference::rms_norm::<$backend>(prim(&x), prim(&w), 1e-5);
                close(ops::rms_norm(x, w, 1e-5), Tensor::from_primitive::<$backend>(body), "norm");

                for head_dim in [16, 20] {
                    let x = tensor::<4>(11, [2, 3, 4, head_dim], &device());
                    let (cos, sin) = (tensor::<2>(12, [9, 8], &device()), tensor::<2>(13, [9, 8], &device()));
                    let body = reference::rope::<$backend>(prim(&x), prim(&cos), prim(&sin), 5);
                    close(ops::rope(x, cos, sin, 5), Tensor::from_primitive::<$backend>(body), "rope");
                }
                for gate in [Gate::Relu2, Gate::Silu] {
                    let (g, up) = (tensor::<2>(14, [3, 50], &device()), tensor::<2>(15, [3, 50], &device()));
                    let body = reference::gated::<$backend>(prim(&g), prim(&up), gate);
                    close(ops::gated(g, up, gate), Tensor::from_primitive::<$backend>(body), "gate");
                }
            }

            #[test]
            fn views_are_taken_in_their_own_order() {
                let c = case(9, 64, None, Activations::Int8, &device());
                let x = tensor::<2>(19, [64, 3], &device()).transpose();
                let copy = Tensor::<2>::from_data(x.to_data(), &device());
                let y = ops::ternary_linear(x, c.words.clone(), c.scale.clone(), c.spec);
                assert_eq!(floats(y), floats(ops::ternary_linear(copy, c.words, c.scale, c.spec)));
            }

            #[test]
            fn gradients_reach_the_input() {
                let autodiff = device().autodiff();
                for group in GROUPS {
                    let c = case(12, 80, group, Activations::Int8, &device());
                    let x = tensor::<2>(20, [3, 80], &autodiff).require_grad();
                    let dy = tensor::<2>(21, [3, 12], &autodiff);
                    let y = ops::ternary_linear(x.clone(), c.words.clone(), c.scale.clone(), c.spec);
                    let expected = exact::linear(&floats(x.clone().inner()), 3, &c.matrix);
                    same(&floats(y.clone().inner()), &expected, group, &device());
                    let grads = (y * dy.clone()).sum().backward();
                    let dense = Tensor::<2>::from_data(TensorData::new(c.matrix.to_f32(), [12, 80]), &device());
                    close(x.grad(&grads).unwrap(), dy.inner().matmul(dense), "dx = dy W");
                }
            }

            /// A norm, rotary positions, attention and a gate, one after the other, as one number.
            fn chain(x: Tensor<2>, w: Tensor<1>, device: &Device) -> Tensor<1> {
                let normed = ops::rms_norm(x, w, 1e-5);
                let heads = normed.clone().reshape([1, 6, 2, 16]);
                let (cos, sin) = (tensor::<2>(24, [6, 8], device), tensor::<2>(25, [6, 8], device));
                let q = ops::rope(heads.clone(), cos * 0.2, sin * 0.2, 0).squeeze_dim(0);
                let kv: Tensor<3> = heads.slice([0..1, 0..6, 0..1, 0..16]).squeeze_dim(0);
                let y = ops::training::segment_attention([q, kv.clone(), kv], &[6], 0.25).reshape([6, 32]);
                ops::gated(y, normed, Gate::Silu).sum()
            }

            #[test]
            fn gradients_of_the_other_operations_are_slopes() {
                let autodiff = device().autodiff();
                let x = tensor::<2>(22, [6, 32], &autodiff).require_grad();
                let w = tensor::<1>(23, [32], &autodiff).require_grad();
                let grads = chain(x.clone(), w.clone(), &autodiff).backward();
                let (dx, dw) = (x.grad(&grads).unwrap(), w.grad(&grads).unwrap());

                let (x, w) = (x.inner(), w.inner());
                let (along_x, along_w) = (tensor::<2>(26, [6, 32], &device()), tensor::<1>(27, [32], &device()));
                let at = |step: f32| {
                    let (x, w) = (x.clone() + along_x.clone() * step, w.clone() + along_w.clone() * step);
                    f64::from(floats(chain(x, w, &device()))[0])
                };
                let step = 2e-3;
                let slope = (at(step) - at(-step)) / (2.0 * f64::from(step));
                let gradient = (dx * along_x.clone()).sum() + (dw * along_w.clone()).sum();
                let gradient = f64::from(floats(gradient)[0]);
                assert!((slope - gradient).abs() < 0.02 * gradient.abs().max(1.0), "{slope} {gradient}");
            }
        }
    };
}

#[cfg(feature = "flex")]
suite!(flex, burn::backend::Flex, Device::flex(), true);
#[cfg(feature = "ndarray")]
suite!(ndarray, burn::backend::NdArray, Device::ndarray(), true);
#[cfg(feature = "cpu")]
suite!(cpu, burn_cubecl::Cube, Device::cpu(), false);
#[cfg(feature = "vulkan")]
suite!(vulkan, burn_cubecl::Cube, bitnet_kernels::device("vulkan").unwrap(), false);
#[cfg(feature = "webgpu")]
suite!(webgpu, burn_cubecl::Cube, bitnet_kernels::device("webgpu").unwrap(), false);

#[test]
fn devices_are_found_by_name_and_others_are_refused() {
    for info in bitnet_kernels::devices().unwrap() {
        bitnet_kernels::device(&info.name).unwrap();
    }
    let error = bitnet_kernels::device("abacus").unwrap_err().to_string();
    assert!(error.contains("abacus"), "{error}");
}
