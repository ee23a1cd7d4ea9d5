//! How products are cut for a device.

use cubecl::prelude::*;

use super::matmul::{Multiplier, Tiling};
use super::target::{MatrixUnits, Operand, Target};

/// Units that share a row of weights on a GPU, where nothing else was found to be faster.
pub(super) const LANES: usize = 8;
/// Rows that a unit reads side by side on a processor, and where that is found to be faster.
pub(super) const BLOCK: usize = 4;
/// Units of a cube.
pub(super) const UNITS: usize = 128;

/// Lanes and units of a product of `tasks` blocks of rows and tiles.
pub(super) fn lanes(target: &Target, tasks: usize, lanes: usize) -> (usize, CubeCount, CubeDim) {
    if target.is_cpu() {
        let (count, dim) = target.tasks(tasks);
        return (1, count, dim);
    }
    let (count, _) = target.rows(tasks.div_ceil(UNITS / lanes));
    (lanes, count, CubeDim::new_1d(UNITS as u32))
}

/// Tokens that meet a row of weights at once.
pub(super) fn tile(tokens: usize) -> usize {
    tokens.next_power_of_two().min(8)
}

/// Sums of rows and tokens that a unit keeps in registers.
const SUMS: usize = 16;

/// Rows, or pairs of a row of a gate and one of what it gates, that a unit reads side by side, where it reads up to `rows`.
pub(super) fn block(rows: usize, tile: usize, gate: bool) -> usize {
    ((SUMS / tile).min(rows) / if gate { 2 } else { 1 }).max(1)
}

/// How a product with `tokens` is cut into tiles; `smaller` ones keep more cubes busy.
pub(super) fn tiling(target: &Target, tokens: usize, smaller: bool) -> (Operand, Tiling) {
    match target.matrix {
        Some(MatrixUnits { operand: Operand::Int8, fragment, plane }) if smaller => {
            let (tokens, planes) = if tokens <= 32 { (32, [1, 4]) } else { (64, [2, 2]) };
            let multiplier = Multiplier::Matrix { fragment, plane, planes };
            (Operand::Int8, Tiling { tokens, rows: 64, cols: 128, pad: 16, units: 4 * plane, multiplier })
        }
        Some(MatrixUnits { operand: Operand::Int8, fragment, plane }) => {
            let (tokens, planes) = match tokens {
                ..=32 => (32, [1, 8]),
                33..=64 => (64, [2, 4]),
                _ => (128, [4, 2]),
            };
            let multiplier = Multiplier::Matrix { fragment, plane, planes };
            (Operand::Int8, Tiling { tokens, rows: 128, cols: 128, pad: 16, units: 8 * plane, multiplier })
        }
        Some(MatrixUnits { operand, fragment, plane }) => {
            let (tokens, planes) = if smaller { (32, [1, 4]) } else { (64, [2, 2]) };
            let multiplier = Multiplier::Matrix { fragment, plane, planes };
            (operand, Tiling { tokens, rows: 64, cols: 64, pad: 8, units: 4 * plane, multiplier })
        }
        None if target.is_cpu() => {
            let multiplier = Multiplier::Units { tokens: 4, rows: 4 };
            (Operand::F32, Tiling { tokens: 4, rows: 4, cols: 256, pad: 0, units: 1, multiplier })
        }
        // As much shared memory as WebGPU promises.
        None => {
            let (rows, units) = if smaller { (2, 128) } else { (4, 64) };
            let multiplier = Multiplier::Units { tokens: 2, rows };
            (Operand::F32, Tiling { tokens: 16, rows: 32, cols: 64, pad: 4, units, multiplier })
        }
    }
}
