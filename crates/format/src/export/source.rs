//! An open checkpoint as a model to be written.

use super::plan::{Plan, is_linear};
use super::{Model, Tensor, TensorData, TensorKind};
use crate::{Checkpoint, FormatError};

impl Model {
    /// What a checkpoint holds, ready to be written in another form: linears as trits, everything else as floats. Whoever
    /// wants a tensor otherwise changes its [`kind`](Tensor::kind).
    ///
    /// # Errors
    ///
    /// When the checkpoint's tokenizer cannot be read.
    pub fn of(checkpoint: &Checkpoint, name: impl Into<String>) -> Result<Self, FormatError> {
        let config = checkpoint.config().clone();
        let mut plan = Plan::of(checkpoint.tensors().map(|info| info.name.as_str()));
        // Some files have a copy of the embedding for a head that they say is tied.
        plan.head &= config.tie_word_embeddings != Some(true);
        let kind = |name: &str| if is_linear(name) { TensorKind::Ternary } else { TensorKind::Floats };
        let tensors = plan.tensors(&config);
        let tensors = tensors.into_iter().map(|(name, shape)| Tensor { kind: kind(&name), name, shape }).collect();
        Ok(Self { name: name.into(), config, tokenizer: checkpoint.tokenizer_files()?, tensors })
    }
}

impl Tensor {
    /// This tensor's data from a checkpoint, as its kind says.
    ///
    /// # Errors
    ///
    /// When the checkpoint has no such tensor, or cannot give it so.
    pub fn read(&self, checkpoint: &Checkpoint) -> Result<TensorData, FormatError> {
        match (self.kind, &self.shape[..]) {
            (TensorKind::Ternary, &[rows, cols]) => {
                let linear = self.name.strip_suffix(".weight").unwrap_or(&self.name);
                checkpoint.ternary(linear, rows, cols).map(TensorData::Ternary)
            }
            (TensorKind::Stored(_), _) => checkpoint.shared_bytes(&self.name).map(TensorData::Stored),
            _ => checkpoint.floats(&self.name).map(TensorData::Floats),
        }
    }
}
