//! The gate of a gated MLP.

use super::parallel;

/// What the gate applies to `gate` before it multiplies `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `max(g, 0)^2`, the squared ReLU of BitNet b1.58 2B-4T (arXiv 2504.12285, section 2).
    Relu2,
    /// `g / (1 + exp(-g))`, the SiLU of LLaMA.
    Silu,
}

impl Gate {
    /// The function of one value.
    pub fn apply(self, g: f32) -> f32 {
        match self {
            Gate::Relu2 => {
                let g = g.max(0.0);
                g * g
            }
            Gate::Silu => g / (1.0 + (-g).exp()),
        }
    }
}

/// `out[i] = act(gate[i]) * up[i]`, in f32: a squared ReLU leaves the range of f16.
///
/// # Panics
/// When the slices differ in length.
pub fn gated(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!((gate.len(), up.len()), (out.len(), out.len()), "gate and up");
    let work = 4 * out.len();
    parallel::chunks(out, 4096, work, |i, out| {
        let at = i * 4096;
        for ((out, gate), up) in out.iter_mut().zip(&gate[at..]).zip(&up[at..]) {
            *out = kind.apply(*gate) * up;
        }
    });
}
