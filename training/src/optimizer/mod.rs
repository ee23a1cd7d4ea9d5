//! How weights change in a step: AdamW for all, or Muon for the matrices of the linears.

mod muon;

use std::collections::HashMap;

use bitnet_kernels::ops::training::{AdamW, adamw};
use bitnet_model::Transformer;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;

use crate::gradients::GradientSum;
use crate::parameters::{Kind, Parameter, Parameters};
use crate::recipe::{OptimizerKind, OptimizerRecipe};

/// What the schedules say of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSize {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the matrices of the linears.
    pub weight_decay: f64,
    /// What all gradients are multiplied by: the clipping of their norm.
    pub gradient_scale: f64,
}

/// The state of an optimizer: for each parameter what it remembers of former gradients.
///
/// A parameter that has no state yet begins with zeros. Whoever loads a checkpoint sets all of them.
#[derive(Clone, Debug)]
pub struct Optimizer {
    recipe: OptimizerRecipe,
    steps: u64,
    states: HashMap<ParamId, State>,
}

/// Lines of as many numbers as the parameter has.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a parameter, and a run has only one kind but for a few")]
enum State {
    AdamW { mean: Tensor<1>, square: Tensor<1> },
    Muon { momentum: Tensor<1> },
}

impl State {
    fn parts(&self) -> Vec<(&'static str, &Tensor<1>)> {
        match self {
            State::AdamW { mean, square } => vec![("mean", mean), ("square", square)],
            State::Muon { momentum } => vec![("momentum", momentum)],
        }
    }
}

impl Optimizer {
    /// An optimizer that has seen nothing.
    pub fn new(recipe: &OptimizerRecipe) -> Self {
        Self { recipe: recipe.clone(), steps: 0, states: HashMap::new() }
    }

    /// The names of what is remembered of a parameter.
    pub fn state_names(&self, parameter: &Parameter) -> &'static [&'static str] {
        if self.uses_muon(parameter) { &["momentum"] } else { &["mean", "square"] }
    }

    fn uses_muon(&self, parameter: &Parameter) -> bool {
        self.recipe.kind == OptimizerKind::Muon && parameter.kind == Kind::Linear
    }

    /// What is remembered of a parameter, in the order of [`Optimizer::state_names`]; nothing before its first step.
    pub fn state(&self, id: ParamId) -> Vec<(&'static str, &Tensor<1>)> {
        self.states.get(&id).map(State::parts).unwrap_or_default()
    }

    /// Goes on from a checkpoint: `state` gives what was remembered of each parameter under each name.
    ///
    /// # Errors
    /// What `state` fails with.
    pub fn restore<E>(
        &mut self,
        parameters: &Parameters,
        steps: u64,
        mut state: impl FnMut(&Parameter, &str) -> Result<Tensor<1>, E>,
    ) -> Result<(), E> {
        let mut states = HashMap::new();
        for (id, parameter) in parameters.in_order() {
            let restored = match self.state_names(parameter) {
                ["momentum"] => State::Muon { momentum: state(parameter, "momentum")? },
                _ => State::AdamW { mean: state(parameter, "mean")?, square: state(parameter, "square")? },
            };
            states.insert(id, restored);
        }
        (self.states, self.steps) = (states, steps);
        Ok(())
    }

    /// Changes every parameter of `model` that has a gradient.
    pub fn step(
        &mut self,
        model: Transformer,
        parameters: &Parameters,
        gradients: GradientSum,
        size: StepSize,
    ) -> Transformer {
        self.steps += 1;
        model.map(&mut Change { optimizer: self, parameters, gradients, size })
    }

    /// The new value of a parameter.
    fn change(
        &mut self,
        id: ParamId,
        parameter: &Parameter,
        w: Tensor<1>,
        gradient: Tensor<1>,
        size: StepSize,
    ) -> Tensor<1> {
        let (decayed, muon) = (parameter.kind == Kind::Linear, self.uses_muon(parameter));
        let weight_decay = if decayed { size.weight_decay } else { 0.0 };
        match (self.states.remove(&id), muon) {
            (state, true) => {
                let momentum = match state {
                    Some(State::Muon { momentum }) => momentum,
                    _ => w.zeros_like(),
                };
                let shape = [parameter.shape[0], parameter.shape[1]];
                let step = muon::Muon { size, weight_decay, momentum: self.recipe.momentum };
                let (w, momentum) = step.apply(w, gradient, momentum, shape);
                self.states.insert(id, State::Muon { momentum });
                w
            }
            (state, false) => {
                let (mean, square) = match state {
                    Some(State::AdamW { mean, square }) => (mean, square),
                    _ => (w.zeros_like(), w.zeros_like()),
                };
                let step = AdamW {
                    learning_rate: size.learning_rate as f32,
                    beta_1: self.recipe.beta_1 as f32,
                    beta_2: self.recipe.beta_2 as f32,
                    epsilon: self.recipe.epsilon as f32,
                    weight_decay: weight_decay as f32,
                    gradient_scale: size.gradient_scale as f32,
                    step: u32::try_from(self.steps).unwrap_or(u32::MAX),
                };
                let (w, [mean, square]) = adamw(w, gradient, [mean, square], step);
                self.states.insert(id, State::AdamW { mean, square });
                w
            }
        }
    }
}

struct Change<'a> {
    optimizer: &'a mut Optimizer,
    parameters: &'a Parameters,
    gradients: GradientSum,
    size: StepSize,
}

impl ModuleMapper for Change<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(parameter) = self.parameters.get(param.id) else { return param };
        let Some(gradient) = self.gradients.remove(param.id) else { return param };
        let (id, value, mapper) = param.consume();
        let (shape, count) = (value.dims(), parameter.len());
        let value = value.inner().reshape([count]);
        let value = self.optimizer.change(id, parameter, value, gradient, self.size);
        let value = Tensor::from_inner(value.reshape(shape)).require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}
