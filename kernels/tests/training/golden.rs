//! Values and gradients against those of PyTorch.

use bitnet_fixtures::{Golden, difference};
use bitnet_kernels::ops::training::{self, Precision, Quantization};
use bitnet_kernels::ops::{self, Activations};
use bitnet_kernels::{Gate, RowStorage, TrainingOps, row_storage};
use bitnet_ternary::{Granularity, quantize};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde_json::Value;

use crate::devices;
use crate::support::{floats, given};

/// The largest difference allowed, over the largest magnitude.
const TOLERANCE: f32 = 1e-5;

fn load<const D: usize>(golden: &Golden, name: &str, device: &Device) -> Tensor<D> {
    let shape: [usize; D] = golden.shape(name).try_into().expect("a tensor with so many dimensions");
    given(golden.floats(name), shape, device)
}

fn check<const D: usize>(found: Tensor<D>, golden: &Golden, name: &str) {
    let difference = difference(&floats(found), &golden.floats(name));
    assert!(difference <= TOLERANCE, "{name}: {difference}");
}

fn how(case: &Value) -> Quantization {
    let granularity = match case["granularity"].as_str().unwrap() {
        "tensor" => Granularity::Tensor,
        "row" => Granularity::Row,
        group => Granularity::Group(group.strip_prefix("group:").unwrap().parse().unwrap()),
    };
    let activations = match case["activations"].as_str().unwrap() {
        "int8" => Activations::Int8,
        _ => Activations::Float,
    };
    Quantization::Ternary { granularity, activations, lambda: case["lambda"].as_f64().unwrap() as f32 }
}

/// Int8 codes and multipliers of `x` (`[tokens, cols]`).
fn quantized(x: Tensor<2>) -> (Vec<i64>, Vec<f32>) {
    let [_, cols] = x.dims();
    let (codes, multiplier) = Dispatch::absmax_quantize(x.into_dispatch());
    let codes = Tensor::<2, Int>::from_dispatch(codes);
    let ([_, words], packed) = (codes.dims(), codes.dtype() == DType::U32);
    let codes: Vec<i64> = codes.into_data().iter().collect();
    let codes = if packed {
        let of_word = |word: &i64| (*word as u32).to_le_bytes().map(|code| i64::from(code as i8));
        codes.chunks(words).flat_map(|row| row.iter().flat_map(of_word).take(cols)).collect()
    } else {
        codes
    };
    (codes, floats(Tensor::<2>::from_dispatch(multiplier)))
}

/// PyTorch takes `127 / max` as `127 * (1 / max)`, which is off by a last bit at times; bitnet.cpp and we divide. So only a
/// token with the same multiplier has the same output to the bit, and a token of ties with another one (there is one, in
/// the case made of ties) has them rounded to the other side.
#[test]
fn bit_linear_and_its_gradients() {
    let golden = Golden::open("bit_linear.safetensors");
    let cases = golden.json("cases");
    let cases = cases.as_object().unwrap();
    assert_eq!(cases.len(), 22);
    for (device_name, device) in devices() {
        let autodiff = device.clone().autodiff();
        for (name, case) in cases {
            let what = format!("{device_name}, {name}");
            let expected = |part: &str| golden.floats(&format!("{name}.{part}"));
            let leaf = |part: &str| load::<2>(&golden, &format!("{name}.{part}"), &autodiff).require_grad();
            let how = how(case);
            let Quantization::Ternary { granularity, activations, lambda } = how else { unreachable!() };
            let (x, w) = (leaf("x"), leaf("weight"));
            let ([tokens, _], [rows, cols]) = (x.dims(), w.dims());
            let [y] = training::quantized_linears(x.clone(), [w.clone()], how, Precision::F32);
            let values = floats(y.clone().inner());
            let gradients = (y * leaf("dy").detach()).sum().backward();
            let (dx, dweight) = (floats(x.grad(&gradients).unwrap()), floats(w.grad(&gradients).unwrap()));
            let close = |found: &[f32], expected: &[f32], part: &str| {
                let difference = difference(found, expected);
                assert!(difference <= TOLERANCE, "{what}, {part}: {difference}");
            };
            close(&dx, &expected("dx"), "dx");

            let (mut expected_dweight, mut tokens_with_its_codes) = (expected("dweight"), tokens);
            if activations == Activations::Int8 {
                let (codes, multiplier) = quantized(x.inner());
                assert!(difference(&multiplier, &expected("s")) <= f32::EPSILON, "{what}");
                let integers = golden.has(&format!("{name}.codes")).then(|| golden.integers(&format!("{name}.codes")));
                for (token, multiplier) in multiplier.iter().enumerate() {
                    let same = *multiplier == expected("s")[token];
                    if lambda == 1.0 && same {
                        let row = token * rows..(token + 1) * rows;
                        let (found, expected) = (&values[row.clone()], &expected("y")[row]);
                        // A device's compiler may fuse the sum of groups.
                        if row_storage(&device) == RowStorage::Bytes {
                            assert_eq!(found, expected, "{what}, token {token}");
                        } else {
                            close(found, expected, "y");
                        }
                    }
                    let row = token * cols..(token + 1) * cols;
                    let Some(integers) =
                        integers.as_ref().filter(|integers| integers[row.clone()] != codes[row.clone()])
                    else {
                        continue;
                    };
                    assert!(!same && name == "ties_activation", "{what}, token {token}: other codes");
                    tokens_with_its_codes -= 1;
                    // What its ties would have added there.
                    for (i, dw) in expected_dweight.iter_mut().enumerate() {
                        let at = token * cols + i % cols;
                        let more = (codes[at] - integers[at]) as f32 / multiplier;
                        *dw += expected("dy")[token * rows + i / cols] * more;
                    }
                }
            }
            assert!(tokens_with_its_codes + 1 >= tokens, "{what}");
            let count = tokens_with_its_codes * rows;
            close(&values[..count], &expected("y")[..count], "y");
            close(&dweight, &expected_dweight, "dweight");

            let matrix = quantize::absmean(&expected("weight"), rows, cols, granularity).unwrap();
            let (words, scale) = training::absmean_quantize(w.inner(), granularity);
            assert_eq!(words.into_data().iter::<u32>().collect::<Vec<_>>(), matrix.words(), "{what}");
            close(&floats(scale), &expected("gamma"), "gamma");
            if golden.has(&format!("{name}.trits")) {
                let trits: Vec<i64> = matrix.trits().iter().map(|trit| i64::from(*trit)).collect();
                assert_eq!(trits, golden.integers(&format!("{name}.trits")), "{what}");
            }
        }
    }
}

#[test]
fn norm_gate_and_positions() {
    let golden = Golden::open("ops.safetensors");
    for (_, device) in devices() {
        let device = device.autodiff();
        let leaf = |name: &str| load::<2>(&golden, name, &device).require_grad();
        for name in ["rms_norm", "rms_norm_small"] {
            let tensor = |part: &str| format!("{name}.{part}");
            let x = leaf(&tensor("x"));
            let w = load::<1>(&golden, &tensor("weight"), &device).require_grad();
            let y = ops::rms_norm(x.clone(), w.clone(), 1e-5);
            check(y.clone().inner(), &golden, &tensor("y"));
            let gradients = (y * load(&golden, &tensor("dy"), &device)).sum().backward();
            check(x.grad(&gradients).unwrap(), &golden, &tensor("dx"));
            check(w.grad(&gradients).unwrap(), &golden, &tensor("dweight"));
        }
        for (name, kind) in [("gated_relu2", Gate::Relu2), ("gated_silu", Gate::Silu)] {
            let tensor = |part: &str| format!("{name}.{part}");
            let (gate, up) = (leaf(&tensor("gate")), leaf(&tensor("up")));
            let y = ops::gated(gate.clone(), up.clone(), kind);
            check(y.clone().inner(), &golden, &tensor("y"));
            let gradients = (y * load(&golden, &tensor("dy"), &device)).sum().backward();
            check(gate.grad(&gradients).unwrap(), &golden, &tensor("dgate"));
            check(up.grad(&gradients).unwrap(), &golden, &tensor("dup"));
        }

        let x = load::<3>(&golden, "rope.x", &device).require_grad();
        let [tokens, heads, width] = x.dims();
        let (half, positions) = (width / 2, golden.integers("rope.positions"));
        let angle = |p: &i64, i: usize| f64::from(*p as f32 * 10_000f64.powf(-(i as f64) / half as f64) as f32);
        let angles: Vec<f64> = positions.iter().flat_map(|p| (0..half).map(move |i| angle(p, i))).collect();
        let table = |f: fn(f64) -> f64| given(angles.iter().map(|a| f(*a) as f32).collect(), [tokens, half], &device);
        let y = ops::rope(x.clone().reshape([1, tokens, heads, width]), table(f64::cos), table(f64::sin), 0);
        let y = y.reshape([tokens, heads, width]);
        check(y.clone().inner(), &golden, "rope.y");
        let gradients = (y * load(&golden, "rope.dy", &device)).sum().backward();
        check(x.grad(&gradients).unwrap(), &golden, "rope.dx");
    }
}

#[test]
fn attention_within_sequences() {
    let golden = Golden::open("ops.safetensors");
    for (_, device) in devices() {
        let device = device.autodiff();
        for name in ["attention", "attention_one_kv_head"] {
            let tensor = |part: &str| format!("{name}.{part}");
            let [q, k, v] = ["q", "k", "v"].map(|part| load::<3>(&golden, &tensor(part), &device).require_grad());
            let scale = 1.0 / (q.dims()[2] as f64).sqrt();
            let segments = golden.sizes(&tensor("segments"));
            let y = training::segment_attention([q.clone(), k.clone(), v.clone()], &segments, scale);
            check(y.clone().inner(), &golden, &tensor("y"));
            let gradients = (y * load(&golden, &tensor("dy"), &device)).sum().backward();
            for (x, part) in [(q, "dq"), (k, "dk"), (v, "dv")] {
                check(x.grad(&gradients).unwrap(), &golden, &tensor(part));
            }
        }
    }
}

#[test]
fn the_mean_loss_over_the_targets_that_count() {
    let golden = Golden::open("ops.safetensors");
    for (_, device) in devices() {
        let device = device.autodiff();
        let logits = load::<2>(&golden, "cross_entropy.logits", &device).require_grad();
        let (targets, mask) = (golden.integers("cross_entropy.targets"), golden.integers("cross_entropy.mask"));
        let targets: Vec<u32> = targets.into_iter().map(|id| id as u32).collect();
        let count = targets.len();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [count]), (&device, DType::U32));
        let weights = given(mask.iter().map(|counts| *counts as f32).collect(), [count], &device);
        let loss = (training::cross_entropy(logits.clone(), targets) * weights.clone()).sum() / weights.sum();
        check(loss.clone().inner(), &golden, "cross_entropy.y");
        check(logits.grad(&loss.backward()).unwrap(), &golden, "cross_entropy.dlogits");
    }
}
