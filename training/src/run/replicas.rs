//! The gradients of a step, on one device or on many.
//!
//! The first device has the weights and the optimizer, and everything is measured there. For each step the others get a copy
//! of the weights and a share of the rows, and their gradients are brought back. Burn calls this strategy
//! `MultiDeviceOptim::OptimMainDevice`; its workers hand gradients over in the order in which they finish, here they are
//! summed in the order of the devices, so that a run on the same devices is the same run each time. The loss of a step is one
//! sum over all its targets, divided by their number, wherever they were: a mean over targets and not over devices.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bitnet_model::{Sequences, Transformer, has_precision, row_storage, weight_order};
use burn::tensor::Device;

use super::batches::Batches;
use super::first::precision;
use crate::TrainError;
use crate::data::Batch;
use crate::gradients::GradientSum;
use crate::objective::{Objective, Part};
use crate::recipe::Recipe;
use crate::step::{DeviceBatch, inner_device};

/// What computes a share of each step.
struct Replica {
    /// With gradients.
    device: Device,
    objective: Objective,
    /// Those of the last part, as the next one often has the same.
    sequences: Option<Sequences>,
}

/// The devices of a run, the one with the weights first.
pub(super) struct Replicas(Vec<Replica>);

/// A part of a step, which a device computes at once.
pub(super) struct StepPart {
    batch: Batch,
    documents: Vec<usize>,
}

/// Why a step has no gradients.
pub(super) enum Failure {
    /// The loss is not a finite number; the first layer with such an output.
    NotFinite(String),
    /// A device other than the first has failed: its place in the list, and what it said.
    Lost(usize, String),
}

impl Replicas {
    /// `objective` on `first` and on each of `others`, devices without gradients.
    ///
    /// # Errors
    /// When a device is there twice, does not have the precision of the recipe, or cannot take a copy of packed weights, or
    /// when a step has fewer rows than it would have parts.
    pub(super) fn new(
        objective: Objective,
        recipe: &Recipe,
        first: &Device,
        others: &[Device],
    ) -> Result<Self, TrainError> {
        let refuse = |reason: String| Err(TrainError::Devices(reason));
        let mut before = vec![first];
        for other in others {
            if before.contains(&other) {
                return refuse(format!("number {} is one of those before it", before.len() + 1));
            }
            let alike = row_storage(first) == row_storage(other) && weight_order(first) == weight_order(other);
            if recipe.lora.is_some() && !alike {
                let reason = "keeps packed weights, beside which an adapter is trained, in another form than the first";
                return refuse(format!("number {} {reason}", before.len() + 1));
            }
            before.push(other);
        }
        if let Some(at) = before.iter().position(|device| !has_precision(device, precision(recipe))) {
            let short = recipe.batch.precision;
            return refuse(format!(
                "number {} multiplies no {short} numbers, which `batch.precision` asks for",
                at + 1
            ));
        }
        let (rows, parts) = (recipe.batch.rows, recipe.batch.accumulate * before.len());
        if parts > rows {
            return refuse(format!("a step has {rows} rows, too few for {parts} parts"));
        }
        let replica = |device: &Device| Replica {
            device: device.clone().autodiff(),
            objective: objective.on(device),
            sequences: None,
        };
        let mut all: Vec<Replica> = others.iter().map(replica).collect();
        all.insert(0, Replica { device: first.clone().autodiff(), objective, sequences: None });
        Ok(Self(all))
    }

    /// What is made smaller.
    pub(super) fn objective(&self) -> &Objective {
        &self.0[0].objective
    }

    /// The parts of a step: as many on each device as the recipe says.
    pub(super) fn parts(&self, batches: &Batches, step: u64, recipe: &Recipe) -> Vec<StepPart> {
        let of = recipe.batch.accumulate * self.0.len();
        let part =
            |part| StepPart { batch: batches.batch(step, part, of), documents: batches.documents(step, part, of) };
        (0..of).map(part).collect()
    }

    /// Targets of some parts, and terms of their loss.
    pub(super) fn count(&self, parts: &[StepPart]) -> (usize, usize) {
        let targets = parts.iter().map(|part| part.batch.loss_targets()).sum();
        (targets, parts.iter().map(|part| self.objective().terms(&part.batch)).sum())
    }

    /// The loss of all `parts`, a sum, and the gradients of `loss * factor`, on the device of `model`.
    pub(super) fn gradients(
        &mut self,
        model: &Transformer,
        parts: &[StepPart],
        factor: f64,
    ) -> Result<(f64, GradientSum), Failure> {
        let mut shares = parts.chunks(parts.len() / self.0.len());
        let own = shares.next().expect("a step has parts");
        let (first, others) = self.0.split_first_mut().expect("there is a device");
        thread::scope(|scope| {
            let mut running = Vec::new();
            for (replica, share) in others.iter_mut().zip(shares) {
                let model = model.clone();
                running.push(scope.spawn(move || {
                    let copy = model.copy_on(&replica.device);
                    replica.gradients(&copy, share, factor)
                }));
            }
            let result = first.gradients(model, own, factor);
            // All are waited for, whatever became of the others.
            let others: Vec<_> = running.into_iter().map(thread::ScopedJoinHandle::join).collect();
            let (mut loss, mut sum) = result?;
            let device = inner_device(model);
            for (number, other) in (2..).zip(others) {
                // Burn panics when a device does not answer.
                let lost = |cause: Box<dyn Any + Send>| Failure::Lost(number, message(&*cause));
                let (other_loss, other_sum) = other.map_err(lost)??;
                loss += other_loss;
                catch_unwind(AssertUnwindSafe(|| sum.merge(other_sum, &device))).map_err(lost)?;
            }
            Ok((loss, sum))
        })
    }
}

impl Replica {
    fn gradients(
        &mut self,
        model: &Transformer,
        parts: &[StepPart],
        factor: f64,
    ) -> Result<(f64, GradientSum), Failure> {
        let (mut gradients, mut loss) = (GradientSum::default(), 0.0);
        for StepPart { batch, documents } in parts.iter().filter(|part| part.batch.loss_targets() > 0) {
            let on_device = DeviceBatch::new(batch, model, model.device(), self.sequences.take());
            let part = Part { batch, on_device: &on_device, documents };
            let sum = self.objective.backward(&part, model, factor, &mut gradients);
            if !sum.is_finite() {
                let layer = on_device.first_not_finite(model).unwrap_or_else(|| "the loss".to_string());
                return Err(Failure::NotFinite(layer));
            }
            loss += sum;
            self.sequences = Some(on_device.into_sequences());
        }
        Ok((loss, gradients))
    }
}

/// What a thread said when it failed.
fn message(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
    text.unwrap_or("it gave no reason").to_string()
}
