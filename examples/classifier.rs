//! A classifier of one's own with ternary layers, trained by burn-train's learner, packed, and run on every device that this
//! build has.
//!
//! `cargo run --release -p bitnet-examples --example classifier [--features ndarray]`

use std::error::Error;
use std::io::{IsTerminal, stdout};

use bitnet::model::{BitLinear, BitLinearConfig, ModelError};
use bitnet_examples::{DigitBatch, DigitBatcher, PIXELS, Quiet, digits};
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::AdamWConfig;
use burn::tensor::{Device, Tensor, activation::relu};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{ClassificationOutput, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep};

const EPOCHS: usize = 3;
const BATCH: usize = 50;

/// Three layers, all ternary. Training and running take the same code.
#[derive(Module, Debug)]
struct Classifier {
    input: BitLinear,
    hidden: BitLinear,
    output: BitLinear,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        Self {
            input: BitLinearConfig::new(PIXELS, 256).init(device),
            hidden: BitLinearConfig::new(256, 256).init(device),
            output: BitLinearConfig::new(256, 10).init(device),
        }
    }

    /// `[digits, PIXELS] → [digits, 10]`
    fn forward(&self, pixels: Tensor<2>) -> Tensor<2> {
        let x = relu(self.input.forward(pixels));
        let x = relu(self.hidden.forward(x));
        self.output.forward(x)
    }

    fn classify(&self, batch: DigitBatch) -> ClassificationOutput {
        let logits = self.forward(batch.pixels);
        let loss = CrossEntropyLossConfig::new().init(&logits.device());
        let loss = loss.forward(logits.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, logits, batch.labels)
    }

    fn layers(&self) -> [&BitLinear; 3] {
        [&self.input, &self.hidden, &self.output]
    }

    /// The trits alone, on any device.
    fn pack(&self, device: &Device) -> Result<Self, ModelError> {
        let [input, hidden, output] = self.layers().map(|layer| BitLinear::from_ternary(layer.ternary()?, device));
        Ok(Self { input: input?, hidden: hidden?, output: output? })
    }

    fn bytes(&self) -> usize {
        self.layers().iter().map(|layer| layer.weight_bytes()).sum()
    }
}

impl TrainStep for Classifier {
    type Input = DigitBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: DigitBatch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Classifier {
    type Input = DigitBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: DigitBatch) -> ClassificationOutput {
        self.classify(batch)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(7);
    let loader = |count, seed| {
        let loader = DataLoaderBuilder::new(DigitBatcher).batch_size(BATCH).shuffle(seed);
        loader.build(InMemDataset::new(digits(count, seed)))
    };
    let (train, valid) = (loader(20_000, 1), loader(1000, 2));
    let steps = train.num_items() / BATCH * EPOCHS;

    let folder = tempfile::tempdir()?;
    let mut training = SupervisedTraining::new(folder.path(), train, valid)
        .metrics((LossMetric::new(), AccuracyMetric::new()))
        .with_default_checkpointers()
        .num_epochs(EPOCHS)
        .summary();
    if !stdout().is_terminal() {
        training = training.renderer(Box::new(Quiet));
    }
    let rate = CosineAnnealingLrSchedulerConfig::new(2e-3, steps).init()?;
    let trained = training.launch(Learner::new(Classifier::new(&device), AdamWConfig::new().init(), rate)).model;

    let test = digits(1000, 3);
    let labels: Vec<i64> = test.iter().map(|digit| i64::from(digit.label)).collect();
    let predict = |model: &Classifier, device: &Device| -> Vec<i64> {
        let logits = model.forward(DigitBatch::new(&test, device).pixels);
        logits.argmax(1).into_data().iter().collect()
    };
    let report = |what: &str, model: &Classifier, predicted: &[i64]| {
        let right = predicted.iter().zip(&labels).filter(|(a, b)| a == b).count();
        println!("{what:10} {:7} bytes of weights, {:.1} % right", model.bytes(), 100.0 * right as f64 / 1000.0);
    };
    let before = predict(&trained, &Device::flex());
    report("trained", &trained, &before);
    for info in bitnet::model::devices()? {
        let device = bitnet::model::device(&info.name)?;
        let packed = trained.pack(&device)?;
        let predicted = predict(&packed, &device);
        report(&info.name, &packed, &predicted);
        assert_eq!(predicted, before, "packing changes no prediction");
    }
    Ok(())
}
