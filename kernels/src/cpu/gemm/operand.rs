//! The sides of a product, and how they become panels of floats.

use std::ops::Range;

use crate::cpu::isa::{Isa, on_each_isa};

/// One side of a product: `lanes` rows of the left side, or columns of the right one, at each `k`.
pub(crate) trait Operand: Sync {
    /// Writes the values of the lanes `first..first + lanes` at each of `ks` to `out`, `width` apart.
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]);
}

/// Lanes whose values lie side by side at each `k`: element `(lane, k)` is `values[k * stride + lane]`.
pub(crate) struct Lanes<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) stride: usize,
}

impl Operand for Lanes<'_, f32> {
    fn pack(&self, _: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let values = ks.map(|k| &self.values[k * self.stride + first..][..lanes]);
        // Of a size that is known, a copy is some registers and not a call.
        match lanes {
            32 if width == 32 => copy::<32>(values, out),
            16 if width == 16 => copy::<16>(values, out),
            12 if width == 12 => copy::<12>(values, out),
            _ => out.chunks_exact_mut(width).zip(values).for_each(|(out, values)| out[..lanes].copy_from_slice(values)),
        }
    }
}

impl Operand for Lanes<'_, i8> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        for (out, k) in out.chunks_exact_mut(width).zip(ks) {
            floats_of(isa, &self.values[k * self.stride + first..][..lanes], out);
        }
    }
}

/// [`Lanes`] with a factor for each `k`.
pub(crate) struct ScaledLanes<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) factors: &'a [f32],
}

impl Operand for ScaledLanes<'_> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        for (out, k) in out.chunks_exact_mut(width).zip(ks) {
            scale_to(isa, &self.values[k * self.stride + first..][..lanes], self.factors[k], out);
        }
    }
}

/// Lanes that each lie in a line: element `(lane, k)` is `values[lane * stride + k]`.
pub(crate) struct Lines<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

impl Operand for Lines<'_> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let mut lane = 0;
        while lanes - lane >= AT_ONCE {
            let lines = std::array::from_fn(|i| &self.values[(first + lane + i) * self.stride..][ks.clone()]);
            side_by_side(isa, lines, &mut out[lane..], width);
            lane += AT_ONCE;
        }
        for lane in lane..lanes {
            let line = &self.values[(first + lane) * self.stride..][ks.clone()];
            out[lane..].iter_mut().step_by(width).zip(line).for_each(|(out, x)| *out = *x);
        }
    }
}

/// [`Lines`] with a factor for each `k`.
pub(crate) struct ScaledLines<'a> {
    pub(crate) lines: Lines<'a>,
    pub(crate) factors: &'a [f32],
}

impl Operand for ScaledLines<'_> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        self.lines.pack(isa, first, lanes, ks.clone(), width, out);
        for (out, k) in out.chunks_exact_mut(width).zip(ks) {
            scale(isa, self.factors[k], &mut out[..lanes]);
        }
    }
}

/// Writes lines of `N` floats one after the other.
fn copy<'a, const N: usize>(lines: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
    for (out, line) in out.as_chunks_mut::<N>().0.iter_mut().zip(lines) {
        *out = *line.first_chunk().expect("a whole line");
    }
}

/// Lines that are turned at once.
const AT_ONCE: usize = 8;

on_each_isa! {
    fn floats_of(codes: &[i8], out: &mut [f32]) =
        |codes: &[i8], out: &mut [f32]| out.iter_mut().zip(codes).for_each(|(out, x)| *out = f32::from(*x))
}

on_each_isa! {
    fn scale_to(values: &[f32], factor: f32, out: &mut [f32]) =
        |values: &[f32], factor: f32, out: &mut [f32]| out.iter_mut().zip(values).for_each(|(out, x)| *out = x * factor)
}

on_each_isa! {
    fn scale(factor: f32, out: &mut [f32]) = |factor: f32, out: &mut [f32]| out.iter_mut().for_each(|x| *x *= factor)
}

on_each_isa! {
    /// `out[k * width + i] = lines[i][k]`.
    fn side_by_side(lines: [&[f32]; AT_ONCE], out: &mut [f32], width: usize) = side_by_side_body
}

#[inline(always)]
fn side_by_side_body(lines: [&[f32]; AT_ONCE], out: &mut [f32], width: usize) {
    let chunks = lines.map(|line| line.as_chunks::<AT_ONCE>());
    let blocks = chunks[0].0.len();
    for block in 0..blocks {
        for k in 0..AT_ONCE {
            let at = (block * AT_ONCE + k) * width;
            let out = out[at..].first_chunk_mut::<AT_ONCE>().expect("eight lanes");
            *out = std::array::from_fn(|i| chunks[i].0[block][k]);
        }
    }
    for k in 0..chunks[0].1.len() {
        let at = (blocks * AT_ONCE + k) * width;
        (0..AT_ONCE).for_each(|i| out[at + i] = chunks[i].1[k]);
    }
}
