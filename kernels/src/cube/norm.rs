//! RMSNorm.

use cubecl::prelude::*;

use super::rows::{first_row, lane, row_step, sum_of, total};

/// `1 / sqrt(mean(x^2) + eps)` of the row that begins at vector `start`.
#[cube]
pub(super) fn rms_scale<N: Size>(
    x: &[Vector<f32, N>],
    start: usize,
    width: usize,
    eps: f32,
    #[comptime] units: usize,
) -> f32 {
    let mut squares = Vector::<f32, N>::new(0f32);
    for i in range_stepped(lane(units), width, units.runtime()) {
        let v = x[start + i];
        squares += v * v;
    }
    let sum = total(sum_of(squares), units);
    1.0f32 / f32::sqrt(sum / f32::cast_from(width * N::value()) + eps)
}

/// RMSNorm of each row of `width` vectors.
#[cube(launch)]
pub(super) fn rms_norm<N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    rows: usize,
    eps: f32,
    #[comptime] units: usize,
) {
    let width = weight.len();
    for row in range_stepped(first_row(units), rows, row_step(units)) {
        let start = row * width;
        let scale = Vector::<f32, N>::new(rms_scale::<N>(x, start, width, eps, units));
        for i in range_stepped(lane(units), width, units.runtime()) {
            out[start + i] = (x[start + i] * scale) * weight[i];
        }
    }
}
