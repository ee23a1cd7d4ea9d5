//! `BitLinear` in a small hand-written model: a float layer is trained in front of frozen ternary ones.
//!
//! `cargo run --release -p bitnet-examples --example bit_linear`

use bitnet::model::{BitLinear, BitLinearConfig};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor, activation};

/// Two ternary layers behind a float one.
#[derive(Module, Debug)]
struct Mlp {
    input: Linear,
    hidden: BitLinear,
    output: BitLinear,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        Self {
            input: LinearConfig::new(8, 64).init(device),
            hidden: BitLinearConfig::new(64, 256).init(device),
            output: BitLinearConfig::new(256, 1).init(device),
        }
    }

    /// `[batch, 8] → [batch, 1]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = activation::relu(self.input.forward(x));
        let x = activation::relu(self.hidden.forward(x));
        self.output.forward(x)
    }
}

fn main() {
    let device = Device::flex().autodiff();
    device.seed(7);
    let mut model = Mlp::new(&device);
    println!("{model}");

    // The target is a product of two inputs; plain gradient descent moves the float layer alone.
    let x = Tensor::<2>::random([512, 8], Distribution::Uniform(-1.0, 1.0), &device);
    let target = x.clone().slice([0..512, 0..1]) * x.clone().slice([0..512, 1..2]);
    for step in 0..=400 {
        let loss = (model.forward(x.clone()) - target.clone()).powf_scalar(2.0).mean();
        if step % 100 == 0 {
            println!("step {step:3}: loss {:.5}", loss.clone().into_scalar::<f32>());
        }
        let grads = loss.backward();
        let step_down = |param: Tensor<2>| {
            let gradient = param.grad(&grads).expect("the gradient comes through the ternary layers");
            Tensor::from_inner(param.inner() - gradient * 0.3).require_grad()
        };
        model.input.weight = model.input.weight.map(step_down);
    }
    let trits: usize = model.hidden.weights().inner().shape().num_elements();
    println!("{trits} ternary weights in the hidden layer, {} bytes", trits / 4);
}
