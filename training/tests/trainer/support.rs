//! What the tests of the trainer share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bitnet_fixtures::moby;
use bitnet_model::{DeviceKind, Initialize, Quantization, Transformer};
use bitnet_training::data::Source;
use bitnet_training::metrics::Outcome;
use bitnet_training::parameters::Parameters;
use bitnet_training::recipe::{Recipe, Size};
use bitnet_training::schedule::LambdaSchedule;
use bitnet_training::{Event, Observer, RunOptions, TrainError, train};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

pub fn device() -> Device {
    bitnet_model::device(DeviceKind::default_name()).unwrap()
}

/// A network of 22 thousand parameters and half a minute of a large one's life: 30 steps.
pub fn small() -> Recipe {
    let mut recipe = Size::Tiny.recipe();
    recipe.model.layers = 2;
    recipe.model.hidden = 32;
    recipe.model.ffn = 64;
    recipe.model.heads = 4;
    recipe.model.kv_heads = 2;
    recipe.model.context = 32;
    recipe.batch.rows = 6;
    // The forward pass is exact from the first step.
    recipe.quantization.lambda = LambdaSchedule::One;
    recipe.optimizer.learning_rate.peak = 5e-3;
    recipe.optimizer.learning_rate.warmup = "5".parse().unwrap();
    let run = &mut recipe.run;
    (run.max_steps, run.validate_every, run.validate_tokens) = (30, 10, 500);
    (run.checkpoint_every, run.inspect_every, run.sample_every) = (10, 7, 0);
    recipe
}

/// Some pages of *Moby Dick*, as a file in `folder`.
pub fn text(folder: &Path) -> PathBuf {
    let whole = std::fs::read_to_string(moby("heldout.txt")).unwrap();
    let path = folder.join("text.txt");
    let end = whole.char_indices().map(|(at, _)| at).find(|at| *at >= 12_000).unwrap();
    std::fs::write(&path, &whole[..end]).unwrap();
    path
}

/// A run of `recipe` on [`text`] in `folder`, not begun.
pub fn options(folder: &Path, name: &str, recipe: &Recipe) -> RunOptions {
    RunOptions {
        source: Source::new(text(folder)),
        validation: None,
        one_in: 50,
        out: folder.join(name),
        recipe: recipe.clone(),
        device: device(),
        more_devices: Vec::new(),
        resume: false,
        overwrite: false,
        command: "test".to_string(),
    }
}

pub fn run(options: &RunOptions) -> Result<Outcome, TrainError> {
    train(options, &mut (), &AtomicBool::new(false))
}

/// Ends a run after a step.
pub struct StopAfter<'a> {
    pub step: u64,
    pub stop: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Step(record) = event
            && record.step == self.step
        {
            self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// The model of a recipe, with gradients, for a vocabulary of `vocab_size`.
pub fn model(recipe: &Recipe, vocab_size: usize, quantization: Quantization) -> Transformer {
    let initialize = Initialize {
        config: recipe.config(vocab_size, None),
        sub_norms: recipe.model.sub_norms,
        inner_norms: recipe.model.inner_norms,
        quantization,
        storage: FloatDType::F32,
        linear_std: 0.1,
        embedding_std: 0.1,
        seed: 3,
    };
    initialize.on(&device().autodiff()).unwrap()
}

/// The model with the values that `values` has for the names of its parameters; the others stay.
pub fn fill(model: Transformer, values: impl Fn(&str) -> Option<Vec<f32>>) -> Transformer {
    let parameters = Parameters::of(&model);
    let of = |(id, parameter): (ParamId, &bitnet_training::parameters::Parameter)| Some((id, values(&parameter.name)?));
    let new = parameters.in_order().into_iter().filter_map(of).collect();
    model.map(&mut Fill(new))
}

struct Fill(HashMap<ParamId, Vec<f32>>);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.0.remove(&param.id) else { return param };
        let (id, old, mapper) = param.consume();
        let data = TensorData::new(values, old.dims());
        let new = Tensor::<D>::from_data(data, (&old.device(), DType::F32)).require_grad();
        Param::from_mapped_value(id, new, mapper)
    }
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}
