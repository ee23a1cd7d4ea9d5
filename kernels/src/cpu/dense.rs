//! Linear layers whose weights are not ternary: the output head and, row by row, the token embedding.
//!
//! The weights stay as the file has them (f16, bf16, 8-bit or smaller blocks). A row is decoded into f32 when it is
//! needed, then meets every token; so one kernel serves every storage, and the file can stay mapped.

use half::slice::HalfFloatSliceExt;

use super::code_rows::CodeRows;
use super::isa::Isa;
use super::row_tiles::{RowTiles, SplitActivations, TILE_ROWS, TOKENS};
use super::{lanes, parallel};

/// How the values of a row are stored; all of it little-endian.
#[derive(Clone, Copy, Debug)]
pub enum RowFormat {
    /// Four bytes a value.
    F32,
    /// IEEE half precision, two bytes a value.
    F16,
    /// bfloat16, two bytes a value.
    Bf16,
    /// Codes of eight bits with a scale for each group.
    Codes(CodeRows),
    /// Anything else, by the function that turns the bytes of one row into its values.
    Other(fn(bytes: &[u8], row: &mut [f32])),
}

impl RowFormat {
    /// Reads the values of a row; `bytes` and `row` must be of exactly one row.
    ///
    /// # Panics
    /// Some formats do when they are not.
    pub fn decode(self, bytes: &[u8], row: &mut [f32]) {
        match self {
            RowFormat::F32 => {
                for (b, out) in bytes.as_chunks::<4>().0.iter().zip(row) {
                    *out = f32::from_le_bytes(*b);
                }
            }
            RowFormat::F16 => decode_f16(bytes, row),
            RowFormat::Bf16 => {
                for (b, out) in bytes.as_chunks::<2>().0.iter().zip(row) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            RowFormat::Codes(rows) => rows.decode(bytes, row),
            RowFormat::Other(decode) => decode(bytes, row),
        }
    }
}

/// A matrix `[rows, cols]`, borrowed.
#[derive(Clone, Copy)]
pub enum DenseView<'a> {
    /// Values in memory.
    Floats {
        /// `rows * cols` values.
        values: &'a [f32],
        /// Values in a row.
        cols: usize,
    },
    /// Rows in stored form.
    Stored {
        /// `rows * row_bytes` bytes.
        bytes: &'a [u8],
        /// Values in a row.
        cols: usize,
        /// Stored bytes of a row.
        row_bytes: usize,
        /// How to read a row.
        format: RowFormat,
    },
    /// Rows in tiles, whose products are taken with the codes themselves.
    Tiles {
        /// As [`RowTiles::lay_out`] makes them.
        bytes: &'a [u8],
        /// What they are.
        tiles: RowTiles,
        /// Rows that are there.
        rows: usize,
        /// Values in a row, a multiple of 256.
        cols: usize,
    },
}

impl DenseView<'_> {
    pub(super) fn rows(&self) -> usize {
        match self {
            DenseView::Floats { values, cols } => values.len() / (*cols).max(1),
            DenseView::Stored { bytes, row_bytes, .. } => bytes.len() / (*row_bytes).max(1),
            DenseView::Tiles { rows, .. } => *rows,
        }
    }

    pub(super) fn cols(&self) -> usize {
        match self {
            DenseView::Floats { cols, .. } | DenseView::Stored { cols, .. } | DenseView::Tiles { cols, .. } => *cols,
        }
    }

    /// Bytes that a row takes.
    pub(super) fn row_bytes(&self) -> usize {
        match self {
            DenseView::Floats { cols, .. } => 4 * cols,
            DenseView::Stored { row_bytes, .. } => *row_bytes,
            DenseView::Tiles { tiles, cols, .. } => tiles.bytes(1, *cols) / TILE_ROWS,
        }
    }

    /// The values of row `n`, read into `buffer` if they are not in memory as they are.
    pub(super) fn row<'b>(&'b self, n: usize, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        match self {
            DenseView::Floats { values, cols } => &values[n * cols..][..*cols],
            DenseView::Stored { bytes, cols, row_bytes, format } => {
                buffer.resize(*cols, 0.0);
                format.decode(&bytes[n * row_bytes..][..*row_bytes], buffer);
                buffer
            }
            DenseView::Tiles { bytes, tiles, cols, .. } => {
                buffer.resize(*cols, 0.0);
                tiles.decode_lane(tiles.tile(bytes, *cols, n / TILE_ROWS), n % TILE_ROWS, buffer);
                buffer
            }
        }
    }

    /// The activations of each token in integers, where the format's product wants them so.
    pub(super) fn split(&self, x: &[f32]) -> Vec<SplitActivations> {
        match self {
            DenseView::Tiles { cols, .. } => x.chunks_exact(*cols).map(SplitActivations::new).collect(),
            _ => Vec::new(),
        }
    }

    /// Row `n` times one token, of which `split` is what [`DenseView::split`] makes: the product that [`linear`] gives.
    pub(super) fn product(
        &self,
        isa: Isa,
        n: usize,
        x: &[f32],
        split: Option<&SplitActivations>,
        buffer: &mut Vec<f32>,
    ) -> f32 {
        match (self, split) {
            (DenseView::Tiles { bytes, tiles, cols, .. }, Some(split)) => {
                let tile = tiles.tile(bytes, *cols, n / TILE_ROWS);
                tiles.dots(isa, tile, [split])[0][n % TILE_ROWS]
            }
            _ => self.dot(isa, n, x, buffer),
        }
    }

    /// Row `n` times one token, without the way over memory where the format has a product of its own.
    fn dot(&self, isa: Isa, n: usize, x: &[f32], buffer: &mut Vec<f32>) -> f32 {
        match self {
            DenseView::Stored { bytes, row_bytes, format: RowFormat::F16, .. } => {
                lanes::dot_f16(isa, x, &bytes[n * row_bytes..][..*row_bytes])
            }
            DenseView::Stored { bytes, row_bytes, format: RowFormat::Bf16, .. } => {
                lanes::dot_bf16(isa, x, &bytes[n * row_bytes..][..*row_bytes])
            }
            _ => lanes::dot(isa, x, self.row(n, buffer)),
        }
    }
}

/// `out[t, n] = sum_k x[t, k] * w[n, k]` in f32; `x` is `[tokens, cols]`, `out` is `[tokens, rows]`.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn linear(isa: Isa, x: &[f32], tokens: usize, w: &DenseView<'_>, out: &mut [f32]) {
    isa.check();
    let (rows, cols) = (w.rows(), w.cols());
    assert_eq!(x.len(), tokens * cols, "activations");
    assert_eq!(out.len(), tokens * rows, "output");
    if cols == 0 || tokens == 0 {
        return out.fill(0.0);
    }
    let rows_at_once = parallel::rows_per_task(rows, 8);
    let out = parallel::Parts::new(out);
    if let DenseView::Tiles { bytes, tiles, .. } = *w {
        return of_tiles(isa, &w.split(x), tiles, bytes, [rows, cols], &out);
    }
    if tokens >= MANY {
        return many(isa, x, tokens, w, &out);
    }
    parallel::tasks(rows.div_ceil(rows_at_once), tokens * rows * cols, |task| {
        let mut buffer = Vec::new();
        for n in task * rows_at_once..rows.min((task + 1) * rows_at_once) {
            let put = |token: usize, y: f32| {
                let at = token * rows + n;
                // SAFETY: a row is written by its task alone.
                unsafe { out.write(at, y) };
            };
            if tokens == 1 {
                put(0, w.dot(isa, n, x, &mut buffer));
                continue;
            }
            let row = w.row(n, &mut buffer);
            for (token, x) in x.chunks_exact(cols).enumerate() {
                put(token, lanes::dot(isa, x, row));
            }
        }
    });
}

/// [`linear`] with tiles: each of them for all tokens, a few at once.
fn of_tiles(
    isa: Isa,
    x: &[SplitActivations],
    tiles: RowTiles,
    bytes: &[u8],
    [rows, cols]: [usize; 2],
    out: &parallel::Parts<'_, f32>,
) {
    let at_once = parallel::rows_per_task(rows, TILE_ROWS).div_ceil(TILE_ROWS);
    let count = rows.div_ceil(TILE_ROWS);
    parallel::tasks(count.div_ceil(at_once), x.len() * rows * cols, |task| {
        for i in task * at_once..count.min((task + 1) * at_once) {
            let (tile, first) = (tiles.tile(bytes, cols, i), i * TILE_ROWS);
            let put = |token: usize, products: &[f32]| {
                let start = token * rows + first;
                let end = start + TILE_ROWS.min(rows - first);
                // SAFETY: a tile is written by its task alone.
                unsafe { out.slice(start, end) }.copy_from_slice(&products[..end - start]);
            };
            let (some, rest) = x.as_chunks::<TOKENS>();
            for (n, x) in some.iter().enumerate() {
                let products = tiles.dots(isa, tile, x.each_ref());
                products.iter().enumerate().for_each(|(t, products)| put(n * TOKENS + t, products));
            }
            for (t, x) in rest.iter().enumerate() {
                put(some.len() * TOKENS + t, &tiles.dots(isa, tile, [x])[0]);
            }
        }
    });
}

/// From so many tokens on, tiles of them are worked on.
const MANY: usize = 8;

/// Tokens and rows that one task of [`many`] takes.
const SOME_TOKENS: usize = 64;
const SOME_ROWS: usize = 32;

/// [`linear`] for many tokens: a row that is in the registers meets some of them, and the other way round.
fn many(isa: Isa, x: &[f32], tokens: usize, w: &DenseView<'_>, out: &parallel::Parts<'_, f32>) {
    let (rows, cols) = (w.rows(), w.cols());
    let (down, across) = (tokens.div_ceil(SOME_TOKENS), rows.div_ceil(SOME_ROWS));
    parallel::tasks(down * across, tokens * rows * cols, |task| {
        let (first_token, first_row) = (task / across * SOME_TOKENS, task % across * SOME_ROWS);
        let count = SOME_ROWS.min(rows - first_row);
        let mut buffers: [Vec<f32>; SOME_ROWS] = [const { Vec::new() }; SOME_ROWS];
        let mut values: [&[f32]; SOME_ROWS] = [&[]; SOME_ROWS];
        for (i, (value, buffer)) in values.iter_mut().zip(&mut buffers).take(count).enumerate() {
            *value = w.row(first_row + i, buffer);
        }
        for token in first_token..tokens.min(first_token + SOME_TOKENS) {
            let x = &x[token * cols..][..cols];
            let at = token * rows + first_row;
            // SAFETY: no two tasks have a token and a row in common.
            let out = unsafe { out.slice(at, at + count) };
            let (fours, rest) = values[..count].as_chunks::<{ lanes::ROWS }>();
            let (out_fours, out_rest) = out.as_chunks_mut::<{ lanes::ROWS }>();
            out_fours.iter_mut().zip(fours).for_each(|(out, rows)| *out = lanes::dots(isa, x, *rows));
            out_rest.iter_mut().zip(rest).for_each(|(out, row)| *out = lanes::dot(isa, x, row));
        }
    });
}

fn decode_f16(bytes: &[u8], row: &mut [f32]) {
    // SAFETY: every bit pattern of two bytes is an `f16`.
    let (before, halves, _) = unsafe { bytes.align_to::<half::f16>() };
    if before.is_empty() && halves.len() == row.len() {
        halves.convert_to_f32_slice(row);
    } else {
        for (b, out) in bytes.as_chunks::<2>().0.iter().zip(row) {
            *out = half::f16::from_le_bytes(*b).to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_storage_gives_the_product_of_its_values() {
        let (rows, cols) = (37, 45);
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 31) % 97) as f32 / 16.0 - 3.0).collect();
        let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16s: Vec<u8> = values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        // One byte in front, so that the half precision rows are not aligned either.
        let shifted: Vec<u8> = std::iter::once(0).chain(f16s.iter().copied()).collect();
        for tokens in [1, 2, 5, 70] {
            let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 17) % 29) as f32 / 8.0 - 1.5).collect();
            let mut expected = vec![0f32; tokens * rows];
            for t in 0..tokens {
                for n in 0..rows {
                    expected[t * rows + n] = (0..cols).map(|k| x[t * cols + k] * values[n * cols + k]).sum();
                }
            }
            let stored: [(&[u8], usize, RowFormat); 5] = [
                (&f32s, 4, RowFormat::F32),
                (&f16s, 2, RowFormat::F16),
                (&bf16s, 2, RowFormat::Bf16),
                (&shifted[1..], 2, RowFormat::F16),
                (&f32s, 4, RowFormat::Other(|bytes, row| RowFormat::F32.decode(bytes, row))),
            ];
            for (bytes, width, format) in stored {
                for isa in Isa::available() {
                    let mut floats = vec![0f32; tokens * rows];
                    linear(isa, &x, tokens, &DenseView::Floats { values: &values, cols }, &mut floats);
                    let mut out = vec![0f32; tokens * rows];
                    let view = DenseView::Stored { bytes, cols, row_bytes: cols * width, format };
                    linear(isa, &x, tokens, &view, &mut out);
                    assert_eq!(out, floats, "these values are exact in every storage");
                    for (a, b) in out.iter().zip(&expected) {
                        assert!((a - b).abs() < 1e-3, "{a} {b} {isa}");
                    }
                }
            }
        }
    }

    /// Any bytes are codes; the scales are small.
    fn read(stored: &[u8], codes: &mut [i8], scales: &mut [f32]) {
        codes.iter_mut().zip(stored).for_each(|(code, byte)| *code = (byte % 16).cast_signed() - 8);
        scales.iter_mut().zip(stored).for_each(|(scale, byte)| *scale = f32::from(*byte) / 1024.0);
    }

    #[test]
    fn rows_that_fill_no_tile_meet_any_number_of_tokens() {
        for (tiles, of_block) in [(RowTiles::Q6K, 210), (RowTiles::Bytes, 256), (RowTiles::Nibbles, 256)] {
            for (rows, cols) in [(1, 256), (37, 512), (200, 256)] {
                let stored: Vec<u8> = (0..rows * cols / 256 * of_block).map(|i| (i * i / 7 % 120) as u8).collect();
                let mut bytes = vec![0; tiles.bytes(rows, cols)];
                tiles.lay_out(&stored, cols / 256 * of_block, cols, Some(read), &mut bytes);
                let view = DenseView::Tiles { bytes: &bytes, tiles, rows, cols };
                for tokens in [1, 3, 4, 9] {
                    let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 17) % 29) as f32 / 8.0 - 1.5).collect();
                    let split = view.split(&x);
                    for isa in Isa::available() {
                        let mut out = vec![0f32; tokens * rows];
                        linear(isa, &x, tokens, &view, &mut out);
                        for (t, n) in (0..tokens).flat_map(|t| (0..rows).map(move |n| (t, n))) {
                            let of_token = &x[t * cols..][..cols];
                            let alone = view.product(isa, n, of_token, Some(&split[t]), &mut Vec::new());
                            assert_eq!(out[t * rows + n].to_bits(), alone.to_bits(), "{tiles:?}, {isa}: {t}, {n}");
                            let plain = lanes::dot(isa, of_token, view.row(n, &mut Vec::new()));
                            let size: f32 = of_token.iter().map(|x| x.abs()).sum();
                            assert!((alone - plain).abs() <= 1e-3 * size, "{tiles:?}: {alone} {plain}");
                        }
                    }
                }
            }
        }
    }
}
