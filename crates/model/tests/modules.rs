//! The modules by themselves.

use bitnet_model::{Activations, BitLinear, BitLinearConfig, ModelError, Quantization, RmsNorm, WeightBits};
use bitnet_ternary::{Granularity, Scale, TernaryMatrix, quantize, reference};
use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};

fn device() -> Device {
    bitnet_model::device(bitnet_model::DeviceKind::default_name()).unwrap()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn a_bit_linear_is_the_exact_layer_for_every_granularity() {
    let weights = Tensor::<2>::random([24, 144], Distribution::Normal(0.0, 1.0), (&device(), DType::F32));
    let x = Tensor::<3>::random([2, 3, 144], Distribution::Normal(0.0, 1.0), (&device(), DType::F32));
    for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(32)] {
        let matrix = quantize::absmean(&floats(weights.clone()), 24, 144, granularity).unwrap();
        let layer = BitLinear::from_weights(weights.clone(), granularity).unwrap();
        assert_eq!((layer.d_input(), layer.d_output()), (144, 24));
        let y = layer.forward(x.clone());
        assert_eq!(y.dims(), [2, 3, 24]);
        assert_eq!(floats(y), reference::linear(&floats(x.clone()), 6, &matrix), "{granularity}");
        assert_eq!(floats(layer.weights()), matrix.to_f32());
    }
}

#[test]
fn a_norm_and_float_activations_are_part_of_the_layer() {
    let matrix = TernaryMatrix::from_trits(1, 4, &[1, -1, 0, 1], Scale::Tensor(0.5)).unwrap();
    let layer = BitLinear::from_ternary(matrix, &device()).unwrap().with_activations(Activations::Float);
    let x = || Tensor::<2>::from_data(TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0], [1, 4]), &device());
    assert_eq!(floats(layer.forward(x())), [1.5]);
    let layer = layer.with_norm(Some(RmsNorm::new(vec![1.0, 1.0, 1.0, 2.0], 0.0, &device())));
    // rms(1, 2, 3, 4) = sqrt(7.5); (1 - 2 + 2 * 4) * 0.5 / sqrt(7.5)
    assert!((floats(layer.forward(x()))[0] - 3.5 / 7.5f32.sqrt()).abs() < 1e-6);
}

/// A layer to be trained, quantized so.
fn latent(granularity: Granularity, activations: Activations) -> BitLinear {
    let weights = Tensor::<2>::random([24, 144], Distribution::Normal(0.0, 0.1), (&device().autodiff(), DType::F32));
    BitLinear::latent(weights, Quantization::Ternary { granularity, activations, lambda: 1.0 })
}

#[test]
fn packing_a_layer_changes_no_bit_of_its_output() {
    let x = Tensor::<3>::random([2, 3, 144], Distribution::Normal(0.0, 1.0), (&device(), DType::F32));
    let norm_weight: Vec<f32> = (0..144).map(|i| 0.5 + i as f32 / 100.0).collect();
    for granularity in [Granularity::Tensor, Granularity::Row, Granularity::Group(32)] {
        for activations in [Activations::Int8, Activations::Float] {
            for with_norm in [false, true] {
                let norm = with_norm.then(|| RmsNorm::new(norm_weight.clone(), 1e-5, &device().autodiff()));
                let layer = latent(granularity, activations).with_norm(norm);
                let packed = layer.pack().unwrap();
                assert!(layer.latent_weights().is_some() && packed.latent_weights().is_none());
                assert_eq!(packed.norm().is_some(), with_norm);
                let y = floats(layer.forward(Tensor::from_inner(x.clone())).inner());
                assert_eq!(floats(packed.forward(x.clone())), y, "{granularity}, {activations:?}, {with_norm}");
                assert_eq!(floats(packed.weights()), floats(layer.weights().inner()));
                assert!(packed.weight_bytes() * 10 < layer.weight_bytes(), "two bits for 32, and the scales");

                let weights = layer.latent_weights().unwrap().value().inner();
                let matrix = quantize::absmean(&floats(weights), 24, 144, granularity).unwrap();
                assert_eq!(layer.ternary().unwrap(), matrix);
                assert_eq!(packed.ternary().unwrap(), matrix);
                assert_eq!(packed.pack().unwrap().ternary().unwrap(), matrix, "it is packed already");
            }
        }
    }
}

#[test]
fn a_layer_that_has_no_trits_is_not_packed() {
    let float = BitLinear::latent(latent(Granularity::Row, Activations::Int8).weights(), Quantization::None);
    assert!(matches!(float.pack().unwrap_err(), ModelError::Unsupported { .. }));
    let broken = Tensor::<2>::full([2, 16], f32::NAN, &device());
    assert!(matches!(BitLinear::latent(broken, Quantization::BITNET).pack().unwrap_err(), ModelError::NotFinite));
}

#[test]
fn a_record_brings_a_layer_back_latent_or_packed() {
    let layer = || BitLinearConfig::new(40, 8).init(&device());
    let x = Tensor::<2>::random([3, 40], Distribution::Default, (&device(), DType::F32));
    let (first, other) = (layer(), layer());
    let y = floats(first.forward(x.clone()));
    assert_ne!(floats(other.forward(x.clone())), y);
    let packed = other.pack().unwrap().load_record(first.pack().unwrap().into_record());
    assert_eq!(floats(packed.forward(x.clone())), y);
    let other = other.load_record(first.clone().into_record());
    assert_eq!(floats(other.forward(x)), y);
    let latents = |layer: &BitLinear| floats(layer.latent_weights().unwrap().value());
    assert_eq!(latents(&other), latents(&first));
}

#[test]
fn a_record_has_the_weights_row_by_row_whatever_order_a_layer_keeps_them_in() {
    let trits: Vec<i8> = (0..50 * 200).map(|i| ((i * i + i / 3) % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(50, 200, &trits, Scale::Tensor(0.5)).unwrap();
    let zeros = TernaryMatrix::from_trits(50, 200, &[0; 50 * 200], Scale::Tensor(1.0)).unwrap();
    let x = Tensor::<2>::random([3, 200], Distribution::Default, (&device(), DType::F32));
    let expected = reference::linear(&floats(x.clone()), 3, &matrix);
    let empty = |bits| BitLinear::with_bits(zeros.clone(), bits, &device()).unwrap();
    for from in [WeightBits::Two, WeightBits::OnePointSix] {
        let layer = BitLinear::with_bits(matrix.clone(), from, &device()).unwrap();
        assert_eq!(floats(layer.forward(x.clone())), expected, "{from}");
        assert_eq!(floats(layer.weights()), matrix.to_f32());
        let other = empty(WeightBits::Two).load_record(layer.clone().into_record());
        assert_eq!(floats(other.forward(x.clone())), expected, "{from}");
        assert!(empty(WeightBits::OnePointSix).try_load_record(layer.into_record()).is_err(), "refused, not misread");
    }
    let grouped = quantize::absmean(&[1.0; 64], 2, 32, Granularity::Group(16)).unwrap();
    let error = BitLinear::with_bits(grouped, WeightBits::OnePointSix, &device()).unwrap_err().to_string();
    assert!(error.contains("1.6"), "{error}");
}

#[test]
fn layers_before_a_bit_linear_get_a_gradient_and_packed_weights_none() {
    let device = device().autodiff();
    let layer = BitLinearConfig::new(16, 4).init(&device);
    let x = Tensor::<2>::random([2, 16], Distribution::Default, (&device, DType::F32)).require_grad();
    let expected = layer.weights().inner().sum_dim(0).expand([2, 16]);
    let gradients = layer.forward(x.clone()).sum().backward();
    x.grad(&gradients).unwrap().into_data().assert_approx_eq::<f32>(&expected.clone().into_data(), Default::default());
    assert_eq!(layer.latent_weights().unwrap().value().grad(&gradients).unwrap().dims(), [4, 16]);

    // On a device with gradients a packed layer passes them on all the same.
    let packed = BitLinear::from_ternary(layer.ternary().unwrap(), &device).unwrap();
    let gradients = packed.forward(x.clone()).sum().backward();
    x.grad(&gradients).unwrap().into_data().assert_approx_eq::<f32>(&expected.into_data(), Default::default());
}

#[test]
fn odd_groups_are_refused() {
    let matrix = TernaryMatrix::from_trits(2, 20, &[1; 40], Scale::Group { size: 10, values: vec![1.0; 4] }).unwrap();
    let error = BitLinear::from_ternary(matrix, &device()).unwrap_err().to_string();
    assert!(error.contains("10 columns"), "{error}");
}
