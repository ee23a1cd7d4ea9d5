//! The ternary linear layer: int8 activations × 2-bit codes, exact in the integers.
//!
//! The weights lie as [`super::tiles`] says and the activations as `activations.rs` says, so the kernels of the
//! instruction sets only load, shift, mask, multiply and add. Codes are trits plus one, so
//! `sum(trit * x) = sum(code * x) - sum(x)`. Columns that are not there have activations of zero, which makes the padding
//! of the weights irrelevant.

use super::activations::{Activations, Block};
use super::base3;
use super::dots::{self, PANEL};
use super::isa::{Isa, on_each_isa};
use super::parallel::{self, Parts};
#[cfg(target_arch = "x86_64")]
use super::scratch::with_floats;
use super::tiles::{TILE_ROWS, WeightOrder};

/// A packed ternary matrix, borrowed. No code is 3: the kernels do not look, and would not agree.
#[derive(Clone, Copy, Debug)]
pub struct TernaryView<'a> {
    /// `rows` times the words that a row has in this order.
    pub words: &'a [u32],
    /// How they lie.
    pub order: WeightOrder,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// What the trits are multiplied by.
    pub scale: ScaleView<'a>,
}

/// The scale of a [`TernaryView`].
#[derive(Clone, Copy, Debug)]
pub enum ScaleView<'a> {
    /// One for the matrix.
    Tensor(f32),
    /// One for each row.
    Row(&'a [f32]),
    /// One for each `size` columns of each row, row-major.
    Group {
        /// Columns in a group, a multiple of 16.
        size: usize,
        /// `rows * ceil(cols / size)` values.
        values: &'a [f32],
    },
}

impl TernaryView<'_> {
    pub(crate) fn check(&self, x: usize, tokens: usize, out: usize) {
        assert_eq!(self.words.len(), self.rows * self.order.words(self.cols), "packed words");
        assert_eq!(x, tokens * self.cols, "activations");
        assert_eq!(out, tokens * self.rows, "output");
        match self.scale {
            ScaleView::Tensor(_) => {}
            ScaleView::Row(values) => assert_eq!(values.len(), self.rows, "row scales"),
            ScaleView::Group { size, values } => {
                assert!(self.order != WeightOrder::DenseTiles, "the denser order has no groups");
                assert!(size > 0 && size.is_multiple_of(16), "groups are of a multiple of 16 columns, not {size}");
                assert_eq!(values.len(), self.rows * self.cols.div_ceil(size), "group scales");
            }
        }
    }

    /// Canonical words of a row.
    fn width(&self) -> usize {
        self.cols.div_ceil(16)
    }

    /// Columns that share a scale and so are summed as one integer.
    pub(crate) fn segment(&self) -> usize {
        match self.scale {
            ScaleView::Group { size, .. } => size.min(self.cols),
            _ => self.cols,
        }
    }

    /// The stored words of up to 16 rows, and how many rows they are.
    fn stored_tile(&self, tile: usize) -> (&[u32], usize) {
        let (first, width) = (tile * TILE_ROWS, self.order.words(self.cols));
        let rows = TILE_ROWS.min(self.rows - first);
        (&self.words[first * width..][..rows * width], rows)
    }

    /// The canonical words of 16 rows in tile order, the rows that are not there as zeros; copied to `buffer` if they do not
    /// lie so.
    fn tile<'b>(&'b self, isa: Isa, tile: usize, buffer: &'b mut Vec<u32>) -> &'b [u32] {
        let (words, rows) = self.stored_tile(tile);
        if rows == TILE_ROWS && self.order == WeightOrder::Tiles {
            return words;
        }
        buffer.clear();
        buffer.resize(TILE_ROWS * self.width(), 0);
        match self.order {
            WeightOrder::Tiles => {
                for (to, from) in buffer.chunks_exact_mut(TILE_ROWS).zip(words.chunks_exact(rows)) {
                    to[..rows].copy_from_slice(from);
                }
            }
            WeightOrder::DenseTiles if rows == TILE_ROWS => base3::unpack_tile(isa, words, buffer),
            WeightOrder::DenseTiles => {
                let mut row = vec![0; self.width()];
                for lane in 0..rows {
                    base3::unpack(&stride(words, lane, rows), &mut row, 1);
                    row.iter().enumerate().for_each(|(k, word)| buffer[k * TILE_ROWS + lane] = *word);
                }
            }
            WeightOrder::Rows => {
                for (row, words) in words.chunks_exact(self.width()).enumerate() {
                    for (k, word) in words.iter().enumerate() {
                        buffer[k * TILE_ROWS + row] = *word;
                    }
                }
            }
        }
        buffer
    }

    /// The canonical words of one row.
    fn row(&self, row: usize) -> Vec<u32> {
        let (words, rows) = self.stored_tile(row / TILE_ROWS);
        let lane = row % TILE_ROWS;
        match self.order {
            WeightOrder::Rows => words[lane * self.width()..][..self.width()].to_vec(),
            WeightOrder::Tiles => stride(words, lane, rows),
            WeightOrder::DenseTiles => {
                let mut canonical = vec![0; self.width()];
                base3::unpack(&stride(words, lane, rows), &mut canonical, 1);
                canonical
            }
        }
    }

    /// The trits of one row as floats.
    fn unpack(&self, row: usize, trits: &mut [f32]) {
        for (word, trits) in self.row(row).iter().zip(trits.chunks_mut(16)) {
            for (j, trit) in trits.iter_mut().enumerate() {
                *trit = ((word >> (2 * j)) & 3) as f32 - 1.0;
            }
        }
    }
}

/// Every `step`-th word from `first` on.
fn stride(words: &[u32], first: usize, step: usize) -> Vec<u32> {
    words[first..].iter().step_by(step).copied().collect()
}

/// Where the exact integers of some rows go.
trait Sink: Sync {
    /// The integers `dots` of the rows `row..` for one token and one segment, from which `sum` is still to be taken;
    /// segments come in order.
    fn put(&self, isa: Isa, row: usize, token: usize, segment: usize, dots: &[i32], sum: i32);
}

/// One matrix of several that meet the same activations.
struct Product<'a, S> {
    weights: TernaryView<'a>,
    sink: S,
}

impl<S: Sink> Product<'_, S> {
    fn panels(&self) -> usize {
        self.weights.rows.div_ceil(PANEL * TILE_ROWS)
    }

    fn run_panel(&self, isa: Isa, panel: usize, acts: &Activations) {
        let w = &self.weights;
        if w.order == WeightOrder::DenseTiles && acts.tokens() == 1 {
            return self.run_dense_panel(isa, panel, acts);
        }
        let mut buffers = [Vec::new(), Vec::new()];
        let first = panel * PANEL;
        let count = PANEL.min(w.rows.div_ceil(TILE_ROWS) - first);
        let mut tiles: [&[u32]; PANEL] = [&[]; PANEL];
        for ((tile, buffer), i) in tiles.iter_mut().zip(&mut buffers).take(count).zip(first..) {
            *tile = w.tile(isa, i, buffer);
        }
        let tiles = &tiles[..count];
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx2 && acts.blocks()[0].tokens == 6 {
            return self.run_unpacked(isa, first, tiles, acts);
        }
        for block in acts.blocks() {
            match block.tokens {
                1 => self.run_block(isa, first, tiles, acts, *block, dots::of_one),
                2 => self.run_block(isa, first, tiles, acts, *block, dots::of_block::<2>),
                4 => self.run_block(isa, first, tiles, acts, *block, dots::of_block::<4>),
                6 => self.run_block(isa, first, tiles, acts, *block, dots::of_block::<6>),
                8 => self.run_block(isa, first, tiles, acts, *block, dots::of_block::<8>),
                12 => self.run_block(isa, first, tiles, acts, *block, dots::of_block::<12>),
                other => unreachable!("no instruction set has blocks of {other} tokens"),
            }
        }
    }

    /// A panel for many tokens whose codes are taken apart once for all of them.
    #[cfg(target_arch = "x86_64")]
    fn run_unpacked(&self, isa: Isa, first_tile: usize, tiles: &[&[u32]], acts: &Activations) {
        with_floats(4 * tiles[0].len(), |codes| {
            let codes = bytemuck::cast_slice_mut(codes);
            for (i, tile) in tiles.iter().enumerate() {
                dots::unpack(tile, codes);
                let (first, codes): (_, &[&[u32]]) = (first_tile + i, &[codes]);
                for block in acts.blocks() {
                    match block.tokens {
                        1 => self.run_block(isa, first, codes, acts, *block, dots::of_unpacked::<1>),
                        2 => self.run_block(isa, first, codes, acts, *block, dots::of_unpacked::<2>),
                        4 => self.run_block(isa, first, codes, acts, *block, dots::of_unpacked::<4>),
                        6 => self.run_block(isa, first, codes, acts, *block, dots::of_unpacked::<6>),
                        other => unreachable!("AVX2 has no blocks of {other} tokens"),
                    }
                }
            }
        });
    }

    /// A panel for one token, from tiles with five trits in a byte.
    fn run_dense_panel(&self, isa: Isa, panel: usize, acts: &Activations) {
        let w = &self.weights;
        let groups = w.cols.div_ceil(base3::COLUMNS);
        let x = acts.lanes(Block { first: 0, tokens: 1 }, 0, groups * base3::CANONICAL);
        let first = panel * PANEL;
        for tile in first..w.rows.div_ceil(TILE_ROWS).min(first + PANEL) {
            let (words, rows) = w.stored_tile(tile);
            let dots = if rows == TILE_ROWS {
                dots::of_dense_tile(isa, words, x)
            } else {
                let mut whole = vec![0; words.len() / rows * TILE_ROWS];
                for (to, from) in whole.chunks_exact_mut(TILE_ROWS).zip(words.chunks_exact(rows)) {
                    to[..rows].copy_from_slice(from);
                }
                dots::of_dense_tile(isa, &whole, x)
            };
            self.sink.put(isa, tile * TILE_ROWS, 0, 0, &dots[..rows], acts.sum(0, 0));
        }
    }

    fn run_block<const T: usize>(
        &self,
        isa: Isa,
        first_tile: usize,
        tiles: &[&[u32]],
        acts: &Activations,
        block: Block,
        kernel: impl Fn(Isa, &[&[u32]], &[u32], &mut [[[i32; TILE_ROWS]; T]; PANEL]),
    ) {
        let words_in_segment = acts.segment().div_ceil(16);
        // Of 16 rows, for each canonical word: four times as many where the planes are taken apart.
        let stride = tiles[0].len() / self.weights.width();
        let mut dots = [[[0; TILE_ROWS]; T]; PANEL];
        for segment in 0..acts.segments() {
            let start = segment * words_in_segment;
            let end = self.weights.width().min(start + words_in_segment);
            let mut parts: [&[u32]; PANEL] = [&[]; PANEL];
            for (part, tile) in parts.iter_mut().zip(tiles) {
                *part = &tile[start * stride..end * stride];
            }
            kernel(isa, &parts[..tiles.len()], acts.lanes(block, start, end), &mut dots);
            for (i, dots) in dots.iter().enumerate().take(tiles.len()) {
                let row = (first_tile + i) * TILE_ROWS;
                let rows = TILE_ROWS.min(self.weights.rows - row);
                for (t, dots) in dots.iter().enumerate() {
                    let sum = acts.sum(block.first + t, segment);
                    self.sink.put(isa, row, block.first + t, segment, &dots[..rows], sum);
                }
            }
        }
    }
}

/// Runs all products over the threads of the pool, neighbouring rows on one thread.
fn run<S: Sink>(isa: Isa, acts: &Activations, products: &[Product<'_, S>]) {
    let work = products.iter().map(|p| acts.tokens() * p.weights.rows * p.weights.cols).sum();
    parallel::tasks(products.iter().map(Product::panels).sum(), work, |mut task| {
        for product in products {
            if task < product.panels() {
                return product.run_panel(isa, task, acts);
            }
            task -= product.panels();
        }
    });
}

/// The outputs of a linear layer.
struct Scaled<'a> {
    scale: ScaleView<'a>,
    acts: &'a Activations,
    rows: usize,
    /// What the outputs are added to.
    residual: Option<&'a [f32]>,
    out: Parts<'a, f32>,
}

impl Sink for Scaled<'_> {
    fn put(&self, isa: Isa, row: usize, token: usize, segment: usize, dots: &[i32], sum: i32) {
        let start = token * self.rows + row;
        // SAFETY: the rows of a panel are written by its task alone.
        let out = unsafe { self.out.slice(start, start + dots.len()) };
        let sx = self.acts.scale(token);
        match self.scale {
            ScaleView::Tensor(s) => scale_all(isa, dots, sum, s / sx, out),
            ScaleView::Row(s) => {
                let scaled = dots.iter().zip(&s[row..]).map(|(dot, s)| (dot - sum) as f32 * (s / sx));
                out.iter_mut().zip(scaled).for_each(|(out, y)| *out = y);
            }
            ScaleView::Group { values, .. } => {
                let segments = self.acts.segments();
                let mut scales = [0.0; TILE_ROWS];
                let of_rows = values[row * segments + segment..].iter().step_by(segments);
                scales.iter_mut().zip(of_rows).for_each(|(to, scale)| *to = *scale);
                if segment == 0 {
                    out.fill(0.0);
                }
                add_scaled(isa, dots, sum, &scales, out);
                if segment + 1 == segments {
                    out.iter_mut().for_each(|out| *out /= sx);
                }
            }
        }
        if let Some(residual) = self.residual
            && segment + 1 == self.acts.segments()
        {
            out.iter_mut().zip(&residual[start..]).for_each(|(out, before)| *out += before);
        }
    }
}

on_each_isa! {
    fn scale_all(dots: &[i32], sum: i32, scale: f32, out: &mut [f32]) = scale_all_body
}

#[inline(always)]
fn scale_all_body(dots: &[i32], sum: i32, scale: f32, out: &mut [f32]) {
    match (dots.as_array::<TILE_ROWS>(), out.as_mut_array::<TILE_ROWS>()) {
        (Some(dots), Some(out)) => out.iter_mut().zip(dots).for_each(|(out, dot)| *out = (dot - sum) as f32 * scale),
        _ => out.iter_mut().zip(dots).for_each(|(out, dot)| *out = (dot - sum) as f32 * scale),
    }
}

on_each_isa! {
    /// `out += (dot - sum) * scale`, each row with its own scale.
    fn add_scaled(dots: &[i32], sum: i32, scales: &[f32; TILE_ROWS], out: &mut [f32]) = add_scaled_body
}

#[inline(always)]
fn add_scaled_body(dots: &[i32], sum: i32, scales: &[f32; TILE_ROWS], out: &mut [f32]) {
    let add = |(out, (dot, scale)): (&mut f32, (&i32, &f32))| *out += (dot - sum) as f32 * scale;
    match (dots.as_array::<TILE_ROWS>(), out.as_mut_array::<TILE_ROWS>()) {
        (Some(dots), Some(out)) => out.iter_mut().zip(dots.iter().zip(scales)).for_each(add),
        _ => out.iter_mut().zip(dots.iter().zip(scales)).for_each(add),
    }
}

/// The exact integers themselves, summed over the segments.
struct Integers<'a> {
    rows: usize,
    out: Parts<'a, i32>,
}

impl Sink for Integers<'_> {
    fn put(&self, _: Isa, row: usize, token: usize, segment: usize, dots: &[i32], sum: i32) {
        let start = token * self.rows + row;
        // SAFETY: the rows of a panel are written by its task alone.
        let out = unsafe { self.out.slice(start, start + dots.len()) };
        let all = out.iter_mut().zip(dots);
        all.for_each(|(out, dot)| *out = dot - sum + if segment == 0 { 0 } else { *out });
    }
}

/// The exact integers `sum_k trit[n, k] * x[t, k]`, whatever the scale; `x` is `[tokens, cols]`, `out` `[tokens, rows]`.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn matmul_i32(isa: Isa, x: &[i8], tokens: usize, w: &TernaryView<'_>, out: &mut [i32]) {
    isa.check();
    w.check(x.len(), tokens, out.len());
    let acts = Activations::from_codes(isa, x, tokens, w.cols, w.segment());
    if w.cols == 0 {
        return out.fill(0);
    }
    run(isa, &acts, &[Product { weights: *w, sink: Integers { rows: w.rows, out: Parts::new(out) } }]);
}

/// BitNet b1.58's linear layer: absmax int8 activations per token, the exact integer product, one scale at the end.
///
/// `x` is `[tokens, cols]`, `out` is `[tokens, rows]`. Bit for bit `bitnet_ternary::reference::linear`.
///
/// Source: Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764), section 2.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn linear(isa: Isa, x: &[f32], tokens: usize, w: &TernaryView<'_>, out: &mut [f32]) {
    w.check(x.len(), tokens, out.len());
    let cols = w.cols;
    linears(isa, tokens, |token, row| row.copy_from_slice(&x[token * cols..][..cols]), &[*w], &mut [out]);
}

/// [`linear`] for several matrices that have the same input, which is quantized once: `row` writes the values of a token.
///
/// # Panics
/// When this processor cannot run `isa`, a slice does not have the length that the others say, or the matrices differ in
/// their columns.
pub fn linears(
    isa: Isa,
    tokens: usize,
    row: impl Fn(usize, &mut [f32]) + Sync,
    weights: &[TernaryView<'_>],
    out: &mut [&mut [f32]],
) {
    let cols = weights.first().map_or(0, |w| w.cols);
    each_segment(isa, tokens, weights, None, out, |segment| Activations::quantize(isa, tokens, cols, segment, &row));
}

/// [`linears`] for one matrix, its output added to `residual`, `[tokens, rows]`.
///
/// # Panics
/// As [`linears`].
pub fn linear_onto(
    isa: Isa,
    residual: &[f32],
    tokens: usize,
    row: impl Fn(usize, &mut [f32]) + Sync,
    w: &TernaryView<'_>,
    out: &mut [f32],
) {
    assert_eq!(residual.len(), out.len(), "what the output is added to");
    if w.cols == 0 {
        return out.copy_from_slice(residual);
    }
    each_segment(isa, tokens, &[*w], Some(residual), &mut [out], |segment| {
        Activations::quantize(isa, tokens, w.cols, segment, &row)
    });
}

/// [`linears`] for an input that is quantized already: `codes` is `[tokens, cols]`, `scale` (`[tokens]`) what its values were
/// multiplied by.
///
/// # Panics
/// As [`linears`].
pub fn linears_of_codes(isa: Isa, codes: &[i8], scale: &[f32], weights: &[TernaryView<'_>], out: &mut [&mut [f32]]) {
    let (tokens, cols) = (scale.len(), weights.first().map_or(0, |w| w.cols));
    assert_eq!(codes.len(), tokens * cols, "codes");
    each_segment(isa, tokens, weights, None, out, |segment| {
        Activations::from_quantized(isa, codes, scale, tokens, cols, segment)
    });
}

fn each_segment(
    isa: Isa,
    tokens: usize,
    weights: &[TernaryView<'_>],
    residual: Option<&[f32]>,
    out: &mut [&mut [f32]],
    activations: impl Fn(usize) -> Activations,
) {
    isa.check();
    assert_eq!(weights.len(), out.len(), "one output for each matrix");
    let Some(cols) = weights.first().map(|w| w.cols) else { return };
    weights.iter().zip(&*out).for_each(|(w, out)| w.check(tokens * cols, tokens, out.len()));
    if cols == 0 {
        return out.iter_mut().for_each(|out| out.fill(0.0));
    }
    // Matrices whose scales differ in their grouping need the sums of other segments.
    let mut rest: Vec<_> = weights.iter().zip(out.iter_mut()).collect();
    while let Some(segment) = rest.first().map(|(w, _)| w.segment()) {
        let acts = activations(segment);
        let (same, other): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(w, _)| w.segment() == segment);
        let products = same.into_iter().map(|(w, out)| {
            let sink = Scaled { scale: w.scale, acts: &acts, rows: w.rows, residual, out: Parts::new(out) };
            Product { weights: *w, sink }
        });
        run(isa, &acts, &products.collect::<Vec<_>>());
        rest = other;
    }
}

/// The dense matrix `trit * scale`, `[rows, cols]`.
///
/// # Panics
/// When a slice does not have the length that the others say.
pub fn dequantize(w: &TernaryView<'_>, out: &mut [f32]) {
    w.check(0, 0, 0);
    assert_eq!(out.len(), w.rows * w.cols, "output");
    parallel::chunks(out, w.cols.max(1), w.rows * w.cols, |row, out| {
        w.unpack(row, out);
        match w.scale {
            ScaleView::Tensor(s) => out.iter_mut().for_each(|x| *x *= s),
            ScaleView::Row(s) => out.iter_mut().for_each(|x| *x *= s[row]),
            ScaleView::Group { size, values } => {
                let s = &values[row * w.cols.div_ceil(size)..];
                out.chunks_mut(size).zip(s).for_each(|(group, s)| group.iter_mut().for_each(|x| *x *= s));
            }
        }
    });
}
