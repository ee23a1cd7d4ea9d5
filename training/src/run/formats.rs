//! Which files a run ends with.

use std::path::Path;

use bitnet_model::Transformer;
use bitnet_ternary::{Granularity, Packing};

use crate::TrainError;
use crate::export::{ExportFormat, export};
use crate::recipe::{Recipe, WeightsChoice};
use crate::tokenizer::TokenizerFiles;

/// What a run writes.
pub(super) struct Formats {
    /// A GGUF file, where one can hold the model.
    pub(super) gguf: Option<ExportFormat>,
    /// The Hugging Face folder.
    pub(super) hugging_face: ExportFormat,
}

impl Formats {
    /// The packed files, where they can hold the model: one scale for a matrix, int8 activations.
    pub(super) fn of(recipe: &Recipe) -> Self {
        let quantization = &recipe.quantization;
        match (quantization.weights, quantization.scale.0, quantization.act_bits) {
            (WeightsChoice::None, ..) => Self { gguf: None, hugging_face: ExportFormat::HfMaster },
            (WeightsChoice::Ternary, Granularity::Tensor, 8) => {
                Self { gguf: Some(ExportFormat::Gguf(Packing::I2S)), hugging_face: ExportFormat::HfPacked }
            }
            (WeightsChoice::Ternary, ..) => Self { gguf: None, hugging_face: ExportFormat::HfTernary },
        }
    }

    /// Tries to write the model that a run begins with, so that what no file can hold is not trained first.
    pub(super) fn check(&self, model: &Transformer, tokenizer: &TokenizerFiles, out: &Path) -> Result<(), TrainError> {
        if self.gguf.is_some() {
            return Ok(());
        }
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = tempfile::tempdir_in(parent).map_err(TrainError::io(parent))?;
        export(model, tokenizer, "model", self.hugging_face, &folder.path().join("hf"), false)
    }
}
