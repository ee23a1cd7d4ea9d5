//! Checkpoints: everything that a run needs to go on as if nothing had happened.
//!
//! A checkpoint is one safetensors file: the latent weights under their Hugging Face names, what the optimizer remembers of
//! each as `optimizer.<part>.<name>`, and a JSON state in the metadata. It takes its name when it is complete, so a kill
//! or a full disk leaves the one before.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bitnet_format::{SafetensorsWriter, StorageType};
use bitnet_model::Transformer;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::inspect::Inspector;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::recipe::Recipe;

const STATE: &str = "bitnet.training";
const PREFIX: &str = "step-";
const ENDING: &str = ".safetensors";

/// What a checkpoint knows besides tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training.
    pub elapsed_seconds: f64,
    /// Mean loss of the last step, in nats a token.
    pub train_loss: f64,
    /// The best measurement on held-out text so far.
    pub best: Option<Best>,
    /// Numbers of the data: a run cannot go on with other data.
    pub data: DataIdentity,
    /// The recipe.
    pub recipe: Recipe,
}

/// A measurement on held-out text, and the step after which it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps taken.
    pub step: u64,
    /// Nats a token.
    pub loss: f64,
}

/// What tells one data set from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// Tokens to train on.
    pub train_tokens: u64,
    /// Tokens held out.
    pub valid_tokens: u64,
    /// Vocabulary.
    pub vocab_size: usize,
}

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Those in `folder`, of which the latest `keep` are kept, and the best.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep }
    }

    /// The file of a step.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:08}{ENDING}"))
    }

    /// Steps that there is a checkpoint of, in order.
    ///
    /// # Errors
    /// When the folder is there and cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::io(&self.folder)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(TrainError::io(&self.folder))?.file_name();
            let step: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(ENDING)?.parse().ok());
            steps.extend(step);
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint, and then removes those that are neither among the latest nor the best.
    ///
    /// # Errors
    /// When writing fails or a weight is not finite; the checkpoints that were there are still there.
    pub fn save(
        &self,
        state: &State,
        model: &Transformer,
        optimizer: &Optimizer,
        inspector: &Inspector,
    ) -> Result<PathBuf, TrainError> {
        fs::create_dir_all(&self.folder).map_err(TrainError::io(&self.folder))?;
        let parameters = Parameters::of(model);
        let path = self.path(state.step);
        let json = serde_json::to_string(state)
            .map_err(|error| TrainError::Checkpoint { path: path.clone(), reason: error.to_string() })?;
        let mut writer = SafetensorsWriter::new();
        writer.metadata(STATE, &json)?.metadata("format", "pt")?;
        for (id, parameter) in parameters.in_order() {
            writer.tensor(&parameter.name, StorageType::F32, &parameter.shape)?;
            for (part, _) in optimizer.state(id) {
                writer.tensor(&state_name(part, &parameter.name), StorageType::F32, &parameter.shape)?;
            }
        }
        for (name, words) in inspector.trits() {
            writer.tensor(&trits_name(name), StorageType::U32, &[words.len()])?;
        }
        let mut out = writer.create(&path, true)?;
        let floats = |tensor: Tensor<1>| -> Vec<f32> { tensor.into_data().iter().collect() };
        let mut values = Values::default();
        model.visit(&mut values);
        for (id, parameter) in parameters.in_order() {
            if let Some(value) = values.0.remove(&id) {
                let value = floats(value);
                // Such a model is lost, and must not take the place of one that is not.
                if value.iter().any(|x| !x.is_finite()) {
                    return Err(self.not_finite(state.step, &parameter.name)?);
                }
                out.write_f32(&parameter.name, &value)?;
            }
            for (part, value) in optimizer.state(id) {
                out.write_f32(&state_name(part, &parameter.name), &floats(value.clone()))?;
            }
        }
        for (name, words) in inspector.trits() {
            out.write_u32(&trits_name(name), words)?;
        }
        out.finish()?;
        self.remove_old(state.best)?;
        Ok(path)
    }

    /// What is wrong with a run whose numbers are no longer finite, first in `layer`, at a step.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn not_finite(&self, step: u64, layer: &str) -> Result<TrainError, TrainError> {
        let last_good = self.steps()?.pop().map(|step| self.path(step));
        Ok(TrainError::NotFinite { step, layer: layer.to_string(), last_good })
    }

    fn remove_old(&self, best: Option<Best>) -> Result<(), TrainError> {
        let steps = self.steps()?;
        let old = &steps[..steps.len().saturating_sub(self.keep)];
        for step in old.iter().filter(|step| Some(**step) != best.map(|best| best.step)) {
            let path = self.path(*step);
            fs::remove_file(&path).map_err(TrainError::io(&path))?;
        }
        Ok(())
    }
}

/// A checkpoint that was read.
pub struct Loaded {
    path: PathBuf,
    bytes: memmap2::Mmap,
    /// What it knows besides tensors.
    pub state: State,
}

impl Loaded {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a checkpoint.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let refuse = |reason: String| TrainError::Checkpoint { path: path.to_path_buf(), reason };
        let file = fs::File::open(path).map_err(TrainError::io(path))?;
        // SAFETY: a checkpoint is never changed after it has its name; whoever truncates it by hand while it is read kills
        // this process, as with every mapped file.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(TrainError::io(path))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| refuse(error.to_string()))?;
        let json = metadata.metadata().as_ref().and_then(|texts| texts.get(STATE));
        let json = json.ok_or_else(|| refuse("it has no training state".to_string()))?;
        let state = serde_json::from_str(json).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { path: path.to_path_buf(), bytes, state })
    }

    fn refuse(&self, reason: String) -> TrainError {
        TrainError::Checkpoint { path: self.path.clone(), reason }
    }

    /// Puts the weights into `model`, which has the same parameters, and gives the optimizer its memory back.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape; every parameter must be there.
    pub fn restore(&self, model: Transformer, optimizer: &mut Optimizer) -> Result<Transformer, TrainError> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|error| self.refuse(error.to_string()))?;
        let parameters = Parameters::of(&model);
        let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>, TrainError> {
            let tensor = tensors.tensor(name).map_err(|_| self.refuse(format!("tensor {name} is missing")))?;
            if tensor.shape() != shape || tensor.dtype() != safetensors::Dtype::F32 {
                let found = (tensor.dtype(), tensor.shape());
                return Err(self.refuse(format!("tensor {name} is {found:?}, not F32 {shape:?}: another model's")));
            }
            Ok(tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        let device = crate::step::inner_device(&model);
        let mut values = Vec::new();
        for (id, parameter) in parameters.in_order() {
            values.push((id, read(&parameter.name, &parameter.shape)?));
        }
        optimizer.restore(&parameters, self.state.step, |parameter, part| {
            let values = read(&state_name(part, &parameter.name), &parameter.shape)?;
            let count = values.len();
            Ok::<_, TrainError>(Tensor::from_data(TensorData::new(values, [count]), (&device, DType::F32)))
        })?;
        Ok(model.map(&mut Fill(values.into_iter().collect())))
    }

    /// What an inspector had seen.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn inspector(&self) -> Result<Inspector, TrainError> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|error| self.refuse(error.to_string()))?;
        let trits = tensors.iter().filter_map(|(name, tensor)| {
            let words = tensor.data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
            Some((name.strip_prefix(TRITS)?.to_string(), words.collect()))
        });
        Ok(Inspector::with_trits(trits.collect()))
    }
}

/// Trits of a linear as an [`Inspector`] saw them.
const TRITS: &str = "inspector.trits.";

fn trits_name(name: &str) -> String {
    format!("{TRITS}{name}")
}

fn state_name(part: &str, name: &str) -> String {
    format!("optimizer.{part}.{name}")
}

/// The values of all parameters.
#[derive(Default)]
struct Values(HashMap<ParamId, Tensor<1>>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        let count = value.shape().num_elements();
        self.0.insert(param.id, value.reshape([count]));
    }
}

/// Gives parameters new values.
struct Fill(HashMap<ParamId, Vec<f32>>);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.0.remove(&param.id) else { return param };
        let (id, old, mapper) = param.consume();
        let data = TensorData::new(values, old.dims());
        let new = Tensor::<D>::from_data(data, (&old.device().inner(), DType::F32));
        Param::from_mapped_value(id, Tensor::from_inner(new).require_grad(), mapper)
    }
}
