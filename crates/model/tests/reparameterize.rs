//! Other people's modules with ternary weights.

use bitnet_model::{Activations, BitLinear, BitLinearConfig, Ternary, TernaryWeight, WeightLayout};
use bitnet_ternary::{Granularity, quantize};
use burn::module::{Module, Param, ParamGroup};
use burn::nn::{Linear, LinearConfig, LinearLayout};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, Distribution, Tensor};

const GRANULARITIES: [Granularity; 3] = [Granularity::Tensor, Granularity::Row, Granularity::Group(32)];

fn device() -> Device {
    bitnet_model::device(bitnet_model::DeviceKind::default_name()).unwrap()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), (device, DType::F32))
}

/// Two of Burn's linear layers.
#[derive(Module, Debug)]
struct Mlp {
    up: Linear,
    down: Linear,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        let down = LinearConfig::new(96, 4).with_bias(false);
        Self { up: LinearConfig::new(64, 96).init(device), down: down.init(device) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(burn::tensor::activation::relu(self.up.forward(x)))
    }
}

#[test]
fn a_linear_has_the_values_of_a_bit_linear_and_packs_to_it() {
    for layout in [LinearLayout::Row, LinearLayout::Col] {
        for granularity in GRANULARITIES {
            let linear = LinearConfig::new(64, 24).with_bias(false).with_layout(layout.clone()).init(&device());
            let latent = linear.weight.val().transpose();
            let expected = quantize::absmean(&floats(latent), 24, 64, granularity).unwrap();

            let ternary = Ternary::new(ParamGroup::all()).granularity(granularity);
            let linear = linear.apply_reparameterization(ternary);
            assert_eq!(floats(linear.weight.val().transpose()), expected.to_f32(), "{granularity}");
            let plain = linear.clone().materialize();
            assert!(plain.weight.reparameterization::<TernaryWeight>().is_none());

            let packed = BitLinear::from_ternary_weights(plain.weight.val().transpose()).unwrap();
            assert_eq!(packed.ternary().unwrap(), expected, "{granularity}");
            let x = random([5, 64], &device());
            let y = packed.with_activations(Activations::Float).forward(x.clone());
            for wanted in [linear.forward(x.clone()), plain.forward(x)] {
                y.clone().into_data().assert_approx_eq::<f32>(&wanted.into_data(), Default::default());
            }
        }
    }
}

#[test]
fn rows_are_output_features_in_either_layout() {
    let weight = random([24, 64], &device());
    let expected = quantize::absmean(&floats(weight.clone()), 24, 64, Granularity::Row).unwrap().to_f32();
    let ternary = |layout| Ternary::new(ParamGroup::all()).granularity(Granularity::Row).layout(layout);
    let value = |weight: Tensor<2>, layout| {
        let param = Param::from_tensor(weight).apply_reparameterization(ternary(layout));
        assert_eq!(param.reparameterization::<TernaryWeight>().unwrap().layout(), layout);
        param.val()
    };
    assert_eq!(floats(value(weight.clone(), WeightLayout::OutputInput)), expected);
    assert_eq!(floats(value(weight.clone().transpose(), WeightLayout::InputOutput).transpose()), expected);

    // The kernels of a convolution are rows, with all that they read.
    let kernels = Param::from_tensor(weight.reshape([24, 16, 2, 2]));
    let kernels = kernels.apply_reparameterization(ternary(WeightLayout::OutputInput));
    assert_eq!(kernels.val().dims(), [24, 16, 2, 2]);
    assert_eq!(floats(kernels.val()), expected);
}

#[test]
fn the_gradient_passes_to_the_latent_weight_unchanged() {
    for granularity in GRANULARITIES {
        let device = device().autodiff();
        let linear = LinearConfig::new(64, 24).with_bias(false).init(&device);
        let linear = linear.apply_reparameterization(Ternary::new(ParamGroup::all()).granularity(granularity));
        let (x, dy) = (random([5, 64], &device), random([5, 24], &device));
        let grads = (linear.forward(x.clone()) * dy.clone()).sum().backward();
        let expected = x.transpose().matmul(dy).inner();
        let found = linear.weight.base().grad(&grads).unwrap();
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Default::default());
    }
}

#[test]
fn only_the_matrices_of_the_group_change_and_training_moves_their_latents() {
    let device = device().autodiff();
    let model = Mlp::new(&device);
    let bias = floats(model.up.bias.as_ref().unwrap().val());
    let mut model = model.apply_reparameterization(Ternary::new(ParamGroup::from_predicate("up")));
    assert!(model.up.weight.reparameterization::<TernaryWeight>().is_some());
    assert!(model.down.weight.reparameterization::<TernaryWeight>().is_none());
    assert_eq!(floats(model.up.bias.as_ref().unwrap().val()), bias);

    let (x, target) = (random([32, 64], &device), random([32, 4], &device));
    let loss = |model: &Mlp| (model.forward(x.clone()) - target.clone()).square().mean();
    let (latent, first) = (floats(model.up.weight.base().clone()), floats(loss(&model))[0]);
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..20 {
        let grads = GradientsParams::from_grads(loss(&model).backward(), &model);
        model = optimizer.step(5e-3, model, grads);
    }
    assert!(floats(loss(&model))[0] < 0.9 * first);
    assert_ne!(floats(model.up.weight.base().clone()), latent);

    // A record brings the latent weights back, and with them their trits.
    let other = Mlp::new(&device).apply_reparameterization(Ternary::new(ParamGroup::from_predicate("up")));
    let other = other.load_record(model.clone().into_record());
    assert_eq!(floats(other.up.weight.val()), floats(model.up.weight.val()));
    assert_eq!(floats(other.forward(x.clone())), floats(model.valid().materialize().forward(x.inner())));
}

#[test]
fn weights_that_are_not_ternary_are_not_packed_as_such() {
    let error = BitLinear::from_ternary_weights(random([24, 64], &device())).unwrap_err().to_string();
    assert!(error.contains("[24, 64]"), "{error}");
    let layer = BitLinearConfig::new(64, 24).init(&device());
    let packed = BitLinear::from_ternary_weights(layer.weights()).unwrap();
    let x = random([5, 64], &device());
    assert_eq!(floats(packed.forward(x.clone())), floats(layer.forward(x)));
}
