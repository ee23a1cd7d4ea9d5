//! Ready-made networks.

use std::fmt;
use std::str::FromStr;

use bitnet_format::Activation;
use bitnet_ternary::Granularity;

use super::choices::choose;
use super::{
    ActivationChoice, BatchRecipe, Model, OptimizerKind, OptimizerRecipe, Packing, PrecisionChoice, QuantizationRecipe,
    Recipe, Reduction, RunRecipe, ScaleChoice, StorageChoice, TokenizerChoice, UnknownWord, WeightsChoice,
};
use crate::schedule::{LambdaSchedule, LearningRate, LearningRateSchedule, Span, WeightDecay, WeightDecaySchedule};

/// A ready-made network with a recipe that was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 0.8 million parameters: minutes on a CPU.
    Tiny,
    /// 10 million: hours on a CPU, minutes on a GPU.
    M10,
    /// 30 million.
    M30,
    /// 100 million.
    M100,
}

impl Size {
    /// All of them, the smallest first.
    pub const ALL: [Size; 4] = [Size::Tiny, Size::M10, Size::M30, Size::M100];

    /// The name that a command line takes.
    pub fn name(self) -> &'static str {
        match self {
            Size::Tiny => "tiny",
            Size::M10 => "10m",
            Size::M30 => "30m",
            Size::M100 => "100m",
        }
    }

    /// The recipe of this size.
    pub fn recipe(self) -> Recipe {
        let shape = |layers, hidden, ffn, heads, kv_heads, context| Model {
            layers,
            hidden,
            ffn,
            heads,
            kv_heads,
            context,
            sub_norms: true,
            inner_norms: false,
            activation: ActivationChoice(Activation::Relu2),
            tied: true,
            rope_theta: 10_000.0,
            embedding: StorageChoice::F16,
            init: 1.0,
            embedding_init: 0.02,
        };
        let (model, rows, peak, tokenizer) = match self {
            Size::Tiny => (shape(4, 128, 384, 4, 1, 64), 12, 2e-3, TokenizerChoice::Bytes),
            Size::M10 => (shape(6, 384, 1024, 6, 6, 256), 16, 1e-3, TokenizerChoice::Bytes),
            Size::M30 => (shape(8, 512, 1408, 8, 4, 512), 64, 2e-3, TokenizerChoice::Bpe(4096)),
            Size::M100 => (shape(12, 768, 2048, 12, 6, 1024), 256, 2.4e-3, TokenizerChoice::Bpe(16384)),
        };
        let lambda = match self {
            // Nearer to the float twin with each of three seeds than quantized from the first step.
            Size::Tiny => LambdaSchedule::Linear { over: Span::Share(0.4) },
            Size::M10 | Size::M30 | Size::M100 => LambdaSchedule::One,
        };
        Recipe {
            seed: 0,
            tokenizer,
            from: None,
            model,
            quantization: QuantizationRecipe {
                weights: WeightsChoice::Ternary,
                scale: ScaleChoice(Granularity::Tensor),
                act_bits: 8,
                lambda,
            },
            batch: BatchRecipe {
                rows,
                accumulate: 1,
                checkpoint_activations: false,
                precision: PrecisionChoice::F32,
                packing: Packing::Rows,
                reduction: Reduction::Mean,
            },
            optimizer: OptimizerRecipe {
                kind: OptimizerKind::AdamW,
                learning_rate: LearningRate {
                    peak,
                    warmup: Span::Steps(100),
                    schedule: LearningRateSchedule::Cosine { floor: 0.01 },
                },
                weight_decay: WeightDecay { value: 0.1, schedule: WeightDecaySchedule::Constant },
                beta_1: 0.9,
                beta_2: if self == Size::M100 { 0.95 } else { 0.99 },
                epsilon: 1e-8,
                momentum: 0.95,
                clip: 1.0,
            },
            run: RunRecipe {
                max_steps: 2000,
                epochs: 0.0,
                max_seconds: 0.0,
                validate_every: 250,
                validate_tokens: 50_000,
                checkpoint_every: 500,
                keep: 2,
                inspect_every: 100,
                sample_every: 500,
                sample_prompt: String::new(),
            },
            preference: None,
            lora: None,
            distillation: None,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Size {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        choose(text, &Self::ALL.map(|size| (size.name(), size)), "`tiny`, `10m`, `30m` or `100m`")
    }
}
