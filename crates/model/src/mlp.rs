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
    /// `h` and the result are `[tokens, hidden]`; `norm` is applied first.
    pub(crate) fn forward(&self, h: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        let [gate, up] = BitLinear::forward_all([&self.gate_proj, &self.up_proj], h, Some(norm));
        self.down_proj.forward_gated(gate, up, self.gate, self.sub_norm.as_ref())
    }

    /// `act(gate(x)) * up(x)`, before the norm and the projection that follow, `[tokens, intermediate]`.
    pub(crate) fn inner(&self, h: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        let [gate, up] = BitLinear::forward_all([&self.gate_proj, &self.up_proj], h, Some(norm));
        ops::gated(gate, up, self.gate)
    }

    /// The ternary layers, with the names that Hugging Face gives them.
    pub(crate) fn linears(&self) -> [(&'static str, &BitLinear); 3] {
        [("gate_proj", &self.gate_proj), ("up_proj", &self.up_proj), ("down_proj", &self.down_proj)]
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> [&mut BitLinear; 3] {
        [&mut self.gate_proj, &mut self.up_proj, &mut self.down_proj]
    }

    /// The norm there may be, with the name that Hugging Face gives it.
    pub(crate) fn norms(&self) -> impl Iterator<Item = (&'static str, &RmsNorm)> {
        self.sub_norm.iter().map(|norm| ("ffn_sub_norm", norm))
    }
}
