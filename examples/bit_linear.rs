//! `BitLinear` in a small hand-written model: trained, then packed.
//!
//! `cargo run --release -p bitnet-examples --example bit_linear`

use bitnet::model::{BitLinear, BitLinearConfig, ModelError};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor, activation};

/// A ternary layer between two float ones.
#[derive(Module, Debug)]
struct Mlp {
    input: Linear,
    hidden: BitLinear,
    output: Linear,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        Self {
            input: LinearConfig::new(8, 64).init(device),
            hidden: BitLinearConfig::new(64, 256).init(device),
            output: LinearConfig::new(256, 1).init(device),
        }
    }

    /// `[batch, 8] → [batch, 1]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = activation::relu(self.input.forward(x));
        let x = activation::relu(self.hidden.forward(x));
        self.output.forward(x)
    }
}

fn main() -> Result<(), ModelError> {
    let device = Device::flex().autodiff();
    device.seed(7);
    let mut model = Mlp::new(&device);
    println!("{model}");

    // The target is a product of two inputs.
    let x = Tensor::<2>::random([512, 8], Distribution::Uniform(-1.0, 1.0), &device);
    let target = x.clone().slice([0..512, 0..1]) * x.clone().slice([0..512, 1..2]);
    let mut optimizer = AdamWConfig::new().init();
    for step in 0..=400 {
        let loss = (model.forward(x.clone()) - target.clone()).powf_scalar(2.0).mean();
        if step % 100 == 0 {
            println!("step {step:3}: loss {:.5}", loss.clone().into_scalar::<f32>());
        }
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(1e-3, model, grads);
    }

    // Packing keeps the trits and lets go of the floats they come from; not a bit of the output changes.
    let (model, x) = (model.valid(), x.inner());
    let (before, bytes) = (model.forward(x.clone()), model.hidden.weight_bytes());
    let model = Mlp { hidden: model.hidden.pack()?, ..model };
    assert_eq!(model.forward(x).into_data(), before.into_data());
    println!("the hidden layer has {bytes} bytes of weights, packed {}", model.hidden.weight_bytes());
    Ok(())
}
