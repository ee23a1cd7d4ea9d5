//! What a step makes smaller.

mod preference;

use bitnet_model::Transformer;

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
}

impl Objective {
    /// How many terms the loss of a batch is a sum of.
    pub(crate) fn terms(&self, batch: &Batch) -> usize {
        match self {
            Self::Likelihood { .. } => batch.loss_targets(),
            Self::Preference(_) => batch.segments.len() / 2,
        }
    }

    /// Adds the gradients of `loss * factor` to `gradients` and gives the loss, which is a sum. `documents` are those of the
    /// batch, where its rows are documents.
    pub(crate) fn backward(
        &self,
        batch: &DeviceBatch,
        documents: &[usize],
        model: &Transformer,
        factor: f64,
        gradients: &mut GradientSum,
    ) -> f64 {
        match self {
            Self::Likelihood { checkpoint_activations: true } => batch.backward_checkpointed(model, factor, gradients),
            Self::Likelihood { checkpoint_activations: false } => batch.backward(model, factor, gradients),
            Self::Preference(preference) => preference.backward(batch, documents, model, factor, gradients),
        }
    }
}
