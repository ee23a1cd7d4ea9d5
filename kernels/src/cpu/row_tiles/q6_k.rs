//! Rows of Q6_K, the usual storage of a quantized head.
//!
//! A block of 256 weights is 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales (one for 16 weights) and
//! a half-precision scale `d`: `w = d * scale * (q - 32)` with `q` of six bits. With activations in two bytes (`split.rs`):
//!
//! ```text
//! sum w x ≈ sum_blocks d s * sum_16 scale * sum (q - 32) (64 high + low)
//! ```
//!
//! The sums of 64 weights are exact integers, and an activation is within `max|x| / 16256` of what it was: an error in the
//! fifth digit, where the storage itself has one in the second.
//!
//! A tile takes as many bytes as the rows do, up to a line more where they have an odd number of blocks:
//!
//! ```text
//! 16 rows    d [block][row] f16, up to the end of a line; then the blocks, of 4 quarters each, 832 bytes
//! quarter    scales [group][row] i8, 64 bytes; then 4 groups of 16 columns, 192 bytes each
//! group      bytes   0..64    4 for each row     columns 0..4 in the low nibbles, columns 4..8 in the high ones
//!                   64..128                      columns 8..12, columns 12..16
//!                  128..192                      the pairs of columns j, 4 + j, 8 + j, 12 + j in the bits 0, 2, 4, 6 of byte j
//! ```

use half::f16;

use super::split::{BLOCK, Split, SplitActivations};
use super::{LINE, TILE_ROWS};
use crate::cpu::isa::Isa;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Bytes of a block.
const BLOCK_BYTES: usize = 210;

/// Weights that share an int8 scale.
const GROUP: usize = 16;

/// Groups of a quarter: their sums fit 32 bits together, `4 * 16 * 32 * 8128 * 128 < 2^31`.
const GROUPS: usize = 4;

/// Codes of a group of 16 rows.
const GROUP_BYTES: usize = 192;

/// Scales and codes of a quarter of 16 rows.
const SCALES_BYTES: usize = GROUPS * TILE_ROWS;
const QUARTER_BYTES: usize = SCALES_BYTES + GROUPS * GROUP_BYTES;

/// Quarters of a block.
const QUARTERS: usize = BLOCK / GROUP / GROUPS;

/// The scales `d` of a block of 16 rows.
const D_BYTES: usize = TILE_ROWS * 2;

/// Scales and codes of a block of 16 rows.
type TileBlock = [[u8; QUARTER_BYTES]; QUARTERS];

/// The blocks of 16 rows.
#[derive(Clone, Copy)]
struct Tile<'a> {
    d: &'a [[u8; D_BYTES]],
    blocks: &'a [TileBlock],
}

impl<'a> Tile<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let count = blocks_of(bytes.len());
        let (d, quarters) = bytes.split_at(d_bytes(count));
        let (blocks, _) = quarters.as_chunks::<QUARTER_BYTES>().0.as_chunks();
        Self { d: &d.as_chunks().0[..count], blocks }
    }

    /// `d` of one row in block `b`.
    fn d(self, b: usize, lane: usize) -> f32 {
        f16::from_le_bytes([self.d[b][2 * lane], self.d[b][2 * lane + 1]]).to_f32()
    }
}

/// Bytes of the scales `d` of so many blocks, up to the end of a line.
fn d_bytes(blocks: usize) -> usize {
    (blocks * D_BYTES).next_multiple_of(LINE)
}

/// Bytes of a tile of so many blocks, and how many a tile of so many bytes has.
fn bytes_of(blocks: usize) -> usize {
    d_bytes(blocks) + blocks * QUARTERS * QUARTER_BYTES
}

fn blocks_of(bytes: usize) -> usize {
    bytes / (D_BYTES + QUARTERS * QUARTER_BYTES)
}

/// Bytes of a tile of rows of `cols` columns.
pub(super) fn tile_bytes(cols: usize) -> usize {
    bytes_of(cols / BLOCK)
}

/// A row as a file has it, `[cols / 256, 210]` bytes, into its lane of a tile.
pub(super) fn put_lane(row: &[u8], lane: usize, tile: &mut [u8]) {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    let (d, quarters) = tile.split_at_mut(d_bytes(blocks.len()));
    let quarters = quarters.as_chunks_mut().0.as_chunks_mut().0;
    for ((block, d), to) in blocks.iter().zip(d.as_chunks_mut().0).zip(quarters) {
        put_block(block, lane, d, to);
    }
}

/// A block of a row into its lane.
fn put_block(block: &[u8; BLOCK_BYTES], lane: usize, d: &mut [u8; D_BYTES], to: &mut TileBlock) {
    let bytes = |at: usize| u128::from_le_bytes(*block[at..].first_chunk().expect("16 bytes of a block"));
    for group in 0..BLOCK / GROUP {
        let (half, quarter, at) = place(GROUP * group);
        let low = bytes(64 * half + 32 * (quarter % 2) + at) >> (4 * (quarter / 2)) & (u128::MAX / 255 * 15);
        let high = bytes(128 + 32 * half + at) >> (2 * quarter) & (u128::MAX / 255 * 3);
        let to = &mut to[group / GROUPS];
        to[TILE_ROWS * (group % GROUPS) + lane] = block[192 + group];
        let to = &mut to[SCALES_BYTES + GROUP_BYTES * (group % GROUPS) + 4 * lane..];
        let mut put = |at: usize, word: u128| to[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
        put(0, low | low >> 32 << 4);
        put(64, low >> 64 | low >> 96 << 4);
        put(128, high | high >> 32 << 2 | high >> 64 << 4 | high >> 96 << 6);
    }
    d[2 * lane..][..2].copy_from_slice(&block[208..]);
}

/// Where column `i` of a block lies in what a file has: the half, its quarter, and the byte of that.
fn place(i: usize) -> (usize, usize, usize) {
    (i / 128, i % 128 / 32, i % 32)
}

/// The 16 codes of a group of one row, from its lane of a quarter.
fn codes(quarter: &[u8; QUARTER_BYTES], group: usize, lane: usize) -> [u8; GROUP] {
    let group = &quarter[SCALES_BYTES + GROUP_BYTES * group..][..GROUP_BYTES];
    std::array::from_fn(|i| {
        let (word, byte) = (i / 4, 4 * lane + i % 4);
        let nibbles = group[64 * (word / 2) + byte];
        let low = if word % 2 == 0 { nibbles & 15 } else { nibbles >> 4 };
        low | (group[128 + byte] >> (2 * word) & 3) << 4
    })
}

fn scale(quarter: &[u8; QUARTER_BYTES], group: usize, lane: usize) -> i8 {
    quarter[TILE_ROWS * group + lane].cast_signed()
}

/// The values of row `lane` of a tile.
pub(super) fn decode_lane(tile: &[u8], lane: usize, row: &mut [f32]) {
    let tile = Tile::new(tile);
    let quarters = row.as_chunks_mut::<GROUP>().0.chunks_exact_mut(GROUPS);
    for (i, (row, quarter)) in quarters.zip(tile.blocks.as_flattened()).enumerate() {
        for (group, row) in row.iter_mut().enumerate() {
            let scale = tile.d(i / QUARTERS, lane) * f32::from(scale(quarter, group, lane));
            let codes = codes(quarter, group, lane);
            row.iter_mut().zip(codes).for_each(|(value, code)| *value = scale * (f32::from(code) - 32.0));
        }
    }
}

/// The products of the 16 rows of a tile with `T` tokens, of as many blocks as the tile: `[token][row]`.
///
/// # Panics
/// When a token has another number of blocks.
pub(super) fn dots<const T: usize>(isa: Isa, tile: &[u8], x: [&SplitActivations; T]) -> [[f32; TILE_ROWS]; T] {
    let tile = Tile::new(tile);
    let x = x.map(|x| &x.blocks[..]);
    assert!(x.iter().all(|x| x.len() == tile.blocks.len()), "as many blocks");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Isa::Avx512Vnni => unsafe { x86::avx512(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::avx2(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { x86::avxvnni(tile, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Vnni256 => unsafe { x86::vnni256(tile, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { neon::neon(tile, x) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::dotprod(tile, x) },
        _ => portable(tile, x),
    }
}

fn portable<const T: usize>(tile: Tile<'_>, x: [&[Split]; T]) -> [[f32; TILE_ROWS]; T] {
    let mut totals = [[0f32; TILE_ROWS]; T];
    for (i, quarter) in tile.blocks.as_flattened().iter().enumerate() {
        let (b, first) = (i / QUARTERS, i % QUARTERS * GROUPS);
        for lane in 0..TILE_ROWS {
            let mut sums = [0i32; T];
            for group in 0..GROUPS {
                let codes = codes(quarter, group, lane);
                for (sum, x) in sums.iter_mut().zip(x) {
                    let at = GROUP * (first + group);
                    let products = codes.iter().enumerate().map(|(i, code)| i32::from(*code) * x[b].integer(at + i));
                    let products = x[b].offset[first + group] + products.sum::<i32>();
                    *sum += products * i32::from(scale(quarter, group, lane));
                }
            }
            for ((total, sum), x) in totals.iter_mut().zip(sums).zip(x) {
                total[lane] += sum as f32 * (tile.d(b, lane) * x[b].scale);
            }
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::row_tiles::{RowTiles, TOKENS};

    /// `n` bytes, the same every time.
    fn bytes(n: usize) -> impl Iterator<Item = u8> {
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
    }

    /// Rows whose scales and codes are anything, the extremes among them.
    fn stored(rows: usize, blocks: usize) -> Vec<u8> {
        let mut stored: Vec<u8> = bytes(rows * blocks * BLOCK_BYTES).collect();
        for (i, block) in stored.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            match i % 5 {
                1 => block[..192].fill(0),
                2 => block[..192].fill(255),
                _ => {}
            }
            if i % 3 == 1 {
                block[192..208].fill(128);
            }
            block[208..].copy_from_slice(&f16::from_f32(i as f32 * 3e-4 - 1e-2).to_le_bytes());
        }
        stored
    }

    fn tiles(stored: &[u8], cols: usize) -> Vec<u8> {
        let of_row = cols / BLOCK * BLOCK_BYTES;
        let mut tiles = vec![7; RowTiles::Q6K.bytes(stored.len() / of_row, cols)];
        RowTiles::Q6K.lay_out(stored, of_row, cols, None, &mut tiles);
        tiles
    }

    /// By the definition of the format.
    fn decode(block: &[u8; BLOCK_BYTES]) -> [f32; BLOCK] {
        std::array::from_fn(|i| {
            let (half, quarter, at) = place(i);
            let low = block[64 * half + 32 * (quarter % 2) + at] >> (4 * (quarter / 2)) & 15;
            let high = block[128 + 32 * half + at] >> (2 * quarter) & 3;
            let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
            d * f32::from(block[192 + i / GROUP].cast_signed()) * (f32::from(low | high << 4) - 32.0)
        })
    }

    fn activations(cols: usize, seed: usize) -> Vec<f32> {
        (0..cols).map(|i| ((i * 37 + seed * 11) % 201) as f32 - 100.0 + i as f32 * 1e-3).collect()
    }

    #[test]
    fn every_row_comes_back_from_its_tile() {
        for (rows, blocks) in [(1, 1), (16, 2), (37, 3)] {
            let (stored, cols) = (stored(rows, blocks), BLOCK * blocks);
            let tiles = tiles(&stored, cols);
            let of_tile = tile_bytes(cols);
            for (n, row) in stored.chunks_exact(BLOCK_BYTES * blocks).enumerate() {
                let expected: Vec<f32> = row.as_chunks().0.iter().flat_map(decode).collect();
                let mut found = vec![0.0; cols];
                decode_lane(&tiles[n / TILE_ROWS * of_tile..][..of_tile], n % TILE_ROWS, &mut found);
                assert_eq!(found, expected, "row {n} of {rows}");
            }
        }
    }

    #[test]
    fn products_are_those_of_the_values_and_the_same_on_every_instruction_set() {
        let (stored, cols) = (stored(16, 3), 3 * BLOCK);
        let tile = tiles(&stored, cols);
        let mut x: Vec<Vec<f32>> = (0..TOKENS).map(|seed| activations(cols, seed)).collect();
        x[1].fill(8128.0);
        x[2].fill(-8128.0);
        x[3][300..320].fill(0.0);
        let split: Vec<SplitActivations> = x.iter().map(|x| SplitActivations::new(x)).collect();
        let all = dots(Isa::Scalar, &tile, std::array::from_fn::<_, TOKENS, _>(|t| &split[t]));
        for (t, row) in (0..TOKENS).flat_map(|t| (0..TILE_ROWS).map(move |row| (t, row))) {
            let mut values = vec![0.0; cols];
            decode_lane(&tile, row, &mut values);
            let of = |i: usize| (f64::from(values[i]) * f64::from(x[t][i]), f64::from(values[i]) * split[t].value(i));
            let (exact, taken) = (0..cols).map(of).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
            let size: f64 = (0..cols).map(|i| of(i).0.abs()).sum();
            assert!((f64::from(all[t][row]) - taken).abs() <= 1e-5 * size, "{} {taken}", all[t][row]);
            assert!((exact - taken).abs() <= 1e-3 * size, "{exact} {taken}");
        }
        for isa in Isa::available() {
            assert_eq!(dots(isa, &tile, std::array::from_fn::<_, TOKENS, _>(|t| &split[t])), all, "{isa}");
            for t in 0..TOKENS {
                assert_eq!(dots(isa, &tile, [&split[t]])[0], all[t], "{isa}, token {t} alone");
            }
        }
    }

    #[test]
    fn what_is_not_finite_gives_nan() {
        let tile = tiles(&stored(16, 1), BLOCK);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = activations(BLOCK, 0);
            x[7] = bad;
            for isa in Isa::available() {
                assert!(dots(isa, &tile, [&SplitActivations::new(&x)])[0].iter().all(|y| y.is_nan()), "{isa}");
            }
        }
    }
}
