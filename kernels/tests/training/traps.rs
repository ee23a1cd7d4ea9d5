//! Where Burn gives a wrong result in silence, and what quantization must leave alone.

use bitnet_kernels::has_precision;
use bitnet_kernels::ops::Activations;
use bitnet_kernels::ops::training::{self, Precision, Quantization};
use bitnet_ternary::Granularity;
use burn::tensor::{Tensor, module};

use crate::devices;
use crate::support::{close, floats, given, tensor};

const BLEND: Quantization =
    Quantization::Ternary { granularity: Granularity::Row, activations: Activations::Int8, lambda: 0.0 };

/// Burn 0.22.1's own attention multiplies broadcast batches unchecked on an autodiff device and gives NaN where KV
/// heads are shared. With as many KV heads as query heads it is right, which is what this compares with.
#[test]
fn shared_kv_heads_are_right_on_an_autodiff_device() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let (tokens, heads, kv_heads, width) = (12, 8, 2, 16);
        let leaf = |seed, heads| tensor::<3>(seed, [tokens, heads, width], &device).require_grad();
        let (q, k, v) = (leaf(1, heads), leaf(2, kv_heads), leaf(3, kv_heads));
        let dy = tensor::<3>(4, [tokens, heads, width], &device);
        let scale = 0.25;
        let y = training::segment_attention([q.clone(), k.clone(), v.clone()], &[tokens], scale);
        let gradients = (y.clone() * dy.clone()).sum().backward();
        let found = [&q, &k, &v].map(|x| x.grad(&gradients).unwrap());

        let repeated = |x: Tensor<3>| {
            let shape = [tokens, kv_heads, heads / kv_heads, width];
            let x: Tensor<4> = x.unsqueeze_dim::<4>(2).expand(shape).reshape([1, tokens, heads, width]);
            x.swap_dims(1, 2)
        };
        let options =
            burn::tensor::ops::AttentionModuleOptions { scale: Some(scale), is_causal: true, ..Default::default() };
        let q4 = q.clone().reshape([1, tokens, heads, width]).swap_dims(1, 2);
        let expected = module::attention(q4, repeated(k.clone()), repeated(v.clone()), None, None, options);
        let expected = expected.swap_dims(1, 2).reshape([tokens, heads, width]);
        close(y.inner(), expected.clone().inner(), name);
        let gradients = (expected * dy).sum().backward();
        for (found, x) in found.into_iter().zip([q, k, v]) {
            close(found, x.grad(&gradients).unwrap(), name);
        }
    }
}

/// Gradients of views are gradients of what they show.
#[test]
fn views_have_the_gradients_of_their_values() {
    let half = Quantization::Ternary { granularity: Granularity::Row, activations: Activations::Float, lambda: 0.5 };
    for (name, device) in devices() {
        let device = device.autodiff();
        for how in [Quantization::None, Quantization::BITNET, half] {
            let dy = tensor::<2>(7, [9, 6], &device).transpose();
            let leaves = [tensor::<2>(5, [40, 6], &device), tensor::<2>(6, [40, 9], &device)];
            let views = leaves.map(Tensor::require_grad);
            let [x, w] = views.clone().map(Tensor::transpose);
            let [y] = training::quantized_linears(x, [w], how, Precision::F32);
            let gradients = (y * dy.clone()).sum().backward();

            let copies = views.clone().map(|view| {
                let copy = view.inner().transpose();
                given(floats(copy.clone()), copy.dims(), &device).require_grad()
            });
            let [x, w] = copies.clone();
            let [y] = training::quantized_linears(x, [w], how, Precision::F32);
            let expected = (y * dy).sum().backward();
            for (view, copy) in views.into_iter().zip(copies) {
                close(view.grad(&gradients).unwrap().transpose(), copy.grad(&expected).unwrap(), name);
            }
        }
    }
}

/// A conversion begins with the float model itself, and ends with the ternary one.
#[test]
fn no_lambda_is_the_float_layer_and_a_whole_one_is_the_ternary_layer_to_the_bit() {
    let run = |device: &burn::tensor::Device, how| {
        let x = tensor::<2>(8, [7, 50], device).require_grad();
        let w = (tensor::<2>(9, [13, 50], device) * 0.1).detach().require_grad();
        let [y] = training::quantized_linears(x.clone(), [w.clone()], how, Precision::F32);
        let gradients = (y.clone() * tensor::<2>(10, [7, 13], device)).sum().backward();
        [floats(y.inner()), floats(x.grad(&gradients).unwrap()), floats(w.grad(&gradients).unwrap())]
    };
    for (name, device) in devices() {
        let device = device.autodiff();
        let float = run(&device, Quantization::None);
        assert_eq!(run(&device, BLEND), float, "{name}");
        let at =
            |lambda| Quantization::Ternary { granularity: Granularity::Tensor, activations: Activations::Int8, lambda };
        assert_eq!(run(&device, at(1.0)), run(&device, Quantization::BITNET), "{name}");
        // Almost there is almost the same, by way of the other product.
        let [almost, ..] = run(&device, at(1.0 - f32::EPSILON));
        let [whole, ..] = run(&device, at(1.0));
        assert!(bitnet_fixtures::difference(&almost, &whole) < 1e-5, "{name}");
        assert!(bitnet_fixtures::difference(&float[0], &whole) > 0.01, "{name}: quantization is no rounding error");
    }
}

/// Several uses of one tensor add their gradients up.
#[test]
fn a_weight_that_is_used_twice_gets_both_gradients() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let w = tensor::<2>(11, [8, 32], &device).require_grad();
        let x = [tensor::<2>(12, [3, 32], &device), tensor::<2>(13, [4, 32], &device)];
        let alone = x.clone().map(|x| {
            let [y] = training::quantized_linears(x, [w.clone()], Quantization::BITNET, Precision::F32);
            w.grad(&y.sum().backward()).unwrap()
        });
        let [a, b] = x.map(|x| {
            training::quantized_linears(x, [w.clone()], Quantization::BITNET, Precision::F32)[0].clone().sum()
        });
        let [first, second] = alone;
        close(w.grad(&(a + b).backward()).unwrap(), first + second, name);
    }
}

/// Burn takes two devices with other strategies of checkpointing for different ones, and panics at the first operation
/// with a tensor of each. Whoever makes model and data on one such device has the gradients of any other.
#[test]
fn checkpointing_of_burn_changes_no_gradient() {
    let run = |device: &burn::tensor::Device| {
        let x = tensor::<2>(14, [12, 32], device).require_grad();
        let w = (tensor::<2>(15, [32, 32], device) * 0.1).detach().require_grad();
        let [q, k, v] = training::quantized_linears(
            x.clone(),
            [w.clone(), w.clone() * 0.5, w.clone() + 0.01],
            Quantization::BITNET,
            Precision::F32,
        )
        .map(|y| y.reshape([12, 2, 16]));
        let y = training::segment_attention([q, k, v], &[7, 5], 0.25).reshape([12, 32]);
        let gradients = (y.clone() * y.clone()).sum().backward();
        [floats(y.inner()), floats(x.grad(&gradients).unwrap()), floats(w.grad(&gradients).unwrap())]
    };
    for (name, device) in devices() {
        let plain = run(&device.clone().autodiff());
        assert_eq!(run(&device.autodiff().gradient_checkpointing()), plain, "{name}");
    }
}

/// What is rounded to bfloat16 is the operands of float products, never the exact one.
#[test]
fn shorter_operands_leave_the_exact_product_alone() {
    let run = |device: &burn::tensor::Device, how, precision| {
        let x = tensor::<2>(16, [40, 70], device).require_grad();
        let w = (tensor::<2>(17, [50, 70], device) * 0.1).detach().require_grad();
        let [y] = training::quantized_linears(x.clone(), [w.clone()], how, precision);
        let gradients = (y.clone() * tensor::<2>(18, [40, 50], device)).sum().backward();
        [floats(y.inner()), floats(x.grad(&gradients).unwrap()), floats(w.grad(&gradients).unwrap())]
    };
    let rows = Quantization::Ternary { granularity: Granularity::Row, activations: Activations::Int8, lambda: 1.0 };
    let groups =
        Quantization::Ternary { granularity: Granularity::Group(16), activations: Activations::Int8, lambda: 1.0 };
    let mut seen = 0;
    for (name, device) in devices().into_iter().filter(|(_, device)| has_precision(device, Precision::Bf16)) {
        seen += 1;
        let device = device.autodiff();
        for how in [Quantization::None, Quantization::BITNET, rows, groups, BLEND] {
            let (whole, short) = (run(&device, how, Precision::F32), run(&device, how, Precision::Bf16));
            let is_exact = matches!(how, Quantization::Ternary { lambda: 1.0, .. });
            for (i, (whole, short)) in whole.iter().zip(&short).enumerate() {
                if i == 0 && is_exact {
                    assert_eq!(short, whole, "{name} {how:?}");
                } else {
                    let apart = bitnet_fixtures::difference(short, whole);
                    assert!(apart > 0.0 && apart < 1.0 / 128.0, "{name} {how:?} {i}: {apart}");
                }
            }
        }
    }
    println!("{seen} devices multiply bfloat16");
}
