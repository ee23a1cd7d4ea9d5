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

/// The gradients of [`gated`]: `dgate = dy * up * act'(gate)` and `dup = dy * act(gate)`.
///
/// # Panics
/// When this processor cannot run `isa`, or the slices differ in length.
pub fn backward(isa: Isa, kind: Gate, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    const CHUNK: usize = 4096;
    isa.check();
    let len = gate.len();
    assert_eq!((up.len(), dy.len(), dgate.len(), dup.len()), (len, len, len, len), "gate, up and gradients");
    let dup = parallel::Parts::new(dup);
    parallel::chunks(dgate, CHUNK, 8 * len, |i, dgate| {
        let (start, end) = (i * CHUNK, i * CHUNK + dgate.len());
        // SAFETY: each task has elements of its own.
        let dup = unsafe { dup.slice(start, end) };
        backward_of(isa, kind, &gate[start..end], &up[start..end], &dy[start..end], dgate, dup);
    });
}

on_each_isa! {
    fn backward_of(kind: Gate, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) = backward_body
}

#[inline(always)]
fn backward_body(kind: Gate, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let all = dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy);
    match kind {
        Gate::Relu2 => all.for_each(|((((dgate, dup), g), up), dy)| {
            let g = g.max(0.0);
            *dgate = dy * up * (2.0 * g);
            *dup = dy * (g * g);
        }),
        Gate::Silu => all.for_each(|((((dgate, dup), g), up), dy)| {
            let sigmoid = 1.0 / (1.0 + exp(-g));
            *dgate = dy * up * (sigmoid * (1.0 + g * (1.0 - sigmoid)));
            *dup = dy * (g * sigmoid);
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope() {
        let n = 5000;
        let noise = |seed: usize| (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 300.0 - 3.0).collect();
        let (gate, up, dy): (Vec<f32>, Vec<f32>, Vec<f32>) = (noise(1), noise(2), noise(3));
        for (isa, kind) in Isa::available().into_iter().flat_map(|isa| [(isa, Gate::Relu2), (isa, Gate::Silu)]) {
            let at = |shift: f32| {
                let moved: Vec<f32> = gate.iter().map(|g| g + shift).collect();
                let mut out = vec![0.0; n];
                gated(isa, kind, &moved, &up, &mut out);
                out
            };
            let (low, high, here) = (at(-1e-2), at(1e-2), at(0.0));
            let (mut dgate, mut dup) = (vec![0.0; n], vec![0.0; n]);
            backward(isa, kind, &gate, &up, &dy, &mut dgate, &mut dup);
            for i in 0..n {
                let slope = (high[i] - low[i]) / 2e-2 * dy[i];
                assert!((dgate[i] - slope).abs() < 0.1, "{kind:?} {i}: {} {slope}", dgate[i]);
                assert!((dup[i] * up[i] - here[i] * dy[i]).abs() < 1e-3 * here[i].abs().max(1.0));
            }
        }
    }
}
