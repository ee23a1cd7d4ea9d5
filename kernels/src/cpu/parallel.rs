//! Splitting one output over the threads of the current `rayon` pool.

use rayon::prelude::*;

/// Below this many multiply-adds a second thread costs more than it gives.
const MIN_WORK: usize = 1 << 16;

/// Calls `f(first, chunk)` for consecutive chunks of `chunk` elements of `out`; `first` is the chunk's index.
/// `work` is the number of multiply-adds of the whole call.
pub(crate) fn chunks<T: Send>(out: &mut [T], chunk: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    if work < MIN_WORK || rayon::current_num_threads() == 1 {
        out.chunks_mut(chunk).enumerate().for_each(|(i, part)| f(i, part));
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| f(i, part));
    }
}

/// How many of `rows` one task takes so that each thread gets a few tasks of at least `least` rows.
pub(crate) fn rows_per_task(rows: usize, least: usize) -> usize {
    rows.div_ceil(4 * rayon::current_num_threads()).max(least)
}

/// Turns `[rows, columns]` into `[columns, rows]`, in blocks that stay in the first cache.
pub(crate) fn transpose(from: &[f32], columns: usize, to: &mut [f32], rows: usize) {
    const BLOCK: usize = 16;
    for r0 in (0..rows).step_by(BLOCK) {
        for c0 in (0..columns).step_by(BLOCK) {
            for c in c0..columns.min(c0 + BLOCK) {
                for r in r0..rows.min(r0 + BLOCK) {
                    to[c * rows + r] = from[r * columns + c];
                }
            }
        }
    }
}
