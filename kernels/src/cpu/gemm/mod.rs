//! Float matrix products for the backward passes of training.
//!
//! Both operands are first packed, in parallel, into panels that the innermost loop reads from one end to the other;
//! what turns stored values into floats (trits, int8 codes, scales, a transposition) is done on the way. So a product with
//! packed trits needs no float copy of the matrix beyond these panels.
//!
//! ```text
//! left   [rows / R][k][R]     right   [columns / C][k][C]     a tile of the result: R x C sums in registers
//! ```
//!
//! Every element of a result is one chain of fused multiply-adds over `k` in order, whatever the instruction set, the number
//! of threads and the sizes of panels. So is every result. That also holds for operands rounded to bfloat16, of which two
//! neighbours in `k` lie in one element of a panel, the first in the upper half: the instruction takes them in this order.

mod multiply;
mod operand;
mod pack;

use std::ops::Range;

use self::multiply::{Tile, multiply};
pub(crate) use self::operand::{Lanes, Lines, Operand, ScaledLanes, ScaledLines};
use self::pack::pack;
use super::isa::Isa;
use super::parallel::{self, Parts};
use super::precision::Precision;
use super::scratch::with_floats;

/// Elements of a panel that a tile is multiplied over before the next one: a panel of the right side stays in the first cache.
const K_BLOCK: usize = 256;

/// Rows that one task takes at least, so that a panel of the right side is read for more than one tile.
const ROWS_A_TASK: usize = 48;

/// `out[m, n] = sum_k left(m, k) * right(n, k)`, row-major, of operands in `precision`.
///
/// # Panics
/// When `out` does not have `m * n` elements, an operand is smaller than said, or `isa` has no instructions for `precision`.
pub(crate) fn matmul(
    isa: Isa,
    precision: Precision,
    [m, n, k]: [usize; 3],
    left: &impl Operand,
    right: &impl Operand,
    out: &mut [f32],
) {
    assert_eq!(out.len(), m * n, "output");
    assert!(precision.is_available(isa), "{isa} has no instructions for {precision:?}");
    if k == 0 {
        return out.fill(0.0);
    }
    if out.is_empty() {
        return;
    }
    let shape = Tile::of(isa);
    let (row_panels, column_panels) = (m.div_ceil(shape.rows), n.div_ceil(shape.columns));
    let words = k.div_ceil(precision.in_a_word());
    let (left_len, right_len) = (row_panels * words * shape.rows, column_panels * words * shape.columns);
    with_floats(left_len + right_len, |scratch| {
        let (left_panels, right_panels) = scratch.split_at_mut(left_len);
        pack(isa, precision, left, [m, k], shape.rows, left_panels);
        pack(isa, precision, right, [n, k], shape.columns, right_panels);
        let (left_panels, right_panels) = (&*left_panels, &*right_panels);
        // Enough tasks for the threads to share, each of them with enough rows to be worth it.
        let panels_a_task = (ROWS_A_TASK / shape.rows).min(row_panels);
        let row_tasks = row_panels.div_ceil(panels_a_task);
        let column_tasks = (4 * super::pool::threads()).div_ceil(row_tasks).min(column_panels);
        let columns_a_task = column_panels.div_ceil(column_tasks);
        let out = Parts::new(out);
        parallel::tasks(row_tasks * column_tasks, m * n * k, |task| {
            let (rows, columns) = (task / column_tasks * panels_a_task, task % column_tasks * columns_a_task);
            let product =
                Product { isa, precision, shape, m, n, words, left: left_panels, right: right_panels, out: &out };
            product
                .run(rows..row_panels.min(rows + panels_a_task), columns..column_panels.min(columns + columns_a_task));
        });
    });
}

struct Product<'a> {
    isa: Isa,
    precision: Precision,
    shape: Tile,
    m: usize,
    n: usize,
    /// Elements of a lane in a panel.
    words: usize,
    left: &'a [f32],
    right: &'a [f32],
    out: &'a Parts<'a, f32>,
}

impl Product<'_> {
    fn run(&self, rows: Range<usize>, columns: Range<usize>) {
        let mut sums = [0f32; Tile::MAX];
        for start in (0..self.words).step_by(K_BLOCK) {
            let ks = start..self.words.min(start + K_BLOCK);
            for column in columns.clone() {
                for row in rows.clone() {
                    self.tile(row, column, ks.clone(), &mut sums);
                }
            }
        }
    }

    /// `sums` is any memory: a tile whose first `k` these are begins with zeros in registers.
    fn tile(&self, row_panel: usize, column_panel: usize, ks: Range<usize>, sums: &mut [f32; Tile::MAX]) {
        let Self { shape, words: k, .. } = *self;
        let panel = |side: &'_ [f32], i: usize, width: usize| -> Range<usize> {
            debug_assert!(side.len() >= (i + 1) * k * width);
            (i * k + ks.start) * width..(i * k + ks.end) * width
        };
        let left = &self.left[panel(self.left, row_panel, shape.rows)];
        let right = &self.right[panel(self.right, column_panel, shape.columns)];
        let (row, column) = (row_panel * shape.rows, column_panel * shape.columns);
        let (rows, columns) = (shape.rows.min(self.m - row), shape.columns.min(self.n - column));
        // SAFETY: the rows and columns of a panel are written by its task alone, one tile after the other.
        let line = |i: usize| unsafe {
            let at = (row + i) * self.n + column;
            self.out.slice(at, at + columns)
        };
        let sums = &mut sums[..shape.rows * shape.columns];
        if ks.start > 0 {
            for (i, sums) in sums.chunks_exact_mut(shape.columns).enumerate().take(rows) {
                copy(line(i), &mut sums[..columns]);
            }
        }
        multiply(self.isa, self.precision, left, right, ks.start == 0, sums);
        for (i, sums) in sums.chunks_exact(shape.columns).enumerate().take(rows) {
            copy(&sums[..columns], line(i));
        }
    }
}

/// Copies the sums of one row of a tile: of a size that is known, some registers and not a call.
fn copy(from: &[f32], to: &mut [f32]) {
    if let (Some(from), Some(to)) = (from.as_array::<32>(), to.as_mut_array::<32>()) {
        *to = *from;
    } else if let (Some(from), Some(to)) = (from.as_array::<16>(), to.as_mut_array::<16>()) {
        *to = *from;
    } else {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::pack::bf16_bits;
    use super::*;

    fn noise(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 997.0 - 1.0).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_chain_of_fused_products() {
        for [m, n, k] in [[1, 1, 1], [12, 32, 256], [13, 33, 257], [5, 100, 3], [130, 70, 300], [7, 0, 4], [2, 3, 0]] {
            let (a, b, factors) = (noise(1, m * k), noise(2, n * k), noise(3, k));
            let transposed: Vec<f32> = (0..k * n).map(|i| b[i % n.max(1) * k + i / n.max(1)]).collect();
            let codes: Vec<i8> = (0..k * n).map(|i| (i * 37 % 255) as u8 as i8).collect();
            let chain = |a: &dyn Fn(usize, usize) -> f32, b: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
                let element = |i: usize| (0..k).fold(0.0, |sum, j| a(i / n, j).mul_add(b(i % n, j), sum));
                (0..m * n).map(element).collect()
            };
            let plain = chain(&|i, j| a[i * k + j], &|i, j| b[i * k + j]);
            let scaled = chain(&|i, j| a[i * k + j] * factors[j], &|i, j| f32::from(codes[j * n + i]));
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; m * n];
                let left = Lines { values: &a, stride: k };
                matmul(isa, Precision::F32, [m, n, k], &left, &Lines { values: &b, stride: k }, &mut out);
                assert_eq!(out, plain, "{isa} {m} {n} {k}");
                matmul(isa, Precision::F32, [m, n, k], &left, &Lanes { values: &transposed, stride: n }, &mut out);
                assert_eq!(out, plain, "{isa} {m} {n} {k}");
                let across: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
                let left = ScaledLanes { values: &across, stride: m, factors: &factors };
                matmul(isa, Precision::F32, [m, n, k], &left, &Lanes { values: &codes, stride: n }, &mut out);
                assert_eq!(out, scaled, "{isa} {m} {n} {k}");
            }
        }
    }
    #[test]
    fn operands_in_bf16_give_the_chain_of_their_fused_products() {
        let short = |x: f32| half::bf16::from_f32(x).to_f32();
        assert!(bf16_bits(f32::from_bits(0xffff_ffff)) == 0xffff && bf16_bits(f32::MAX) == 0x7f80);
        for [m, n, k] in [[1, 1, 1], [12, 32, 128], [13, 33, 257], [5, 100, 3], [130, 70, 300], [7, 0, 4], [2, 3, 0]] {
            let (a, b, factors) = (noise(1, m * k), noise(2, n * k), noise(3, k));
            let codes: Vec<i8> = (0..k * n).map(|i| (i * 37 % 255) as u8 as i8).collect();
            let chain = |a: &dyn Fn(usize, usize) -> f32, b: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
                let element = |i: usize| (0..k).fold(0.0, |sum, j| a(i / n, j).mul_add(b(i % n, j), sum));
                (0..m * n).map(element).collect()
            };
            for isa in Isa::available().into_iter().filter(|isa| Precision::Bf16.is_available(*isa)) {
                let mut out = vec![f32::NAN; m * n];
                let lines = |values| Lines { values, stride: k };
                matmul(isa, Precision::Bf16, [m, n, k], &lines(&a), &lines(&b), &mut out);
                assert_eq!(out, chain(&|i, j| short(a[i * k + j]), &|i, j| short(b[i * k + j])), "{isa} {m} {n} {k}");
                let across: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
                let left = ScaledLanes { values: &across, stride: m, factors: &factors };
                matmul(isa, Precision::Bf16, [m, n, k], &left, &Lanes { values: &codes, stride: n }, &mut out);
                // Codes are such numbers already.
                let scaled = chain(&|i, j| short(a[i * k + j] * factors[j]), &|i, j| f32::from(codes[j * n + i]));
                assert_eq!(out, scaled, "{isa} {m} {n} {k}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "no instructions")]
    fn what_has_no_instructions_is_refused() {
        let one = [1.0f32];
        let side = Lines { values: &one, stride: 1 };
        matmul(Isa::Scalar, Precision::Bf16, [1, 1, 1], &side, &side, &mut [0.0]);
    }
}
