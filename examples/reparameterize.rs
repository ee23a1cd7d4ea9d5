//! A stock Burn model whose weights become ternary from outside: its code knows nothing of it.
//!
//! `cargo run --release -p bitnet-examples --example reparameterize`

use bitnet::model::{Activations, BitLinear, ModelError, Ternary};
use bitnet_examples::{DigitBatch, PIXELS, digits};
use burn::module::{Module, ParamGroup};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, activation::relu};

const EPOCHS: usize = 3;
const BATCH: usize = 50;

/// Three of Burn's own layers.
#[derive(Module, Debug)]
struct Classifier {
    input: Linear,
    hidden: Linear,
    output: Linear,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        let layer = |d_input, d_output| LinearConfig::new(d_input, d_output).with_bias(false).init(device);
        Self { input: layer(PIXELS, 256), hidden: layer(256, 256), output: layer(256, 10) }
    }

    /// `[digits, PIXELS] → [digits, 10]`
    fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        let x = relu(self.input.forward(pixels));
        let x = relu(self.hidden.forward(x));
        self.output.forward(x)
    }
}

/// Plain gradient steps, as for any Burn model.
fn train(mut model: Classifier, device: &Device) -> Classifier {
    let examples = digits(20_000, 1);
    let mut optimizer = AdamWConfig::new().init();
    let loss = CrossEntropyLossConfig::new().init(device);
    for epoch in 0..EPOCHS {
        let rate = 2e-3 * (1.0 - epoch as f64 / EPOCHS as f64);
        for batch in examples.chunks(BATCH) {
            let batch = DigitBatch::new(batch, device);
            let grads = loss.forward(model.forward(batch.pixels), batch.labels).backward();
            let grads = GradientsParams::from_grads(grads, &model);
            model = optimizer.step(rate, model, grads);
        }
    }
    model
}

/// The share of digits that are read right, in percent.
fn accuracy(forward: impl Fn(Tensor<2>) -> Tensor<2>) -> f64 {
    let batch = DigitBatch::new(&digits(1000, 3), &Device::flex());
    let right = forward(batch.pixels).argmax(1).flatten::<1>(0, 1).equal(batch.labels);
    100.0 * right.int().sum().into_scalar::<i64>() as f64 / 1000.0
}

fn main() -> Result<(), ModelError> {
    let device = Device::flex().autodiff();
    device.seed(7);
    let float = train(Classifier::new(&device), &device).valid();
    println!("float weights                  {:.1} % right", accuracy(|x| float.forward(x)));

    // The one line that makes the difference: every matrix of the model has trits for values from here on.
    let model = Classifier::new(&device).apply_reparameterization(Ternary::new(ParamGroup::all()));
    let model = train(model, &device).valid();
    println!("ternary weights                {:.1} % right", accuracy(|x| model.forward(x)));

    // Without the latent weights it is the plain module that it was.
    let model = model.materialize();
    println!("ternary weights, materialized  {:.1} % right", accuracy(|x| model.forward(x)));

    // Burn's linear weights are [d_input, d_output], ours [d_output, d_input].
    let pack = |layer: &Linear| BitLinear::from_ternary_weights(layer.weight.val().transpose());
    let packed = [pack(&model.input)?, pack(&model.hidden)?, pack(&model.output)?];
    let run = |activations| {
        let [input, hidden, output] = packed.clone().map(|layer| layer.with_activations(activations));
        accuracy(|x| output.forward(relu(hidden.forward(relu(input.forward(x))))))
    };
    let bytes: usize = packed.iter().map(BitLinear::weight_bytes).sum();
    println!("packed to {bytes} bytes          {:.1} % right", run(Activations::Float));
    println!("the same, int8 activations     {:.1} % right", run(Activations::Int8));
    Ok(())
}
