//! An open checkpoint as a model to be written.

use super::plan::{Plan, is_linear, is_own_norm};
use super::{Model, Tensor, TensorData, TensorKind};
use crate::{Checkpoint, FormatError, ModelConfig, StorageType};

impl Model {
    /// What a checkpoint holds, ready to be written in another form: linears as trits, everything else as floats. Whoever
    /// wants a tensor otherwise changes its [`kind`](Tensor::kind).
    ///
    /// # Errors
    ///
    /// When the checkpoint's tokenizer cannot be read, or it makes vectors of texts in a way that this project does not.
    pub fn of(checkpoint: &Checkpoint, name: impl Into<String>) -> Result<Self, FormatError> {
        let config = ModelConfig { norm_offset: 0.0, ..checkpoint.config().clone() };
        let mut plan = Plan::of(checkpoint.tensors().map(|info| info.name.as_str()));
        // Some files have a copy of the embedding for a head that they say is tied.
        plan.head &= config.tie_word_embeddings != Some(true);
        let kind = |name: &str| if is_linear(name) { TensorKind::Ternary } else { TensorKind::Floats };
        let tensors = plan.tensors(&config);
        let tensors = tensors.into_iter().map(|(name, shape)| Tensor { kind: kind(&name), name, shape }).collect();
        let (tokenizer, embedding) = (checkpoint.tokenizer_files()?, checkpoint.embedding()?);
        Ok(Self { name: name.into(), config, embedding, tokenizer, tensors })
    }
}

impl Tensor {
    /// This tensor's data from a checkpoint, as its kind says. What the checkpoint's class adds to the weights of a norm is
    /// added.
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
            // Trits as floats.
            (TensorKind::Floats, &[rows, cols]) if is_linear(&self.name) && !is_plain(checkpoint, &self.name) => {
                let linear = self.name.strip_suffix(".weight").unwrap_or(&self.name);
                checkpoint.ternary(linear, rows, cols).map(|matrix| TensorData::Floats(matrix.to_f32()))
            }
            (TensorKind::Floats, [_, _]) if is_plain(checkpoint, &self.name) => {
                checkpoint.float_reader(&self.name).map(TensorData::Reader)
            }
            _ => {
                let mut values = checkpoint.floats(&self.name)?;
                let offset = checkpoint.config().norm_offset as f32;
                if offset != 0.0 && is_own_norm(&self.name) {
                    values.iter_mut().for_each(|weight| *weight += offset);
                }
                Ok(TensorData::Floats(values))
            }
        }
    }
}

/// Whether a tensor is of floats that stand for themselves: neither trits nor numbers with a scale beside them.
fn is_plain(checkpoint: &Checkpoint, name: &str) -> bool {
    let has =
        |ending: &str| name.strip_suffix("weight").is_some_and(|s| checkpoint.info(&format!("{s}{ending}")).is_some());
    checkpoint
        .info(name)
        .is_some_and(|info| info.dtype.is_readable_as_float() && !matches!(info.dtype, StorageType::Ternary(_)))
        && !has("weight_scale")
        && !has("scale")
}
