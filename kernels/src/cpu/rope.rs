//! Rotary position embedding, half-split (the "NeoX" order): element `i` turns with element `i + dim / 2`.

use super::parallel;

/// Rotates the first `2 * half` elements of every head of `x` (`[batch, tokens, heads, head_dim]`) in place.
///
/// `cos` and `sin` are tables `[positions, half]`; token `t` uses row `start + t`.
///
/// Source: Su et al., "RoFormer" (arXiv 2104.09864), eq. 34, with the pairs laid out as Hugging Face does.
///
/// # Panics
/// When the tables are too short for `start + tokens` positions.
pub fn rotate(x: &mut [f32], shape: [usize; 4], cos: &[f32], sin: &[f32], half: usize, start: usize) {
    let [_, tokens, heads, head_dim] = shape;
    let work = x.len();
    parallel::chunks(x, (heads * head_dim).max(1), work, |row, x| {
        let position = start + row % tokens;
        let cos = &cos[position * half..][..half];
        let sin = &sin[position * half..][..half];
        for head in x.chunks_exact_mut(head_dim) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    });
}
