//! The loss of a batch, its gradients, and the loss on held-out text.

use bitnet_kernels::ops::training::cross_entropy;
use bitnet_model::{Sequences, Transformer};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::data::Batch;
use crate::gradients::GradientSum;

/// The device of a model's numbers, without their gradients.
pub fn inner_device(model: &Transformer) -> Device {
    model.device().clone().inner()
}

/// A batch on a device.
pub struct DeviceBatch {
    inputs: Tensor<1, Int>,
    targets: Tensor<1, Int>,
    /// 1 for targets that count, else 0.
    weights: Tensor<1>,
    sequences: Sequences,
}

impl DeviceBatch {
    /// Brings a batch to the device of `model`; `before` is one whose positions may be the same.
    pub fn new(batch: &Batch, model: &Transformer, device: &Device, before: Option<Sequences>) -> Self {
        let n = batch.len();
        let inputs: Vec<i32> = batch.inputs.iter().map(|id| id.cast_signed()).collect();
        let weights: Vec<f32> = batch.loss.iter().map(|counts| f32::from(u8::from(*counts))).collect();
        let sequences = match before {
            Some(before) if before.lengths() == batch.segments => before,
            _ => model.sequences(&batch.segments),
        };
        Self {
            inputs: Tensor::from_data(TensorData::new(inputs, [n]), (device, DType::I32)),
            targets: Tensor::from_data(TensorData::new(batch.targets.clone(), [n]), (device, DType::U32)),
            weights: Tensor::from_data(TensorData::new(weights, [n]), (device, DType::F32)),
            sequences,
        }
    }

    /// The lengths and positions, for a next batch that has the same.
    pub fn into_sequences(self) -> Sequences {
        self.sequences
    }

    /// Lengths of the sequences, which lie one after the other.
    pub fn lengths(&self) -> &[usize] {
        self.sequences.lengths()
    }

    /// The sequences themselves.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// The tokens before the targets, `[targets]`.
    pub fn inputs(&self) -> Tensor<1, Int> {
        self.inputs.clone()
    }

    /// 1 for targets that count, else 0, `[targets]`.
    pub fn weights(&self) -> Tensor<1> {
        self.weights.clone()
    }

    /// Negative log-likelihood of each target in nats, 0 for those that do not count, from the logits for all of them:
    /// `[targets, vocabulary] → [targets]`.
    pub fn masked(&self, logits: Tensor<2>) -> Tensor<1> {
        cross_entropy(logits, self.targets.clone()) * self.weights.clone()
    }

    /// The same of a model.
    pub fn negative_log_likelihoods(&self, model: &Transformer) -> Tensor<1> {
        self.masked(model.logits(model.hidden_of(self.inputs.clone(), &self.sequences)))
    }

    /// Sum of the negative log-likelihoods of the targets that count, in nats, from the last hidden states.
    fn loss_of(&self, model: &Transformer, hidden: Tensor<2>) -> Tensor<1> {
        self.masked(model.logits(hidden)).sum()
    }

    /// The same from the beginning.
    pub fn loss(&self, model: &Transformer) -> Tensor<1> {
        self.loss_of(model, model.hidden_of(self.inputs.clone(), &self.sequences))
    }

    /// Adds the gradients of `loss * factor` to `gradients` and gives the loss.
    pub fn backward(&self, model: &Transformer, factor: f64, gradients: &mut GradientSum) -> f64 {
        let loss = self.loss(model);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        gradients.add((loss * factor).backward(), model);
        value
    }

    /// [`DeviceBatch::backward`] that keeps only the input of each block, and runs each block a second time when its
    /// gradients are due: less memory for a third more work.
    ///
    /// Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
    pub fn backward_checkpointed(&self, model: &Transformer, factor: f64, gradients: &mut GradientSum) -> f64 {
        let blocks = model.config().num_layers;
        let embedded = model.embed(self.inputs.clone());
        let leaf = |h: Tensor<2>| Tensor::<2>::from_inner(h).require_grad();
        let mut inputs = vec![embedded.clone().inner()];
        for block in 0..blocks {
            let h = Tensor::from_inner(inputs[block].clone());
            inputs.push(model.run_block(block, h, &self.sequences).inner());
        }
        let last = leaf(inputs.pop().expect("the last block has an output"));
        let loss = self.loss_of(model, last.clone());
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut all = (loss * factor).backward();
        let mut passed = last.grad_remove(&mut all);
        gradients.add(all, model);
        for (block, h) in inputs.into_iter().enumerate().rev() {
            let Some(dh) = passed else { return value };
            let h = leaf(h);
            let out = model.run_block(block, h.clone(), &self.sequences);
            let mut all = (out * Tensor::from_inner(dh)).sum().backward();
            passed = h.grad_remove(&mut all);
            gradients.add(all, model);
        }
        if let Some(dh) = passed {
            gradients.add((embedded * Tensor::from_inner(dh)).sum().backward(), model);
        }
        value
    }

    /// The first layer whose output is not finite: where a loss that is no number comes from.
    pub fn first_not_finite(&self, model: &Transformer) -> Option<String> {
        let is_finite = |h: &Tensor<2>| h.clone().inner().abs().max().into_scalar::<f32>().is_finite();
        let mut h = model.embed(self.inputs.clone());
        if !is_finite(&h) {
            return Some("model.embed_tokens".to_string());
        }
        for block in 0..model.config().num_layers {
            h = model.run_block(block, h, &self.sequences);
            if !is_finite(&h) {
                return Some(format!("model.layers.{block}"));
            }
        }
        (!is_finite(&model.logits(h))).then(|| "lm_head".to_string())
    }
}

/// Mean loss in nats over the targets of `batches` that count, and how many those are. The model is one that runs, not one
/// with gradients.
pub fn mean_loss(model: &Transformer, device: &Device, batches: impl Iterator<Item = Batch>) -> (f64, u64) {
    let (mut sum, mut count, mut sequences) = (0.0, 0u64, None);
    for batch in batches {
        count += batch.loss_targets() as u64;
        let batch = DeviceBatch::new(&batch, model, device, sequences.take());
        sum += f64::from(batch.loss(model).into_scalar::<f32>());
        sequences = Some(batch.into_sequences());
    }
    (sum / count.max(1) as f64, count)
}
