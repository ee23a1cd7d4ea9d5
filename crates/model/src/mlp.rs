//! The gated MLP.

use bitnet_format::Activation;
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
    pub(crate) activation: Activation,
}

impl GatedMlp {
    /// `h` and the result are `[tokens, hidden]`; `norm` is applied first, and `h` is added to the result where the MLP is a
    /// `residual` one.
    pub(crate) fn forward(&self, h: Tensor<2>, norm: &RmsNorm, residual: bool) -> Tensor<2> {
        let kind = kernel(self.activation);
        if let Some(kind) = kind {
            let layers = [&self.gate_proj, &self.up_proj, &self.down_proj];
            let inner_norm = self.sub_norm.as_ref();
            if let Some(y) = BitLinear::gated_mlp(layers, h.clone(), norm, kind, inner_norm, residual) {
                return y;
            }
        }
        let [gate, up] = BitLinear::forward_all([&self.gate_proj, &self.up_proj], h.clone(), Some(norm));
        let y = match kind {
            Some(kind) => self.down_proj.forward_gated(gate, up, kind, self.sub_norm.as_ref()),
            None => self.down_proj.onto(None, self.gated(gate, up), self.sub_norm.as_ref()),
        };
        if residual { h + y } else { y }
    }

    /// `act(gate(x)) * up(x)`, before the norm and the projection that follow, `[tokens, intermediate]`.
    pub(crate) fn inner(&self, h: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        let [gate, up] = BitLinear::forward_all([&self.gate_proj, &self.up_proj], h, Some(norm));
        self.gated(gate, up)
    }

    fn gated(&self, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
        match kernel(self.activation) {
            Some(kind) => ops::gated(gate, up, kind),
            None => gelu_tanh(gate) * up,
        }
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

/// The kernels' function for an activation; `None` for GELU, which Burn's operations do.
fn kernel(activation: Activation) -> Option<Gate> {
    match activation {
        Activation::Relu2 => Some(Gate::Relu2),
        Activation::Silu => Some(Gate::Silu),
        Activation::GeluTanh => None,
    }
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
///
/// Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (arXiv 1606.08415), section 2.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    const INNER: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let cubed = x.clone() * x.clone() * x.clone();
    let tanh = ((x.clone() + cubed * 0.044_715) * INNER).tanh();
    x * (tanh + 1.0) * 0.5
}
