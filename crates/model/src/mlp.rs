//! The gated MLP.

use bitnet_kernels::{Gate, ops};
use burn::module::Module;
use burn::tensor::Tensor;

use crate::{BitLinear, RmsNorm};

/// `down(norm(act(gate(x)) * up(x)))`, the norm where the model has one.
#[derive(Module, Debug)]
pub struct GatedMlp {
    pub(crate) gate_proj: BitLinear,
    pub(crate) up_proj: BitLinear,
    pub(crate) down_proj: BitLinear,
    /// Before `down_proj` (BitNet b1.58 2B-4T).
    pub(crate) sub_norm: Option<RmsNorm>,
    #[module(skip)]
    pub(crate) gate: Gate,
}

impl GatedMlp {
    /// `x` and the result are `[tokens, hidden]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let inner = ops::gated(self.gate_proj.forward(x.clone()), self.up_proj.forward(x), self.gate);
        let inner = match &self.sub_norm {
            Some(norm) => norm.forward(inner),
            None => inner,
        };
        self.down_proj.forward(inner)
    }
}
