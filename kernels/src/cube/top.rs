//! The best of some logits, and the sum of all: what a sampler needs of a vocabulary.
//!
//! Rows are cut in segments. The best of a segment is found anew for each rank: the largest logit among those that come
//! after the one before. So nothing is sorted or written twice, and the order is that of the values and then of the ids.

use cubecl::prelude::*;

use super::rows::{first_row, lane, largest, row_step, total};

const LOWEST: f32 = -3.4028235e38;

/// Bits of the exponent: all set where a number is infinite or none.
const EXPONENT: u32 = 0x7f80_0000;

const NEGATIVE_INFINITY: u32 = 0xff80_0000;

/// Where there is no logit.
const NONE: u32 = u32::MAX;

/// Whether `x` is finite.
#[cube]
fn is_number(x: f32) -> bool {
    (u32::reinterpret(x) & EXPONENT) != EXPONENT
}

/// Whether (`x`, `id`) comes after (`last`, `last_id`).
#[cube]
fn comes_after(x: f32, id: u32, last: f32, last_id: u32) -> bool {
    x < last || (x == last && id > last_id)
}

/// Of the units that have found `best`, the lowest id among those whose value is the largest; [`NONE`] where no unit has
/// found any. Ids are below 2^24, and so exact as floats.
#[cube]
fn lowest_id(best: f32, id: u32, top: f32, #[comptime] units: usize) -> u32 {
    let mut key = LOWEST.runtime();
    if best == top && id != NONE {
        key = -f32::cast_from(id);
    }
    let key = largest(key, units);
    let mut found = NONE.runtime();
    if key > LOWEST {
        found = u32::cast_from(-key);
    }
    found
}

/// Of each segment of each row the `count` best (`values`, `ids`), and the largest and the sum of the exponentials of the
/// distances from it (`sums`).
#[cube(launch)]
pub(super) fn of_segments(
    logits: &[f32],
    values: &mut [f32],
    ids: &mut [u32],
    sums: &mut [f32],
    vocab: usize,
    #[comptime] segment: usize,
    #[comptime] count: usize,
    #[comptime] units: usize,
) {
    let segments = (vocab + segment - 1) / segment;
    let lane = lane(units);
    for task in range_stepped(first_row(units), logits.len() / vocab * segments, row_step(units)) {
        let (row, begin) = (task / segments * vocab, task % segments * segment);
        let end = min(begin + segment, vocab);
        let mut own = LOWEST.runtime();
        for i in range_stepped(begin + lane, end, units.runtime()) {
            let x = logits[row + i];
            if is_number(x) {
                own = max(own, x);
            }
        }
        let top = largest(own, units);
        let mut sum = 0f32;
        for i in range_stepped(begin + lane, end, units.runtime()) {
            let x = logits[row + i];
            if is_number(x) {
                sum += f32::exp(x - top);
            }
        }
        let sum = total(sum, units);
        if lane == 0 {
            sums[2 * task] = top;
            sums[2 * task + 1] = sum;
        }
        let mut last = 0f32;
        let mut last_id = 0u32;
        for rank in 0..count {
            let mut best = LOWEST.runtime();
            let mut best_id = NONE.runtime();
            for i in range_stepped(begin + lane, end, units.runtime()) {
                let x = logits[row + i];
                let id = u32::cast_from(i);
                let new = rank == 0 || comes_after(x, id, last, last_id);
                if is_number(x) && new && (best_id == NONE || x > best) {
                    best = x;
                    best_id = id;
                }
            }
            let top = largest(best, units);
            let id = lowest_id(best, best_id, top, units);
            if lane == 0 {
                values[task * count + rank] = top;
                ids[task * count + rank] = id;
            }
            last = top;
            last_id = id;
        }
    }
}

/// Puts together what [`of_segments`] has found, as `TernaryOps::top_logits` says.
#[cube(launch)]
pub(super) fn merge(
    values: &[f32],
    ids: &[u32],
    sums: &[f32],
    out: &mut [u32],
    segments: usize,
    #[comptime] count: usize,
    #[comptime] units: usize,
) {
    let width = comptime!(1 + 2 * count);
    let lane = lane(units);
    for row in range_stepped(first_row(units), out.len() / width, row_step(units)) {
        let mut own = LOWEST.runtime();
        for i in range_stepped(lane, segments, units.runtime()) {
            own = max(own, sums[2 * (row * segments + i)]);
        }
        let top = largest(own, units);
        let mut sum = 0f32;
        for i in range_stepped(lane, segments, units.runtime()) {
            let at = 2 * (row * segments + i);
            sum += sums[at + 1] * f32::exp(sums[at] - top);
        }
        let sum = total(sum, units);
        if lane == 0 {
            out[row * width] = u32::reinterpret(top + f32::ln(sum));
        }
        let mut last = 0f32;
        let mut last_id = 0u32;
        for rank in 0..count {
            let mut best = LOWEST.runtime();
            let mut best_id = NONE.runtime();
            for i in range_stepped(lane, segments * count, units.runtime()) {
                let x = values[row * segments * count + i];
                let id = ids[row * segments * count + i];
                let new = rank == 0 || comes_after(x, id, last, last_id);
                let better = best_id == NONE || x > best || (x == best && id < best_id);
                if id != NONE && new && better {
                    best = x;
                    best_id = id;
                }
            }
            let top = largest(best, units);
            let id = lowest_id(best, best_id, top, units);
            if lane == 0 {
                let mut bits = u32::reinterpret(top);
                if id == NONE {
                    bits = NEGATIVE_INFINITY.runtime();
                }
                out[row * width + 1 + rank] = bits;
                out[row * width + 1 + count + rank] = id;
            }
            last = top;
            last_id = id;
        }
    }
}
