//! A checkpoint of a run, to be written as a file that runs.

use std::path::{Path, PathBuf};

use bitnet_model::{Quantization, Transformer, load, load_trainable};
use burn::tensor::{Device, FloatDType};

use super::RunFolder;
use super::batches::held_out;
use super::first::first_model;
use crate::TrainError;
use crate::checkpoint::{Loaded, State};
use crate::data::{Corpus, find_held_out};
use crate::export::{ExportFormat, export};
use crate::optimizer::Optimizer;
use crate::recipe::WeightsChoice;
use crate::step::mean_loss;
use crate::tokenizer::TokenizerFiles;

/// A model in training, as a checkpoint has it.
pub struct Trained {
    /// The run that it is of.
    pub folder: RunFolder,
    /// What the checkpoint knows besides tensors.
    pub state: State,
    /// Its tokenizer.
    pub tokenizer: TokenizerFiles,
    /// The model, fully quantized if it is a ternary one, without gradients.
    pub model: Transformer,
}

impl Trained {
    /// Opens a run's folder at a step, or at its latest checkpoint, or a checkpoint in such a folder.
    ///
    /// # Errors
    /// When there is no checkpoint, or it or the model that it began with cannot be read.
    pub fn open(path: &Path, step: Option<u64>, device: &Device) -> Result<Self, TrainError> {
        let (folder, loaded) = if path.is_file() {
            let folder = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            (RunFolder::new(folder), Loaded::open(path)?)
        } else {
            let folder = RunFolder::new(path);
            let loaded = folder.checkpoint(step)?;
            let loaded = loaded.ok_or_else(|| TrainError::NoCheckpoint(path.to_path_buf()))?;
            (folder, loaded)
        };
        let recipe = &loaded.state.recipe;
        let tokenizer = folder.read_tokenizer()?;
        let first = first_model(recipe, &tokenizer, &device.clone().autodiff())?;
        let mut model = loaded.restore(first, &mut Optimizer::new(&recipe.optimizer))?.without_gradients();
        model.set_lambda(1.0);
        Ok(Self { folder, tokenizer, model, state: loaded.state })
    }

    /// What the model is called in its files: the name of the run's folder.
    pub fn name(&self) -> String {
        let path = self.folder.path().canonicalize().unwrap_or_else(|_| PathBuf::from("model"));
        path.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned())
    }

    /// Writes the model; see [`export`](crate::export()).
    ///
    /// # Errors
    /// As there.
    pub fn export(&self, format: ExportFormat, path: &Path, overwrite: bool) -> Result<(), TrainError> {
        export(&self.model, &self.tokenizer, &self.name(), format, path, overwrite)
    }

    /// The tokens that the run held out, or `None` when its cache has them no more.
    ///
    /// # Errors
    /// When the cache cannot be read, or is damaged.
    pub fn held_out(&self) -> Result<Option<Corpus>, TrainError> {
        let data = &self.state.data;
        Ok(find_held_out(&self.folder.cache(), data.train_tokens, data.valid_tokens)?)
    }

    /// Mean loss in nats over held-out tokens, of the model in training.
    ///
    /// # Errors
    /// When the recipe's context is none.
    pub fn loss(&self, corpus: &Corpus) -> Result<f64, TrainError> {
        self.loss_of(&self.model, corpus)
    }

    /// The same of a file that was written of it, opened and run as any other model.
    ///
    /// # Errors
    /// When the file cannot be opened or is no model.
    pub fn loss_of_file(&self, path: &Path, corpus: &Corpus) -> Result<f64, TrainError> {
        let (checkpoint, device) = (bitnet_format::open(path)?, self.model.device());
        let model = match self.state.recipe.quantization.weights {
            WeightsChoice::Ternary => load(&checkpoint, device)?.model,
            // A model that runs is ternary: the float twin is opened as what it is.
            WeightsChoice::None => load_trainable(&checkpoint, Quantization::None, FloatDType::F32, device)?.model,
        };
        self.loss_of(&model, corpus)
    }

    fn loss_of(&self, model: &Transformer, corpus: &Corpus) -> Result<f64, TrainError> {
        let batches = held_out(corpus, &self.state.recipe, None)?;
        Ok(mean_loss(model, model.device(), batches).0)
    }
}
