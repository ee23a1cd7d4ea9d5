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
//! of threads and the sizes of panels. So is every result.

use std::ops::Range;

use super::isa::{Isa, Vectors, on_each_isa};
use super::parallel::{self, Parts};
use super::scratch::with_floats;

/// `k` values that a tile is multiplied over before the next one: a panel of the right side stays in the first cache.
const K_BLOCK: usize = 256;

/// Rows that one task takes at least, so that a panel of the right side is read for more than one tile.
const ROWS_A_TASK: usize = 48;

/// One side of a product: `lanes` rows of the left side, or columns of the right one, at each `k`.
pub(crate) trait Operand: Sync {
    /// Writes the values of the lanes `first..first + lanes` at each of `ks` to `out`, `width` apart.
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]);
}

/// Lanes whose values lie side by side at each `k`: element `(lane, k)` is `values[k * stride + lane]`.
pub(crate) struct Lanes<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) stride: usize,
}

impl Operand for Lanes<'_, f32> {
    fn pack(&self, _: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let values = ks.map(|k| &self.values[k * self.stride + first..][..lanes]);
        // Of a size that is known, a copy is some registers and not a call.
        match lanes {
            32 if width == 32 => copy::<32>(values, out),
            16 if width == 16 => copy::<16>(values, out),
            12 if width == 12 => copy::<12>(values, out),
            _ => out.chunks_exact_mut(width).zip(values).for_each(|(out, values)| out[..lanes].copy_from_slice(values)),
        }
    }
}

impl Operand for Lanes<'_, i8> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        for (out, k) in out.chunks_exact_mut(width).zip(ks) {
            floats_of(isa, &self.values[k * self.stride + first..][..lanes], out);
        }
    }
}

/// [`Lanes`] with a factor for each `k`.
pub(crate) struct ScaledLanes<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) factors: &'a [f32],
}

impl Operand for ScaledLanes<'_> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        for (out, k) in out.chunks_exact_mut(width).zip(ks) {
            scale_to(isa, &self.values[k * self.stride + first..][..lanes], self.factors[k], out);
        }
    }
}

/// Lanes that each lie in a line: element `(lane, k)` is `values[lane * stride + k]`.
pub(crate) struct Lines<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

impl Operand for Lines<'_> {
    fn pack(&self, isa: Isa, first: usize, lanes: usize, ks: Range<usize>, width: usize, out: &mut [f32]) {
        let mut lane = 0;
        while lanes - lane >= AT_ONCE {
            let lines = std::array::from_fn(|i| &self.values[(first + lane + i) * self.stride..][ks.clone()]);
            side_by_side(isa, lines, &mut out[lane..], width);
            lane += AT_ONCE;
        }
        for lane in lane..lanes {
            let line = &self.values[(first + lane) * self.stride..][ks.clone()];
            out[lane..].iter_mut().step_by(width).zip(line).for_each(|(out, x)| *out = *x);
        }
    }
}

/// Writes lines of `N` floats one after the other.
fn copy<'a, const N: usize>(lines: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
    for (out, line) in out.as_chunks_mut::<N>().0.iter_mut().zip(lines) {
        *out = *line.first_chunk().expect("a whole line");
    }
}

/// Lines that are turned at once.
const AT_ONCE: usize = 8;

on_each_isa! {
    fn floats_of(codes: &[i8], out: &mut [f32]) =
        |codes: &[i8], out: &mut [f32]| out.iter_mut().zip(codes).for_each(|(out, x)| *out = f32::from(*x))
}

on_each_isa! {
    fn scale_to(values: &[f32], factor: f32, out: &mut [f32]) =
        |values: &[f32], factor: f32, out: &mut [f32]| out.iter_mut().zip(values).for_each(|(out, x)| *out = x * factor)
}

on_each_isa! {
    /// `out[k * width + i] = lines[i][k]`.
    fn side_by_side(lines: [&[f32]; AT_ONCE], out: &mut [f32], width: usize) = side_by_side_body
}

#[inline(always)]
fn side_by_side_body(lines: [&[f32]; AT_ONCE], out: &mut [f32], width: usize) {
    let chunks = lines.map(|line| line.as_chunks::<AT_ONCE>());
    let blocks = chunks[0].0.len();
    for block in 0..blocks {
        for k in 0..AT_ONCE {
            let at = (block * AT_ONCE + k) * width;
            let out = out[at..].first_chunk_mut::<AT_ONCE>().expect("eight lanes");
            *out = std::array::from_fn(|i| chunks[i].0[block][k]);
        }
    }
    for k in 0..chunks[0].1.len() {
        let at = (blocks * AT_ONCE + k) * width;
        (0..AT_ONCE).for_each(|i| out[at + i] = chunks[i].1[k]);
    }
}

/// `out[m, n] = sum_k left(m, k) * right(n, k)`, row-major.
///
/// # Panics
/// When `out` does not have `m * n` elements, or an operand is smaller than said.
pub(crate) fn matmul(isa: Isa, [m, n, k]: [usize; 3], left: &impl Operand, right: &impl Operand, out: &mut [f32]) {
    assert_eq!(out.len(), m * n, "output");
    if k == 0 {
        return out.fill(0.0);
    }
    if out.is_empty() {
        return;
    }
    let shape = Tile::of(isa);
    let (row_panels, column_panels) = (m.div_ceil(shape.rows), n.div_ceil(shape.columns));
    let (left_len, right_len) = (row_panels * k * shape.rows, column_panels * k * shape.columns);
    with_floats(left_len + right_len, |scratch| {
        let (left_panels, right_panels) = scratch.split_at_mut(left_len);
        pack(isa, left, m, k, shape.rows, left_panels);
        pack(isa, right, n, k, shape.columns, right_panels);
        let (left_panels, right_panels) = (&*left_panels, &*right_panels);
        // Enough tasks for the threads to share, each of them with enough rows to be worth it.
        let panels_a_task = (ROWS_A_TASK / shape.rows).min(row_panels);
        let row_tasks = row_panels.div_ceil(panels_a_task);
        let column_tasks = (4 * super::pool::threads()).div_ceil(row_tasks).min(column_panels);
        let columns_a_task = column_panels.div_ceil(column_tasks);
        let out = Parts::new(out);
        parallel::tasks(row_tasks * column_tasks, m * n * k, |task| {
            let (rows, columns) = (task / column_tasks * panels_a_task, task % column_tasks * columns_a_task);
            let product = Product { isa, shape, m, n, k, left: left_panels, right: right_panels, out: &out };
            product
                .run(rows..row_panels.min(rows + panels_a_task), columns..column_panels.min(columns + columns_a_task));
        });
    });
}

/// Packs all lanes of a side, the missing ones of the last panel as zeros.
fn pack(isa: Isa, side: &impl Operand, lanes: usize, k: usize, width: usize, panels: &mut [f32]) {
    parallel::chunks(panels, k * width, 4 * lanes * k, |panel, out| {
        let first = panel * width;
        let lanes = width.min(lanes - first);
        if lanes < width {
            out.fill(0.0);
        }
        side.pack(isa, first, lanes, 0..k, width, out);
    });
}

/// Rows and columns of the result that are summed in registers.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
}

impl Tile {
    const AVX512: Tile = Tile { rows: 12, columns: 32 };
    const AVX2: Tile = Tile { rows: 6, columns: 16 };
    const PORTABLE: Tile = Tile { rows: 4, columns: 16 };
    /// The elements of the largest.
    const MAX: usize = 12 * 32;

    fn of(isa: Isa) -> Self {
        match isa.vectors() {
            Vectors::Avx512 => Self::AVX512,
            Vectors::Avx2 => Self::AVX2,
            _ => Self::PORTABLE,
        }
    }
}

struct Product<'a> {
    isa: Isa,
    shape: Tile,
    m: usize,
    n: usize,
    k: usize,
    left: &'a [f32],
    right: &'a [f32],
    out: &'a Parts<'a, f32>,
}

impl Product<'_> {
    fn run(&self, rows: Range<usize>, columns: Range<usize>) {
        for start in (0..self.k).step_by(K_BLOCK) {
            let ks = start..self.k.min(start + K_BLOCK);
            for column in columns.clone() {
                for row in rows.clone() {
                    self.tile(row, column, ks.clone());
                }
            }
        }
    }

    fn tile(&self, row_panel: usize, column_panel: usize, ks: Range<usize>) {
        let Self { shape, k, .. } = *self;
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
        let mut sums = [0f32; Tile::MAX];
        let sums = &mut sums[..shape.rows * shape.columns];
        if ks.start > 0 {
            for (i, sums) in sums.chunks_exact_mut(shape.columns).enumerate().take(rows) {
                sums[..columns].copy_from_slice(line(i));
            }
        }
        multiply(self.isa, left, right, sums);
        for (i, sums) in sums.chunks_exact(shape.columns).enumerate().take(rows) {
            line(i).copy_from_slice(&sums[..columns]);
        }
    }
}

/// `sums[r][c] += left[k][r] * right[k][c]` for every `k` in turn, for the tile of `isa`.
fn multiply(isa: Isa, left: &[f32], right: &[f32], sums: &mut [f32]) {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { x86::multiply_avx512(left, right, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { x86::multiply_avx2(left, right, sums) },
        _ => multiply_portable(left, right, sums),
    }
}

fn multiply_portable(left: &[f32], right: &[f32], sums: &mut [f32]) {
    const ROWS: usize = Tile::PORTABLE.rows;
    const COLUMNS: usize = Tile::PORTABLE.columns;
    let mut tile = [[0f32; COLUMNS]; ROWS];
    tile.iter_mut().zip(sums.as_chunks::<COLUMNS>().0).for_each(|(tile, sums)| *tile = *sums);
    for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
        for (sums, a) in tile.iter_mut().zip(left) {
            sums.iter_mut().zip(right).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
        }
    }
    sums.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(tile).for_each(|(sums, tile)| *sums = tile);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Tile;

    /// [`super::multiply`] in 24 registers of 16 sums.
    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_avx512(left: &[f32], right: &[f32], sums: &mut [f32]) {
        const ROWS: usize = Tile::AVX512.rows;
        const COLUMNS: usize = Tile::AVX512.columns;
        let (sums, rest) = sums.as_chunks_mut::<COLUMNS>();
        assert!(sums.len() == ROWS && rest.is_empty(), "a whole tile");
        let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
        for (tile, sums) in tile.iter_mut().zip(&*sums) {
            // SAFETY: a row has 32 sums.
            *tile = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            // SAFETY: there are 32 of them.
            let [b0, b1] = unsafe { [_mm512_loadu_ps(right.as_ptr()), _mm512_loadu_ps(right.as_ptr().add(16))] };
            for (tile, a) in tile.iter_mut().zip(left) {
                let a = _mm512_set1_ps(*a);
                tile[0] = _mm512_fmadd_ps(a, b0, tile[0]);
                tile[1] = _mm512_fmadd_ps(a, b1, tile[1]);
            }
        }
        for (tile, sums) in tile.iter().zip(sums) {
            // SAFETY: a row has 32 sums.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), tile[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(16), tile[1]);
            }
        }
    }

    /// [`super::multiply`] in 12 registers of 8 sums.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply_avx2(left: &[f32], right: &[f32], sums: &mut [f32]) {
        const ROWS: usize = Tile::AVX2.rows;
        const COLUMNS: usize = Tile::AVX2.columns;
        let (sums, rest) = sums.as_chunks_mut::<COLUMNS>();
        assert!(sums.len() == ROWS && rest.is_empty(), "a whole tile");
        let mut tile = [[_mm256_setzero_ps(); 2]; ROWS];
        for (tile, sums) in tile.iter_mut().zip(&*sums) {
            // SAFETY: a row has 16 sums.
            *tile = unsafe { [_mm256_loadu_ps(sums.as_ptr()), _mm256_loadu_ps(sums.as_ptr().add(8))] };
        }
        for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
            // SAFETY: there are 16 of them.
            let [b0, b1] = unsafe { [_mm256_loadu_ps(right.as_ptr()), _mm256_loadu_ps(right.as_ptr().add(8))] };
            for (tile, a) in tile.iter_mut().zip(left) {
                let a = _mm256_set1_ps(*a);
                tile[0] = _mm256_fmadd_ps(a, b0, tile[0]);
                tile[1] = _mm256_fmadd_ps(a, b1, tile[1]);
            }
        }
        for (tile, sums) in tile.iter().zip(sums) {
            // SAFETY: a row has 16 sums.
            unsafe {
                _mm256_storeu_ps(sums.as_mut_ptr(), tile[0]);
                _mm256_storeu_ps(sums.as_mut_ptr().add(8), tile[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
                matmul(isa, [m, n, k], &left, &Lines { values: &b, stride: k }, &mut out);
                assert_eq!(out, plain, "{isa} {m} {n} {k}");
                matmul(isa, [m, n, k], &left, &Lanes { values: &transposed, stride: n }, &mut out);
                assert_eq!(out, plain, "{isa} {m} {n} {k}");
                let across: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
                let left = ScaledLanes { values: &across, stride: m, factors: &factors };
                matmul(isa, [m, n, k], &left, &Lanes { values: &codes, stride: n }, &mut out);
                assert_eq!(out, scaled, "{isa} {m} {n} {k}");
            }
        }
    }
}
