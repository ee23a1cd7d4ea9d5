//! The compressed copy of a head.

use std::sync::Arc;

use half::f16;

use super::{BLOCK, TILE};
use crate::cpu::dense::DenseView;
use crate::cpu::isa::{Isa, on_each_isa};
use crate::cpu::parallel;

/// Largest magnitude of a weight that is searched.
pub(super) const LARGEST: f32 = 1e15;

/// Smallest unit of a row.
const SMALLEST: f32 = f32::from_bits(0x2180_0000); // 2^-60

/// Bytes of 16 rows of a block: four bits of each weight, the fifth bit, the scales.
pub(super) const FOUR_BITS: usize = TILE * BLOCK / 2;
pub(super) const FIFTH_BIT: usize = TILE * BLOCK / 8;
pub(super) const SCALES: usize = TILE * 2;

/// Bytes of what the bound needs to know of 16 rows, see [`RowFacts`].
pub(super) const FACTS: usize = TILE * 4 * 5;

/// A copy of a head's rows in five bits a weight, the upper four by themselves, with what bounds its error.
///
/// Sixteen rows are side by side, so that no sum leaves its lane. With `T` tiles of 16 rows and `B` blocks of 64 columns:
///
/// ```text
/// four    [T][B][8][16] words    word v of a row: byte i has column 8 v + i in its low, 8 v + 4 + i in its high four bits
/// scales  [T][B][16] f16         the scale s of the five-bit codes, in units of the row
/// facts   [T][5][16] f32         unit of the row (a power of two); p and |e| for four bits, p and |e| for five
/// fifth   [T][B][2][16] words    word u of a row: bit j of byte i has column 32 u + 4 j + i
/// ```
#[derive(Clone)]
pub struct Sketch {
    rows: usize,
    cols: usize,
    data: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

/// A line of a processor's cache: no vector of the sketch is in two of them.
const LINE: usize = 64;

/// Bytes from the beginning of a line on.
struct Lines {
    memory: Vec<u8>,
    begin: usize,
}

impl Lines {
    /// Zeros.
    fn new(len: usize) -> Self {
        let mut memory: Vec<u8> = bitnet_ternary::zeroed(len + LINE);
        let begin = memory.as_ptr().align_offset(LINE).min(LINE);
        memory.truncate(begin + len);
        Self { memory, begin }
    }
}

impl AsRef<[u8]> for Lines {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.begin..]
    }
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sketch").field("rows", &self.rows).field("cols", &self.cols).finish_non_exhaustive()
    }
}

/// Where the parts of a sketch begin.
#[derive(Clone, Copy)]
struct Layout {
    tiles: usize,
    blocks: usize,
}

impl Layout {
    fn new(rows: usize, cols: usize) -> Self {
        Self { tiles: rows.div_ceil(TILE), blocks: cols.div_ceil(BLOCK) }
    }

    fn scales(self) -> usize {
        self.tiles * self.blocks * FOUR_BITS
    }

    fn facts(self) -> usize {
        self.scales() + (self.tiles * self.blocks * SCALES).next_multiple_of(64)
    }

    fn fifth(self) -> usize {
        self.facts() + self.tiles * FACTS
    }

    fn bytes(self) -> usize {
        self.fifth() + self.tiles * self.blocks * FIFTH_BIT
    }
}

/// The parts of one tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// `[blocks]`
    pub(super) four: &'a [[u8; FOUR_BITS]],
    /// `[blocks]`
    pub(super) scales: &'a [[u8; SCALES]],
    /// `[5][16]` floats.
    pub(super) facts: &'a [u8; FACTS],
    /// `[blocks]`
    pub(super) fifth: &'a [[u8; FIFTH_BIT]],
}

impl Sketch {
    /// Copies the rows of `w`; `None` where a weight is not a number or larger than 1e15, and where there is nothing to copy.
    ///
    /// # Panics
    /// When this processor cannot run `isa`.
    pub fn new(isa: Isa, w: &DenseView<'_>) -> Option<Self> {
        isa.check();
        let (rows, cols) = (w.rows(), w.cols());
        if rows == 0 || cols == 0 || cols > 1 << 17 {
            return None;
        }
        let layout = Layout::new(rows, cols);
        let mut lines = Lines::new(layout.bytes());
        let (four, rest) = lines.memory[lines.begin..].split_at_mut(layout.scales());
        let (scales, rest) = rest.split_at_mut(layout.facts() - layout.scales());
        let (facts, fifth) = rest.split_at_mut(layout.fifth() - layout.facts());
        let parts = [four, scales, facts, fifth].map(parallel::Parts::new);
        let sizes = [layout.blocks * FOUR_BITS, layout.blocks * SCALES, FACTS, layout.blocks * FIFTH_BIT];
        let refused = std::sync::atomic::AtomicBool::new(false);
        parallel::tasks(layout.tiles, rows * cols, |tile| {
            // SAFETY: a tile is written by its task alone.
            let [four, scales, facts, fifth] =
                std::array::from_fn(|i| unsafe { parts[i].slice(tile * sizes[i], (tile + 1) * sizes[i]) });
            let mut buffer = Vec::new();
            let mut codes = vec![[0u8; BLOCK]; layout.blocks];
            for lane in 0..TILE.min(rows - TILE * tile) {
                let row = w.row(TILE * tile + lane, &mut buffer);
                let Some(found) = RowFacts::new(isa, row, &mut codes, scales, lane) else {
                    refused.store(true, std::sync::atomic::Ordering::Relaxed);
                    return;
                };
                for (i, value) in found.values().into_iter().enumerate() {
                    facts[4 * (TILE * i + lane)..][..4].copy_from_slice(&value.to_le_bytes());
                }
                put(isa, &codes, four, fifth, lane);
            }
        });
        (!refused.into_inner()).then(|| Self { rows, cols, data: Arc::new(lines) })
    }

    /// A sketch of `rows` by `cols` that was written before ([`Sketch::bytes`]); `None` where it has another size.
    ///
    /// Whoever keeps one has to know that it is of these very rows: a sketch of others finds wrong ones.
    pub fn from_bytes(rows: usize, cols: usize, data: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Option<Self> {
        let fits = rows > 0 && cols > 0 && (*data).as_ref().len() == Self::size(rows, cols);
        fits.then_some(Self { rows, cols, data })
    }

    /// Bytes of a sketch of `rows` by `cols`.
    pub fn size(rows: usize, cols: usize) -> usize {
        Layout::new(rows, cols).bytes()
    }

    /// All of it, to be kept.
    pub fn bytes(&self) -> &[u8] {
        (*self.data).as_ref()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the scan of a tile reads, and those of its fifth bit.
    pub(super) fn coarse_bytes(&self) -> usize {
        self.cols.div_ceil(BLOCK) * (FOUR_BITS + SCALES) + FACTS
    }

    pub(super) fn fine_bytes(&self) -> usize {
        self.cols.div_ceil(BLOCK) * (FIFTH_BIT + SCALES) + FACTS
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    pub(super) fn tile(&self, tile: usize) -> Tile<'_> {
        let (layout, data) = (Layout::new(self.rows, self.cols), self.bytes());
        let part = |start: usize, size: usize| &data[start + tile * size..][..size];
        let blocks = layout.blocks;
        Tile {
            four: part(0, blocks * FOUR_BITS).as_chunks().0,
            scales: part(layout.scales(), blocks * SCALES).as_chunks().0,
            facts: part(layout.facts(), FACTS).as_array().expect("the size asked for"),
            fifth: part(layout.fifth(), blocks * FIFTH_BIT).as_chunks().0,
        }
    }
}

/// What the bound needs to know of a row.
struct RowFacts {
    unit: f32,
    /// Largest `|e_b| / s_b`, and `|e|`, of the four upper bits and of all five.
    of_four: [f32; 2],
    of_five: [f32; 2],
}

impl RowFacts {
    /// Codes and scales of a row; `None` where it has a value that cannot be searched.
    fn new(isa: Isa, row: &[f32], codes: &mut [[u8; BLOCK]], scales: &mut [u8], lane: usize) -> Option<Self> {
        let largest = largest(isa, row);
        if largest.is_nan() || largest > LARGEST {
            return None;
        }
        // A power of two, so that scales in units of it are exact.
        let unit = f32::from_bits(largest.to_bits() & 0x7f80_0000).max(SMALLEST);
        let (mut ratios, mut squares) = ([0f32; 2], [0f64; 2]);
        for (b, (block, codes)) in row.chunks(BLOCK).zip(codes).enumerate() {
            let scale = scale_of(self::largest(isa, block) / unit);
            scales[SCALES * b + 2 * lane..][..2].copy_from_slice(&scale.to_le_bytes());
            let scale = scale.to_f32();
            if scale == 0.0 {
                codes.fill(0);
                continue;
            }
            let mut values = [0f32; BLOCK];
            values[..block.len()].copy_from_slice(block);
            let found = quantize(isa, &values, 1.0 / (scale * unit), block.len(), codes);
            for i in 0..2 {
                // In units of the scale a weight is up to 16, so its rounding three times over is below 3e-6, and that of 64
                // below 1e-4.
                let ratio = found[i].sqrt() * (1.0 + 1e-5) + 1e-4;
                ratios[i] = ratios[i].max(ratio);
                squares[i] += (f64::from(ratio) * f64::from(scale)).powi(2);
            }
        }
        let of = |i: usize| [ratios[i], (squares[i].sqrt() * (1.0 + 1e-6)) as f32 * unit];
        Some(Self { unit, of_four: of(0), of_five: of(1) })
    }

    fn values(&self) -> [f32; 5] {
        [self.unit, self.of_four[0], self.of_four[1], self.of_five[0], self.of_five[1]]
    }
}

/// The scale of a block with this largest magnitude: a sixteenth of it, rounded up.
fn scale_of(largest: f32) -> f16 {
    let wanted = largest / 16.0;
    let scale = f16::from_f32(wanted);
    if scale.to_f32() < wanted { f16::from_bits(scale.to_bits() + 1) } else { scale }
}

on_each_isa! {
    /// The largest magnitude; NaN if one is.
    fn largest(x: &[f32]) -> f32 = largest_body
}

#[inline(always)]
fn largest_body(x: &[f32]) -> f32 {
    // As integers, magnitudes are in the order of the floats, and NaN is the largest of all.
    f32::from_bits(x.iter().fold(0, |a, x| a.max(x.to_bits() & 0x7fff_ffff)))
}

on_each_isa! {
    /// Codes of a block; gives the squares of the errors in units of the scale, of four bits and of five.
    fn quantize(x: &[f32; BLOCK], inverse: f32, len: usize, codes: &mut [u8; BLOCK]) -> [f32; 2] = quantize_body
}

#[inline(always)]
fn quantize_body(x: &[f32; BLOCK], inverse: f32, len: usize, codes: &mut [u8; BLOCK]) -> [f32; 2] {
    let mut errors = [[0f32; BLOCK]; 2];
    for i in 0..BLOCK {
        let value = x[i] * inverse;
        // Never negative, so it is cut off downwards.
        let code = ((value + 16.0).clamp(0.0, 31.0)) as i32;
        codes[i] = code as u8;
        errors[0][i] = value - (2 * (code >> 1) - 15) as f32;
        errors[1][i] = value - (code as f32 - 15.5);
    }
    errors.map(|errors| {
        let mut sums = [0f32; 16];
        // Where the row has ended, activations are zero.
        for (i, error) in errors.iter().enumerate() {
            sums[i % 16] += if i < len { error * error } else { 0.0 };
        }
        sums.iter().sum()
    })
}

on_each_isa! {
    /// The codes of a row into its lane.
    fn put(codes: &[[u8; BLOCK]], four: &mut [u8], fifth: &mut [u8], lane: usize) = put_body
}

#[inline(always)]
fn put_body(codes: &[[u8; BLOCK]], four: &mut [u8], fifth: &mut [u8], lane: usize) {
    let four = four.as_chunks_mut::<FOUR_BITS>().0;
    let fifth = fifth.as_chunks_mut::<FIFTH_BIT>().0;
    for ((codes, four), fifth) in codes.iter().zip(four).zip(fifth) {
        let words: [u32; BLOCK / 4] = std::array::from_fn(|i| {
            u32::from_le_bytes([codes[4 * i], codes[4 * i + 1], codes[4 * i + 2], codes[4 * i + 3]])
        });
        for v in 0..BLOCK / 8 {
            let word = (words[2 * v] >> 1 & 0x0f0f_0f0f) | (words[2 * v + 1] >> 1 & 0x0f0f_0f0f) << 4;
            four[4 * (TILE * v + lane)..][..4].copy_from_slice(&word.to_le_bytes());
        }
        for u in 0..BLOCK / 32 {
            let word = (0..8).fold(0, |word, j| word | (words[8 * u + j] & 0x0101_0101) << j);
            fifth[4 * (TILE * u + lane)..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}
