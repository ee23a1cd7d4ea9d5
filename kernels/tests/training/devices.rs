//! The operations on CubeCL's devices against those of the host, forward and backward.

use bitnet_kernels::Gate;
use bitnet_kernels::ops::training::{self, AdamW, Precision, Quantization};
use bitnet_kernels::ops::{self, Activations};
use bitnet_ternary::Granularity;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use crate::support::{floats, given, noise};

const GRANULARITIES: [Granularity; 3] = [Granularity::Tensor, Granularity::Row, Granularity::Group(48)];

/// Tokens, rows and columns.
const SHAPES: [[usize; 3]; 3] = [[1, 1, 1], [3, 5, 70], [17, 33, 100]];

/// What an operation gives, and its gradients.
type Found = Vec<Vec<f32>>;

/// The same on the device as on the host, within `rounding` of the largest value.
fn agrees(device: &Device, rounding: f32, what: &str, f: impl Fn(&Device) -> Found) {
    let (found, expected) = (f(device), f(&Device::flex()));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}, {i}");
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= rounding * largest, "{what}, {i}: {worst} of {largest}");
    }
}

fn weights(rows: usize, cols: usize) -> Vec<f32> {
    noise(50, rows * cols).iter().map(|w| w * 0.013 + 1e-4).collect()
}

/// Values in both directions, with halves, and nothing in the last row.
fn inputs(tokens: usize, cols: usize) -> Vec<f32> {
    noise(51, (tokens - 1) * cols).into_iter().chain(std::iter::repeat_n(0.0, cols)).collect()
}

/// The words and scales of weights are those of the host, ties aside.
fn weights_become_the_same_trits(device: &Device) {
    for [_, rows, cols] in SHAPES {
        for granularity in GRANULARITIES {
            let what = format!("{rows}x{cols} {granularity}");
            agrees(device, 1e-6, &what, |device| {
                let w = given(weights(rows, cols), [rows, cols], device);
                let (words, scale) = training::absmean_quantize(w, granularity);
                let words: Vec<u32> = words.into_data().iter().collect();
                // Halves of a word, so that a float holds them exactly.
                let halves = words.iter().flat_map(|w| [w & 0xffff, w >> 16]).map(|half| half as f32);
                vec![halves.collect(), floats(scale)]
            });
        }
    }
}

fn fake_quantized_weights_agree(device: &Device) {
    for granularity in GRANULARITIES {
        agrees(device, 1e-6, &granularity.to_string(), |device| {
            let w = given(weights(33, 100), [33, 100], &device.clone().autodiff()).require_grad();
            let y = training::ternary_fake_quant(w.clone(), granularity);
            let dw = w.grad(&(y.clone() * y.clone()).sum().backward()).expect("a gradient");
            vec![floats(y.inner()), floats(dw)]
        });
    }
}

fn values_are_rounded_as_on_the_host(device: &Device) {
    let odd = [f32::INFINITY, f32::NEG_INFINITY, 65_520.0, 65_519.0, 1e-8, -6e-8, 0.0, 3e-39];
    let values: Vec<f32> = noise(75, 999).iter().map(|x| x * x * x * 1e-3).chain(odd).collect();
    for to in [FloatDType::F16, FloatDType::BF16, FloatDType::F32] {
        let round = |device| floats(training::round_to(given(values.clone(), [values.len()], device), to));
        let (found, expected) = (round(device), round(&Device::flex()));
        // Devices may take numbers below the smallest normal one for zero.
        let same = |(a, b): (&f32, &f32)| a == b || b.abs() < f32::MIN_POSITIVE && *a == 0.0;
        assert!(found.iter().zip(&expected).all(same), "{to:?}");
    }
}

fn steps_of_adamw_agree(device: &Device) {
    agrees(device, 1e-6, "adamw", |device| {
        let shape = [129, 67];
        let zeros = || Tensor::<2>::zeros(shape, device);
        let start = given(noise(76, 129 * 67), shape, device);
        let (mut w, mut means) = (start.clone(), [zeros(), zeros()]);
        for step in 1..=3 {
            let how = AdamW {
                learning_rate: 0.02,
                beta_1: 0.9,
                beta_2: 0.99,
                epsilon: 1e-8,
                weight_decay: 0.1,
                gradient_scale: 0.3,
                step,
            };
            (w, means) = training::adamw(w, given(noise(76 + step, 129 * 67), shape, device), means, how);
        }
        let [mean, square] = means;
        // The weights that it began with are still held here, so they are as they were.
        vec![floats(w), floats(mean), floats(square), floats(start)]
    });
}

/// The forward product of quantized operands is exact, whatever multiplies it.
fn quantized_layers_agree(device: &Device) {
    let hows = GRANULARITIES
        .iter()
        .flat_map(|g| [(*g, Activations::Int8, 1.0), (*g, Activations::Int8, 0.5), (*g, Activations::Float, 1.0)])
        .map(|(granularity, activations, lambda)| Quantization::Ternary { granularity, activations, lambda })
        .chain([Quantization::None]);
    for how in hows {
        for [tokens, rows, cols] in SHAPES {
            agrees(device, 2e-5, &format!("{how:?} {tokens} {rows}x{cols}"), |device| {
                let device = device.clone().autodiff();
                let x = given(inputs(tokens, cols), [tokens, cols], &device).require_grad();
                let w = given(weights(rows, cols), [rows, cols], &device).require_grad();
                let [y] = training::quantized_linears(x.clone(), [w.clone()], how, Precision::F32);
                let along = given(noise(57, tokens * rows), [tokens, rows], &device);
                let gradients = (y.clone() * along).sum().backward();
                let (dx, dw) = (x.grad(&gradients).expect("dx"), w.grad(&gradients).expect("dw"));
                vec![floats(y.inner()), floats(dx), floats(dw)]
            });
        }
    }
}

fn attention_agrees(device: &Device) {
    for (segments, heads, kv_heads, width) in [(&[5, 1, 11][..], 4, 2, 8), (&[33, 16], 6, 3, 20)] {
        agrees(device, 1e-4, &format!("{segments:?}"), |device| {
            let device = device.clone().autodiff();
            let tokens = segments.iter().sum();
            let side = |seed, heads: usize| {
                given(noise(seed, tokens * heads * width), [tokens, heads, width], &device).require_grad()
            };
            let sides = [side(66, heads), side(67, kv_heads), side(68, kv_heads)];
            let y = training::segment_attention(sides.clone(), segments, 0.2);
            let gradients = (y.clone() * side(69, heads)).sum().backward();
            let mut found = vec![floats(y.inner())];
            found.extend(sides.iter().map(|side| floats(side.grad(&gradients).expect("a gradient"))));
            found
        });
    }
}

fn losses_agree(device: &Device) {
    agrees(device, 1e-5, "cross entropy", |device| {
        let autodiff = device.clone().autodiff();
        let logits = given(noise(73, 17 * 33), [17, 33], &autodiff).require_grad();
        let ids: Vec<u32> = (0..17).map(|t| t * 37 % 33).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(ids, [17]), (&autodiff, DType::U32));
        let loss = training::cross_entropy(logits.clone(), targets);
        let dlogits = logits.grad(&(loss.clone() * loss.clone()).sum().backward()).expect("a gradient");
        vec![floats(loss.inner()), floats(dlogits)]
    });
}

fn norm_and_gate_agree(device: &Device) {
    for kind in [Gate::Relu2, Gate::Silu] {
        agrees(device, 1e-5, &format!("{kind:?}"), |device| {
            let device = device.clone().autodiff();
            let part = |seed| given(noise(seed, 17 * 100), [17, 100], &device).require_grad();
            let (x, up, w) = (part(62), part(63), given(noise(65, 100), [100], &device).require_grad());
            let y = ops::gated(ops::rms_norm(x.clone(), w.clone(), 1e-5), up.clone(), kind);
            let gradients = (y.clone() * part(64)).sum().backward();
            let d = [x.grad(&gradients), up.grad(&gradients)].map(|d| floats(d.expect("a gradient")));
            vec![floats(y.inner()), d[0].clone(), d[1].clone(), floats(w.grad(&gradients).expect("dweight"))]
        });
    }
    agrees(device, 1e-6, "squares", |device| {
        vec![floats(training::sum_of_squares(given(noise(81, 10_001), [10_001], device)))]
    });
}

/// The tests of one device. Burn's matrix product takes minutes to compile and tune for a CPU through CubeCL.
macro_rules! suite {
    ($name:ident: $($test:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    super::$test(&bitnet_kernels::device(stringify!($name)).unwrap());
                }
            )*
        }
    };
}

#[cfg(feature = "cpu")]
suite!(cpu: weights_become_the_same_trits fake_quantized_weights_agree values_are_rounded_as_on_the_host
    steps_of_adamw_agree);
#[cfg(feature = "webgpu")]
suite!(webgpu: weights_become_the_same_trits fake_quantized_weights_agree values_are_rounded_as_on_the_host
    steps_of_adamw_agree quantized_layers_agree attention_agrees losses_agree norm_and_gate_agree);
