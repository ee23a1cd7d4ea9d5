//! Rows of a matrix, shared out among the units, and what they find together.

use cubecl::prelude::*;

/// The first row of this unit, with `units` units on a row.
#[cube]
pub(super) fn first_row(#[comptime] units: usize) -> usize {
    if comptime!(units == 1) { ABSOLUTE_POS } else { CUBE_POS }
}

/// From one row of this unit to its next.
#[cube]
pub(super) fn row_step(#[comptime] units: usize) -> usize {
    if comptime!(units == 1) { CUBE_COUNT * CUBE_DIM as usize } else { CUBE_COUNT }
}

/// Which of the units of a row this is.
#[cube]
pub(super) fn lane(#[comptime] units: usize) -> usize {
    if comptime!(units == 1) { 0usize.runtime() } else { UNIT_POS as usize }
}

/// The largest `value` of the units of a row.
#[cube]
pub(super) fn largest(value: f32, #[comptime] units: usize) -> f32 {
    fold(value, units, true)
}

/// The sum of `value` over the units of a row.
#[cube]
pub(super) fn total(value: f32, #[comptime] units: usize) -> f32 {
    fold(value, units, false)
}

/// The largest `value`, or the sum of all, by halves.
#[cube]
fn fold(value: f32, #[comptime] units: usize, #[comptime] largest: bool) -> f32 {
    let mut result = value;
    if comptime!(units > 1) {
        let mut shared = Shared::<[f32]>::new_slice(units);
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        let mut width = units.runtime() / 2usize;
        while width > 0 {
            if unit < width {
                let (a, b) = (shared[unit], shared[unit + width]);
                shared[unit] = if comptime!(largest) { max(a, b) } else { a + b };
            }
            sync_cube();
            width /= 2;
        }
        result = shared[0];
        sync_cube();
    }
    result
}

/// The sum of the elements of a vector, from the left.
#[cube]
pub(super) fn sum_of<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = 0f32;
    #[unroll]
    for i in 0..N::value() {
        sum += vector.extract(i);
    }
    sum
}

/// The largest element of a vector of values that are not negative.
#[cube]
pub(super) fn max_of<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut largest = 0f32;
    #[unroll]
    for i in 0..N::value() {
        largest = max(largest, vector.extract(i));
    }
    largest
}

/// The sum of `value` over `lanes` neighbouring units of a cube, for the first of them; `in_plane` where they are in one
/// plane.
#[cube]
pub(super) fn over_lanes(
    value: f32,
    #[comptime] lanes: usize,
    #[comptime] units: usize,
    #[comptime] in_plane: bool,
) -> f32 {
    let mut result = value;
    if comptime!(lanes > 1 && in_plane) {
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            result += plane_shuffle_xor(result, comptime!(1u32 << step));
        }
    } else if comptime!(lanes > 1) {
        let mut shared = Shared::<[f32]>::new_slice(units);
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        if unit % lanes == 0 {
            result = 0f32;
            for i in 0..lanes {
                result += shared[unit + i];
            }
        }
        sync_cube();
    }
    result
}
