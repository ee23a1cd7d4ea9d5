//! The gate of a gated MLP.

use super::exp::exp;
use super::isa::{Isa, on_each_isa};
use super::parallel;

/// What the gate applies to `gate` before it multiplies `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `max(g, 0)^2`, the squared ReLU of BitNet b1.58 2B-4T (arXiv 2504.12285, section 2).
    Relu2,
    /// `g / (1 + exp(-g))`, the SiLU of LLaMA.
    Silu,
}

/// `out[i] = act(gate[i]) * up[i]`, in f32: a squared ReLU leaves the range of f16.
///
/// # Panics
/// When this processor cannot run `isa`, or the slices differ in length.
pub fn gated(isa: Isa, kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    const CHUNK: usize = 4096;
    isa.check();
    assert_eq!((gate.len(), up.len()), (out.len(), out.len()), "gate and up");
    let work = 4 * out.len();
    parallel::chunks(out, CHUNK, work, |i, out| {
        let (start, end) = (i * CHUNK, i * CHUNK + out.len());
        gated_row(isa, kind, &gate[start..end], &up[start..end], out);
    });
}

on_each_isa! {
    /// [`gated`] on the calling thread.
    pub(crate) fn gated_row(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) = gated_body
}

#[inline(always)]
fn gated_body(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let all = out.iter_mut().zip(gate).zip(up);
    match kind {
        Gate::Relu2 => all.for_each(|((out, g), up)| {
            let g = g.max(0.0);
            *out = g * g * up;
        }),
        Gate::Silu => all.for_each(|((out, g), up)| *out = g / (1.0 + exp(-g)) * up),
    }
}
