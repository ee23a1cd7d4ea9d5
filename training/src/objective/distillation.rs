//! Distillation: a ternary student learns what its float teacher says of every next token, and how its heads relate the
//! tokens of a text.
//!
//! Sources: Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2; Wang et al.,
//! "MiniLMv2: Multi-Head Self-Attention Relation Distillation" (arXiv 2012.15828), section 3.1.

use bitnet_model::{Sequences, Transformer};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Tensor};

use super::Part;
use crate::gradients::GradientSum;
use crate::recipe::DistillationRecipe;
use crate::step::DeviceBatch;

/// Kullback-Leibler divergence of the student from the teacher for each token, of both distributions at `temperature` `T`,
/// times `T²`, which keeps the size of its gradients: `[tokens, vocabulary]` twice to `[tokens]`, in nats.
pub fn divergence(student: Tensor<2>, teacher: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [tokens, _] = student.dims();
    let student = log_softmax(student / temperature, 1);
    let teacher = log_softmax(teacher / temperature, 1);
    let each = teacher.clone().exp() * (teacher - student);
    (each.sum_dim(1) * (temperature * temperature)).reshape([tokens])
}

/// How differently student and teacher relate the tokens of each sequence. For every head, the relation of a token to those of
/// its sequence is `softmax(x · xᵀ / √d)` of its states `x` (`[tokens, heads, d]`: queries, keys or values); what is given
/// is the divergence of the student's from the teacher's, the mean over heads and tokens.
///
/// # Panics
/// When the shapes differ, or the lengths do not add up to the tokens.
pub fn relation_divergence(student: Tensor<3>, teacher: Tensor<3>, lengths: &[usize]) -> Tensor<1> {
    let shape @ [tokens, heads, width] = student.dims();
    assert_eq!(shape, teacher.dims(), "the student has the teacher's heads");
    assert_eq!(lengths.iter().sum::<usize>(), tokens, "the sequences are all there is");
    // One sequence's products, `[heads, length, length]`.
    let products = |x: &Tensor<3>, start: usize, length: usize| {
        let x = x.clone().narrow(0, start, length).swap_dims(0, 1);
        x.clone().matmul(x.swap_dims(1, 2)) / (width as f64).sqrt()
    };
    let (mut sum, mut start) = (Tensor::zeros([1], &student.device()), 0);
    for length in lengths {
        let of_teacher = products(&teacher, start, *length);
        let logarithms = log_softmax(of_teacher.clone(), 2) - log_softmax(products(&student, start, *length), 2);
        sum = sum + (softmax(of_teacher, 2) * logarithms).sum();
        start += length;
    }
    sum / (heads * tokens.max(1)) as f64
}

/// The distillation of a run.
pub(crate) struct Distillation {
    recipe: DistillationRecipe,
    /// A float model without gradients.
    teacher: Transformer,
}

/// What a model says of a batch.
struct Said {
    logits: Tensor<2>,
    /// Queries, keys and values of the layer whose relations are compared.
    states: Option<[Tensor<3>; 3]>,
}

impl Distillation {
    pub(crate) fn new(recipe: &DistillationRecipe, teacher: Transformer) -> Self {
        Self { recipe: recipe.clone(), teacher }
    }

    /// The same with a copy of the teacher on another device.
    pub(super) fn on(&self, device: &Device) -> Self {
        Self { recipe: self.recipe.clone(), teacher: self.teacher.copy_on(device) }
    }

    /// Adds the gradients of `loss * factor` and gives the loss, a sum over the targets that count.
    pub(super) fn backward(
        &self,
        part: &Part<'_>,
        model: &Transformer,
        factor: f64,
        gradients: &mut GradientSum,
    ) -> f64 {
        let loss = self.loss(part, model);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        gradients.add((loss * factor).backward(), model);
        value
    }

    fn loss(&self, part: &Part<'_>, model: &Transformer) -> Tensor<1> {
        let DistillationRecipe { likelihood, logits, temperature, relations, .. } = self.recipe;
        let student = self.said(part.on_device, model);
        let at_teacher = DeviceBatch::new(part.batch, &self.teacher, self.teacher.device(), None);
        let teacher = self.said(&at_teacher, &self.teacher);
        let mut loss = part.on_device.masked(student.logits.clone()).sum() * likelihood;
        if logits > 0.0 {
            let each = divergence(student.logits, Tensor::from_inner(teacher.logits), temperature);
            loss = loss + (each * part.on_device.weights()).sum() * logits;
        }
        if let (Some(student), Some(teacher)) = (student.states, teacher.states) {
            // Of all tokens, and as heavy as those that count.
            let weight = relations * part.batch.loss_targets() as f64;
            for (student, teacher) in student.into_iter().zip(teacher) {
                let teacher = Tensor::from_inner(teacher);
                loss = loss + relation_divergence(student, teacher, part.on_device.lengths()) * weight;
            }
        }
        loss
    }

    fn said(&self, batch: &DeviceBatch, model: &Transformer) -> Said {
        let mut states = None;
        let sequences: &Sequences = batch.sequences();
        let mut h = model.embed(batch.inputs());
        for block in 0..model.config().num_layers {
            if self.recipe.relations > 0.0 && block == self.recipe.layer {
                states = Some(model.attention_states(block, h.clone()));
            }
            h = model.run_block(block, h, sequences);
        }
        Said { logits: model.logits(h), states }
    }
}
