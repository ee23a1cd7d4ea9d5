//! Where Burn gives a wrong result in silence, and what quantization must leave alone.

use bitnet_kernels::ops::Activations;
use bitnet_kernels::ops::training::{self, Quantization};
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
            let [y] = training::quantized_linears(x, [w], how);
            let gradients = (y * dy.clone()).sum().backward();

            let copies = views.clone().map(|view| {
                let copy = view.inner().transpose();
                given(floats(copy.clone()), copy.dims(), &device).require_grad()
            });
            let [x, w] = copies.clone();
            let [y] = training::quantized_linears(x, [w], how);
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
        let [y] = training::quantized_linears(x.clone(), [w.clone()], how);
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
            let [y] = training::quantized_linears(x, [w.clone()], Quantization::BITNET);
            w.grad(&y.sum().backward()).unwrap()
        });
        let [a, b] = x.map(|x| training::quantized_linears(x, [w.clone()], Quantization::BITNET)[0].clone().sum());
        let [first, second] = alone;
        close(w.grad(&(a + b).backward()).unwrap(), first + second, name);
    }
}
