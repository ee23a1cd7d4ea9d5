//! Panels of floats, and of pairs of bfloat16.

use std::ops::Range;

use super::operand::Operand;
use crate::cpu::isa::{Isa, on_each_isa};
use crate::cpu::parallel;
use crate::cpu::precision::Precision;
use crate::cpu::scratch::with_floats;

/// `k` values that are packed as floats before they become bfloat16.
const PART: usize = 64;

/// Packs all lanes of a side, the missing ones of the last panel as zeros.
pub(super) fn pack(
    isa: Isa,
    precision: Precision,
    side: &impl Operand,
    [lanes, k]: [usize; 2],
    width: usize,
    panels: &mut [f32],
) {
    let in_a_word = precision.in_a_word();
    parallel::chunks(panels, k.div_ceil(in_a_word) * width, 4 * lanes * k, |panel, out| {
        let first = panel * width;
        let lanes = width.min(lanes - first);
        let floats = |ks: Range<usize>, out: &mut [f32]| {
            if lanes < width || out.len() > ks.len() * width {
                out.fill(0.0);
            }
            side.pack(isa, first, lanes, ks, width, out);
        };
        match precision {
            Precision::F32 => floats(0..k, out),
            Precision::Bf16 => with_floats(PART * width, |values| {
                for (part, out) in out.chunks_mut(PART / in_a_word * width).enumerate() {
                    let values = &mut values[..in_a_word * out.len()];
                    floats(part * PART..k.min((part + 1) * PART), values);
                    pairs(isa, values, width, out);
                }
            }),
        }
    });
}

on_each_isa! {
    /// Lines of `width` floats as bfloat16, two lines in one: the first one in the upper halves.
    fn pairs(values: &[f32], width: usize, out: &mut [f32]) = pairs_body
}

#[inline(always)]
fn pairs_body(values: &[f32], width: usize, out: &mut [f32]) {
    match width {
        32 => pairs_of::<32>(values, out),
        16 => pairs_of::<16>(values, out),
        12 => pairs_of::<12>(values, out),
        width => {
            for (out, lines) in out.chunks_exact_mut(width).zip(values.chunks_exact(2 * width)) {
                let (first, second) = lines.split_at(width);
                out.iter_mut().zip(first.iter().zip(second)).for_each(|(out, (a, b))| *out = pair(*a, *b));
            }
        }
    }
}

#[inline(always)]
fn pairs_of<const WIDTH: usize>(values: &[f32], out: &mut [f32]) {
    let lines = values.as_chunks::<WIDTH>().0.as_chunks::<2>().0;
    for (out, [first, second]) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(lines) {
        *out = std::array::from_fn(|i| pair(first[i], second[i]));
    }
}

/// Two bfloat16 numbers in the bits of one element.
#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(bf16_bits(first) << 16 | bf16_bits(second))
}

/// The nearest bfloat16 number, ties to even.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN stays one.
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}
