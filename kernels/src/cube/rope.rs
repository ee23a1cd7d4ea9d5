//! Rotary positions.

use cubecl::prelude::*;

/// Turns each head of `x` (`[batch, tokens, heads, head_dim]`) by the angles of its token, `cos` and `sin` being
/// `[positions, half]`: elements `i` and `half + i` are a pair, those from `2 half` on stay.
#[cube(launch)]
pub(super) fn rope(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    out: &mut [f32],
    start: usize,
    tokens: usize,
    heads: usize,
    #[comptime] head_dim: usize,
    #[comptime] half: usize,
) {
    let rest = comptime!(head_dim - 2 * half);
    let work = half + rest;
    let rows = out.len() / head_dim;
    for task in range_stepped(ABSOLUTE_POS, rows * work, CUBE_COUNT * CUBE_DIM as usize) {
        let (row, i) = (task / work, task % work);
        let at = row * head_dim;
        if i < half {
            let angle = (start + row / heads % tokens) * half + i;
            let (cos, sin) = (cos[angle], sin[angle]);
            let (low, high) = (x[at + i], x[at + half + i]);
            out[at + i] = low * cos - high * sin;
            out[at + half + i] = high * cos + low * sin;
        } else {
            out[at + half + i] = x[at + half + i];
        }
    }
}
