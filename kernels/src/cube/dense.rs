//! Float matrices in stored form: the head, and rows of the embedding.
//!
//! A vector of words, or three of them, are decoded to vectors of values, one for each value in a word, and the activations
//! lie in the order in which those come.

use cubecl::prelude::*;

use super::narrow::{from_above, from_f16, from_i8};
use super::rows::{over_lanes, sum_of};

/// How the words of a row are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Words {
    /// A value each.
    F32,
    /// Two values each, the first in the low half.
    F16,
    /// The same in bfloat16.
    Bf16,
    /// Four codes each, with a scale for each lane after so many units, see `cpu/code_rows.rs`.
    Codes {
        /// Words of codes before one of scales.
        units: usize,
    },
    /// 16 codes in three words, with scales as above.
    SixBits {
        /// Units of three words before one of scales.
        units: usize,
    },
}

impl Words {
    /// Values of a unit, which is so many words as are read together.
    pub fn values(self) -> usize {
        match self {
            Words::F32 => 1,
            Words::F16 | Words::Bf16 => 2,
            Words::Codes { .. } => 4,
            Words::SixBits { .. } => 16,
        }
    }

    /// Vectors of words of a unit.
    fn words(self) -> usize {
        if matches!(self, Words::SixBits { .. }) { 3 } else { 1 }
    }

    /// Values of a step of vectors of `vector` words.
    pub fn of_step(self, vector: usize) -> usize {
        vector * self.step() * self.values()
    }

    /// Words of a row of `cols` values, in vectors of `vector`.
    pub fn stored(self, vector: usize, cols: usize) -> usize {
        cols / self.of_step(vector) * self.vectors() * vector
    }

    /// Units that belong together.
    fn step(self) -> usize {
        match self {
            Words::Codes { units } | Words::SixBits { units } => units,
            _ => 1,
        }
    }

    /// Vectors of words of a step, scales among them.
    fn vectors(self) -> usize {
        self.step() * self.words() + usize::from(self.has_scales())
    }

    /// Whether the last vector of a step holds scales.
    fn has_scales(self) -> bool {
        matches!(self, Words::Codes { .. } | Words::SixBits { .. })
    }
}

/// Value `e` for each lane of a unit, which is `a` alone or with `b` and `c`.
#[cube]
fn element<N: Size>(
    a: Vector<u32, N>,
    b: Vector<u32, N>,
    c: Vector<u32, N>,
    #[comptime] e: usize,
    #[comptime] format: Words,
) -> Vector<f32, N> {
    let bits = comptime!(e as u32);
    if comptime!(format == Words::F32) {
        Vector::<f32, N>::reinterpret(a)
    } else if comptime!(format == Words::F16) {
        from_f16::<N>((a >> Vector::new(16u32 * bits)) & Vector::new(0xffffu32))
    } else if comptime!(format == Words::Bf16) {
        Vector::<f32, N>::reinterpret((a >> Vector::new(16u32 * bits)) << Vector::new(16u32))
    } else if comptime!(format.words() == 1) {
        from_i8::<N>(a >> Vector::new(8u32 * bits))
    } else if comptime!(e == 15) {
        let top = Vector::new(30u32);
        from_above::<N>((a >> top) | ((b >> top) << Vector::new(2u32)) | ((c >> top) << Vector::new(4u32)), 32f32)
    } else {
        let word = if comptime!(e < 5) {
            a
        } else if comptime!(e < 10) {
            b
        } else {
            c
        };
        from_above::<N>((word >> Vector::new(comptime!(6 * (e as u32 % 5)))) & Vector::new(63u32), 32f32)
    }
}

/// The column of value `e` of lane `lane` in unit `i` of step `s`.
#[cube]
fn column(
    s: usize,
    i: usize,
    lane: usize,
    #[comptime] e: usize,
    #[comptime] n: usize,
    #[comptime] format: Words,
) -> usize {
    let values = comptime!(format.values());
    let step = comptime!(format.step());
    if comptime!(format.has_scales()) {
        (s * n + lane) * step * values + i * values + e
    } else {
        (s * n + lane) * values + e
    }
}

/// Puts each row of `x` (`cols` values) in the order `[step][unit][value of a unit][lane]`.
#[cube(launch)]
pub(super) fn arrange(x: &[f32], out: &mut [f32], cols: usize, #[comptime] n: usize, #[comptime] format: Words) {
    let values = comptime!(format.values());
    let step = comptime!(format.step());
    for at in range_stepped(ABSOLUTE_POS, x.len() / values, CUBE_COUNT * CUBE_DIM as usize) {
        let (lane, unit) = (at % n, at / n);
        let of_row = cols / (n * values);
        let (row, unit) = (unit / of_row, unit % of_row);
        #[unroll]
        for e in 0..values {
            let from = row * cols + column(unit / step, unit % step, lane, e, n, format);
            out[((row * of_row + unit) * values + e) * n + lane] = x[from];
        }
    }
}

/// `out[token, row] = Σ x w`, `x` being arranged; `lanes` units share a row, and a unit that has it alone takes neighbouring
/// rows. The products of a token are added up in `chains` sums that do not wait for each other.
#[cube(launch_unchecked)]
pub(super) fn product<N: Size>(
    weights: &[Vector<u32, N>],
    x: &[Vector<f32, N>],
    out: &mut [f32],
    rows: usize,
    tokens: usize,
    steps: usize,
    #[comptime] format: Words,
    #[comptime] tile: usize,
    #[comptime] chains: usize,
    #[comptime] lanes: usize,
    #[comptime] units: usize,
) {
    let values = comptime!(format.values());
    let step = comptime!(format.step());
    let (of_unit, stored) = comptime!((format.words(), format.vectors()));
    let groups = CUBE_COUNT * CUBE_DIM as usize / lanes;
    let (group, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let tiles = (tokens + tile - 1) / tile;
    let rounds = (rows * tiles + groups - 1) / groups;
    for round in 0..rounds {
        let task = if comptime!(lanes == 1) { group * rounds + round } else { round * groups + group };
        let task = min(task, rows * tiles - 1);
        let (row, first) = (task % rows, task / rows * tile);
        let mut sums = Array::<Vector<f32, N>>::new(tile);
        let mut starts = Array::<usize>::new(tile);
        #[unroll]
        for t in 0..tile {
            sums[t] = Vector::new(0f32);
            starts[t] = min(first + t, tokens - 1) * steps;
        }
        for s in range_stepped(lane, steps, lanes.runtime()) {
            let from = (row * steps + s) * stored;
            let mut parts = Array::<Vector<f32, N>>::new(tile * chains);
            #[unroll]
            for i in 0..tile * chains {
                parts[i] = Vector::new(0f32);
            }
            for i in 0..step {
                let at = from + i * of_unit;
                let (a, b, c) =
                    (weights[at], weights[at + comptime!(of_unit / 2)], weights[at + comptime!(of_unit - 1)]);
                #[unroll]
                for e in 0..values {
                    let w = element::<N>(a, b, c, e, format);
                    #[unroll]
                    for t in 0..tile {
                        parts[t * chains + e % chains] += w * x[((starts[t] + s) * step + i) * values + e];
                    }
                }
            }
            #[unroll]
            for t in 0..tile {
                let mut part = parts[t * chains];
                #[unroll]
                for i in 1..chains {
                    part += parts[t * chains + i];
                }
                if comptime!(format.has_scales()) {
                    sums[t] += part * Vector::<f32, N>::reinterpret(weights[from + comptime!(stored - 1)]);
                } else {
                    sums[t] += part;
                }
            }
        }
        #[unroll]
        for t in 0..tile {
            let sum = over_lanes(sum_of(sums[t]), lanes, units, false);
            if lane == 0 && first + t < tokens {
                out[(first + t) * rows + row] = sum;
            }
        }
    }
}

/// The values of each row, `[rows, cols]`.
#[cube(launch)]
pub(super) fn decode<N: Size>(
    weights: &[Vector<u32, N>],
    out: &mut [f32],
    cols: usize,
    steps: usize,
    #[comptime] format: Words,
) {
    let values = comptime!(format.values());
    let step = comptime!(format.step());
    let (of_unit, stored) = comptime!((format.words(), format.vectors()));
    let rows = out.len() / cols;
    for task in range_stepped(ABSOLUTE_POS, rows * steps, CUBE_COUNT * CUBE_DIM as usize) {
        let (row, s) = (task / steps, task % steps);
        let from = (row * steps + s) * stored;
        for i in 0..step {
            let at = from + i * of_unit;
            let (a, b, c) = (weights[at], weights[at + comptime!(of_unit / 2)], weights[at + comptime!(of_unit - 1)]);
            #[unroll]
            for e in 0..values {
                let mut w = element::<N>(a, b, c, e, format);
                if comptime!(format.has_scales()) {
                    w = w * Vector::<f32, N>::reinterpret(weights[from + comptime!(stored - 1)]);
                }
                #[unroll]
                for lane in 0..N::value() {
                    out[row * cols + column(s, i, lane.runtime(), e, N::value(), format)] = w.extract(lane);
                }
            }
        }
    }
}
