//! Packed ternary weights times quantized activations, many tokens at a time.
//!
//! A cube makes one tile of the output. Step by step along the columns it unpacks a tile of the weights into shared memory,
//! beside one of the activations, and multiplies the two, on matrix units where there are any. The weights are never
//! unpacked elsewhere, so no second copy of them exists.
//!
//! ```text
//!                  columns of a step                        rows
//!              +-------------------------+          +------------------+
//!       tokens |  x: int8 codes as E     |   tokens |  dots in A       |
//!              +-------------------------+          +------------------+
//!         rows |  w: codes 0, 1, 2 as E  |          (Σ code x - Σ x) (scale / multiplier)
//!              +-------------------------+
//! ```
//!
//! Every operand is an integer of at most 8 bits and every partial sum is below 2^23 for up to 16,384 columns, so the dots
//! are exact whether `E` is an int8 with sums in i32, or one of f16, bf16 and f32 with sums in f32.
//!
//! The columns of a step lie in the order of the activations that four bytes at once meet, `[vector][plane][word][byte]`
//! (`quantize.rs`), in both tiles: no product minds in which order its columns come.

use cubecl::{cmma, prelude::*};

use super::matvec::finish;
use super::narrow::from_i8;
use super::quantize::WORD;
use super::rows::sum_of;

/// How a cube's tile is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiling {
    /// Tokens of a tile.
    pub tokens: usize,
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a step, a multiple of those of a vector of words.
    pub cols: usize,
    /// Values between two rows in shared memory that hold nothing, so that neighbouring rows are in different banks.
    pub pad: usize,
    /// Units of a cube.
    pub units: usize,
    /// Who multiplies.
    pub multiplier: Multiplier,
}

/// Who multiplies two tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Multiplier {
    /// Matrix units.
    Matrix {
        /// Tokens, rows and columns of a fragment.
        fragment: [usize; 3],
        /// Units of a plane.
        plane: usize,
        /// Planes side by side along the tokens, and along the rows.
        planes: [usize; 2],
    },
    /// The units, each a block of so many tokens and rows.
    Units {
        /// Tokens of a block.
        tokens: usize,
        /// Rows of a block.
        rows: usize,
    },
}

impl Tiling {
    /// Vectors of four values from one row of a tile to the next.
    fn line(self) -> usize {
        (self.cols + self.pad) / 4
    }

    /// Fragments of a plane along the tokens, and along the rows; or tokens and rows of a unit.
    fn own(self) -> [usize; 2] {
        match self.multiplier {
            Multiplier::Matrix { fragment: [m, n, _], planes: [down, across], .. } => {
                [self.tokens / m / down, self.rows / n / across]
            }
            Multiplier::Units { tokens, rows } => [tokens, rows],
        }
    }

    fn is_matrix(self) -> bool {
        matches!(self.multiplier, Multiplier::Matrix { .. })
    }

    fn fragment(self) -> [usize; 3] {
        match self.multiplier {
            Multiplier::Matrix { fragment, .. } => fragment,
            Multiplier::Units { .. } => [1, 1, 4],
        }
    }

    fn plane(self) -> usize {
        match self.multiplier {
            Multiplier::Matrix { plane, .. } => plane,
            Multiplier::Units { .. } => 1,
        }
    }

    /// Planes along the rows, or units.
    fn across(self) -> usize {
        match self.multiplier {
            Multiplier::Matrix { planes: [_, across], .. } => across,
            Multiplier::Units { rows, .. } => self.rows / rows,
        }
    }
}

/// The four signed bytes of a word as operands.
#[cube]
fn operands<E: Numeric>(word: u32, #[comptime] bytes: bool) -> Vector<E, Const<4>> {
    if comptime!(bytes) {
        Vector::<E, Const<4>>::reinterpret(word)
    } else {
        let mut out = Vector::<E, Const<4>>::zeroed();
        #[unroll]
        for i in 0..4usize {
            let value = from_i8::<Const<1>>(Vector::new(word >> comptime!(8 * i as u32)));
            out.insert(i, E::cast_from(value.extract(0usize)));
        }
        out
    }
}

/// The fragment at the beginning of `from`, rows of a tile.
#[cube]
fn operand<E: Numeric>(
    #[comptime] side: cmma::MatrixIdent,
    #[comptime] layout: cmma::MatrixLayout,
    from: &[Vector<E, Const<4>>],
    #[comptime] tiling: Tiling,
) -> cmma::Matrix<E> {
    let [m, n, deep] = comptime!(tiling.fragment());
    // SAFETY: it is written by the load that follows, before anything reads it.
    let mut fragment = unsafe { cmma::Matrix::<E>::uninitialized(side, m, n, deep, layout) };
    cmma::load(&mut fragment, from, comptime!(4 * tiling.line() as u32));
    fragment
}

/// `out[token, row]` as the mat-vec kernels have it; activations are those that four bytes at once meet. `bytes` says that
/// `E` is an int8.
#[cube(launch_unchecked)]
pub(super) fn tiles<E: Numeric, A: Numeric, V: Size>(
    words: &[Vector<u32, V>],
    codes: &[Vector<u32, V>],
    meta: &[f32],
    scale: &[f32],
    out: &mut [f32],
    rows: usize,
    width: usize,
    #[comptime] scale_of_row: bool,
    #[comptime] bytes: bool,
    #[comptime] tiling: Tiling,
) {
    let line = comptime!(tiling.line());
    let vector = V::value();
    let per_step = comptime!(tiling.cols / (WORD * vector));
    let [own_tokens, own_rows] = comptime!(tiling.own());
    let [m, n, deep] = comptime!(tiling.fragment());
    let across = comptime!(tiling.across());
    let plane = comptime!(tiling.plane());
    let mut x = Shared::<[Vector<E, Const<4>>]>::new_aligned_slice(comptime!(tiling.tokens * line), 32usize);
    let mut w = Shared::<[Vector<E, Const<4>>]>::new_aligned_slice(comptime!(tiling.rows * line), 32usize);

    let tokens = meta.len() / 2;
    let unit = UNIT_POS as usize;
    let (in_plane, at_plane) = (unit % plane, unit / plane);
    let (down_at, across_at) = (at_plane / across, at_plane % across);
    let tiles_down = (tokens + tiling.tokens - 1) / tiling.tokens;
    let tiles_across = (rows + tiling.rows - 1) / tiling.rows;
    let steps = (width + per_step - 1) / per_step;

    for task in range_stepped(CUBE_POS, tiles_down * tiles_across, CUBE_COUNT) {
        // Neighbouring cubes read the same weights.
        let (first_token, first_row) = (task % tiles_down * tiling.tokens, task / tiles_down * tiling.rows);

        let mut dots = Sequence::<cmma::Matrix<A>>::new();
        let mut sums = Array::<Vector<E, Const<4>>>::new(comptime!(own_tokens * own_rows));
        if comptime!(tiling.is_matrix()) {
            #[unroll]
            for _ in 0..comptime!(own_tokens * own_rows) {
                dots.push(cmma::Matrix::<A>::from_value(
                    cmma::MatrixIdent::Accumulator,
                    m,
                    n,
                    deep,
                    cmma::MatrixLayout::Undefined,
                    A::from_int(0),
                ));
            }
        } else {
            #[unroll]
            for i in 0..comptime!(own_tokens * own_rows) {
                sums[i] = Vector::zeroed();
            }
        }

        for step in 0..steps {
            for piece in range_stepped(unit, comptime!(tiling.tokens * per_step * 4).runtime(), tiling.units.runtime())
            {
                let (of_four, rest) = (piece % 4, piece / 4);
                let (k, token) = (rest % per_step, rest / per_step);
                let at = step * per_step + k;
                let mut four = Vector::<u32, V>::new(0u32);
                if at < width && first_token + token < tokens {
                    four = codes[((first_token + token) * width + at) * 4 + of_four];
                }
                #[unroll]
                for i in 0..vector {
                    x[token * line + (k * 4 + of_four) * vector + i] = operands::<E>(four.extract(i), bytes);
                }
            }
            for piece in range_stepped(unit, comptime!(tiling.rows * per_step).runtime(), tiling.units.runtime()) {
                let (k, row) = (piece % per_step, piece / per_step);
                let at = step * per_step + k;
                let mut word = Vector::<u32, V>::new(0u32);
                if at < width && first_row + row < rows {
                    word = words[(first_row + row) * width + at];
                }
                #[unroll]
                for of_four in 0..4u32 {
                    let code = (word >> Vector::new(2u32 * of_four)) & Vector::new(0x0303_0303u32);
                    let to = row * line + (k * 4 + comptime!(of_four as usize)) * vector;
                    #[unroll]
                    for i in 0..vector {
                        w[to + i] = operands::<E>(code.extract(i), bytes);
                    }
                }
            }
            sync_cube();
            if comptime!(tiling.is_matrix()) {
                #[unroll]
                for k in 0..comptime!(tiling.cols / deep) {
                    let from = comptime!(k * deep / 4);
                    let mut left = Sequence::<cmma::Matrix<E>>::new();
                    #[unroll]
                    for i in 0..own_tokens {
                        let begin = (down_at * own_tokens + i) * comptime!(m * line) + from;
                        let rest = &x[begin..comptime!(tiling.tokens * line)];
                        left.push(operand::<E>(cmma::MatrixIdent::A, cmma::MatrixLayout::RowMajor, rest, tiling));
                    }
                    #[unroll]
                    for j in 0..own_rows {
                        let begin = (across_at * own_rows + j) * comptime!(n * line) + from;
                        let rest = &w[begin..comptime!(tiling.rows * line)];
                        let right = operand::<E>(cmma::MatrixIdent::B, cmma::MatrixLayout::ColMajor, rest, tiling);
                        #[unroll]
                        for i in 0..own_tokens {
                            let dot = dots.index(comptime!(i * own_rows + j));
                            cmma::execute(left.index(i), &right, dot, dot);
                        }
                    }
                }
            } else {
                for k in 0..comptime!(tiling.cols / 4) {
                    let mut right = Array::<Vector<E, Const<4>>>::new(own_rows);
                    #[unroll]
                    for j in 0..own_rows {
                        right[j] = w[(j * across + across_at) * line + k];
                    }
                    #[unroll]
                    for i in 0..own_tokens {
                        let left = x[(down_at * own_tokens + i) * line + k];
                        #[unroll]
                        for j in 0..own_rows {
                            sums[i * own_rows + j] += left * right[j];
                        }
                    }
                }
            }
            sync_cube();
        }

        if comptime!(tiling.is_matrix()) {
            let size = comptime!(m * n);
            let planes = comptime!(tiling.units / plane);
            let mut stage = Shared::<[A]>::new_aligned_slice(comptime!(planes * size), 32usize);
            #[unroll]
            for i in 0..own_tokens {
                #[unroll]
                for j in 0..own_rows {
                    let begin = at_plane * size;
                    let dot = dots.index(comptime!(i * own_rows + j));
                    cmma::store(
                        &mut stage[begin..begin + size],
                        dot,
                        comptime!(n as u32),
                        cmma::MatrixLayout::RowMajor,
                    );
                    sync_cube();
                    for at in range_stepped(in_plane, size.runtime(), plane.runtime()) {
                        let token = first_token + (down_at * own_tokens + i) * m + at / n;
                        let row = first_row + (across_at * own_rows + j) * n + at % n;
                        if token < tokens && row < rows {
                            let dot = f32::cast_from(stage[begin + at]);
                            out[token * rows + row] = finish(dot, meta, scale, token, row, scale_of_row);
                        }
                    }
                    sync_cube();
                }
            }
        } else {
            #[unroll]
            for i in 0..own_tokens {
                #[unroll]
                for j in 0..own_rows {
                    let token = first_token + down_at * own_tokens + i;
                    let row = first_row + j * across + across_at;
                    if token < tokens && row < rows {
                        let dot = sum_of(Vector::<f32, Const<4>>::cast_from(sums[i * own_rows + j]));
                        out[token * rows + row] = finish(dot, meta, scale, token, row, scale_of_row);
                    }
                }
            }
        }
    }
}
