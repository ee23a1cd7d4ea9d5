//! What a step makes smaller.

mod distillation;
mod preference;

use bitnet_model::Transformer;
use burn::tensor::Device;

pub(crate) use distillation::Distillation;
pub use distillation::{divergence, relation_divergence};
pub(crate) use preference::Preference;
pub use preference::{log_likelihoods, preference_loss};

use crate::data::Batch;
use crate::gradients::GradientSum;
use crate::step::DeviceBatch;

/// The loss of a run.
pub(crate) enum Objective {
    /// Cross-entropy of the next token.
    Likelihood {
        /// Whether the insides of blocks are computed a second time for the backward pass.
        checkpoint_activations: bool,
    },
    /// A preference for one reply over another.
    Preference(Preference),
    /// What a teacher says.
    Distillation(Box<Distillation>),
}

/// A part of a step.
pub(crate) struct Part<'a> {
    /// Its tokens.
    pub(crate) batch: &'a Batch,
    /// The same where the model is.
    pub(crate) on_device: &'a DeviceBatch,
    /// The documents it is made of, where its rows are documents.
    pub(crate) documents: &'a [usize],
}

impl Objective {
    /// The same for a copy of the model on `device`, which is without gradients.
    pub(crate) fn on(&self, device: &Device) -> Self {
        match self {
            Self::Likelihood { checkpoint_activations } => {
                Self::Likelihood { checkpoint_activations: *checkpoint_activations }
            }
            Self::Preference(preference) => Self::Preference(preference.clone()),
            Self::Distillation(distillation) => Self::Distillation(Box::new(distillation.on(device))),
        }
    }

    /// How many terms the loss of a batch is a sum of.
    pub(crate) fn terms(&self, batch: &Batch) -> usize {
        match self {
            Self::Likelihood { .. } | Self::Distillation(_) => batch.loss_targets(),
            Self::Preference(_) => batch.segments.len() / 2,
        }
    }

    /// Adds the gradients of `loss * factor` to `gradients` and gives the loss, which is a sum.
    pub(crate) fn backward(
        &self,
        part: &Part<'_>,
        model: &Transformer,
        factor: f64,
        gradients: &mut GradientSum,
    ) -> f64 {
        let batch = part.on_device;
        match self {
            Self::Likelihood { checkpoint_activations: true } => batch.backward_checkpointed(model, factor, gradients),
            Self::Likelihood { checkpoint_activations: false } => batch.backward(model, factor, gradients),
            Self::Preference(preference) => preference.backward(batch, part.documents, model, factor, gradients),
            Self::Distillation(distillation) => distillation.backward(part, model, factor, gradients),
        }
    }
}
