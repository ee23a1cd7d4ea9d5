//! Gradients of one step, summed over its parts.

use std::collections::HashMap;

use bitnet_kernels::ops::training::sum_of_squares;
use bitnet_model::Transformer;
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor};

use crate::parameters::Parameters;

/// The gradient of each parameter, as one line of numbers.
#[derive(Default)]
pub struct GradientSum(HashMap<ParamId, Tensor<1>>);

impl GradientSum {
    /// Adds what a backward pass has left for the parameters of `model`.
    pub fn add(&mut self, gradients: Gradients, model: &Transformer) {
        model.visit(&mut Take { gradients, sums: &mut self.0 });
    }

    /// Adds those of a copy of the model elsewhere, brought to `device`.
    pub fn merge(&mut self, other: Self, device: &Device) {
        for (id, gradient) in other.0 {
            add(&mut self.0, id, gradient.to_device(device));
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, id: ParamId) -> Option<Tensor<1>> {
        self.0.remove(&id)
    }

    /// The first parameter in the order of the model whose gradient is not finite.
    pub fn first_not_finite(&self, parameters: &Parameters) -> Option<String> {
        let is_bad = |id: &ParamId| {
            self.0.get(id).is_some_and(|gradient| !gradient.clone().abs().max().into_scalar::<f32>().is_finite())
        };
        parameters.in_order().into_iter().find(|(id, _)| is_bad(id)).map(|(_, parameter)| parameter.name.clone())
    }

    /// The L2 norm of all gradients together.
    pub fn norm(&self, parameters: &Parameters) -> f64 {
        let squares = parameters.in_order().into_iter().filter_map(|(id, _)| self.0.get(&id).cloned());
        let squares: Vec<Tensor<1>> = squares.map(sum_of_squares).collect();
        if squares.is_empty() {
            return 0.0;
        }
        // Read back at once; the sum is taken in the order of the model.
        let sums = Tensor::cat(squares, 0).into_data();
        sums.iter::<f32>().map(f64::from).sum::<f64>().sqrt()
    }
}

fn add(sums: &mut HashMap<ParamId, Tensor<1>>, id: ParamId, gradient: Tensor<1>) {
    let sum = match sums.remove(&id) {
        Some(sum) => sum + gradient,
        None => gradient,
    };
    sums.insert(id, sum);
}

struct Take<'a> {
    gradients: Gradients,
    sums: &'a mut HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
            let count = gradient.shape().num_elements();
            add(self.sums, param.id, gradient.reshape([count]));
        }
    }
}
