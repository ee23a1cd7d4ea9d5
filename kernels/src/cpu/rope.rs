//! Rotary position embedding, half-split (the "NeoX" order): element `i` turns with element `i + dim / 2`.

use super::isa::{Isa, on_each_isa};
use super::parallel;

/// Rotates the first `2 * half` elements of every head of `x` (`[batch, tokens, heads, head_dim]`) in place.
///
/// `cos` and `sin` are tables `[positions, half]`; token `t` uses row `start + t`.
///
/// Source: Su et al., "RoFormer" (arXiv 2104.09864), eq. 34, with the pairs laid out as Hugging Face does.
///
/// # Panics
/// When this processor cannot run `isa`, or the tables are too short for `start + tokens` positions.
pub fn rotate(isa: Isa, x: &mut [f32], shape: [usize; 4], cos: &[f32], sin: &[f32], half: usize, start: usize) {
    isa.check();
    let [_, tokens, heads, head_dim] = shape;
    let work = x.len();
    parallel::chunks(x, (heads * head_dim).max(1), work, |row, x| {
        let position = start + row % tokens;
        let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
        for head in x.chunks_exact_mut(head_dim) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            turn(isa, low, high, cos, sin);
        }
    });
}

on_each_isa! {
    fn turn(low: &mut [f32], high: &mut [f32], cos: &[f32], sin: &[f32]) = turn_body
}

#[inline(always)]
fn turn_body(low: &mut [f32], high: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (a, b) = (*low, *high);
        *low = a * cos - b * sin;
        *high = b * cos + a * sin;
    }
}
