//! Products where columns share a scale in groups, or where activations stay floats.

use cubecl::prelude::*;

use super::matvec::codes_of;
use super::quantize::WORD;
use super::rows::sum_of;

/// `out[token, row] = (Σ over groups of dot * scale) / multiplier`, the groups added from the left; one unit a row and
/// token. `group` is in vectors of words; a matrix with one scale, or with one a row, has one group.
#[cube(launch)]
pub(super) fn groups<V: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<f32, V>],
    meta: &[f32],
    scale: &[f32],
    out: &mut [f32],
    rows: usize,
    width: usize,
    group: usize,
    #[comptime] one_scale: bool,
) {
    let tokens = meta.len() / 2;
    let count = (width + group - 1) / group;
    for task in range_stepped(ABSOLUTE_POS, rows * tokens, CUBE_COUNT * CUBE_DIM as usize) {
        let (row, token) = (task % rows, task / rows);
        let mut sum = 0f32;
        for g in 0..count {
            let mut dots = Vector::<f32, V>::new(0f32);
            for k in g * group..min((g + 1) * group, width) {
                let word = words[row * width + k];
                for j in 0..WORD {
                    let trit = codes_of::<V>(word, j) - Vector::new(1f32);
                    dots += trit * codes[(token * width + k) * WORD + j];
                }
            }
            let scale = if comptime!(one_scale) { scale[0] } else { scale[row * count + g] };
            sum += sum_of(dots) * scale;
        }
        out[token * rows + row] = sum / meta[2 * token];
    }
}
