//! I2_S, the format of bitnet.cpp (GGUF tensor type 36), and the two layouts that share its name.
//!
//! A tensor of N rows and K columns is N * K / 4 bytes of codes, then one f32 scale (which multiplies), then 28 bytes
//! that mean nothing: N * K / 4 + 32 in all.
//!
//! ```text
//!   0                      N*K/4      +4                     +32
//!   | codes ...              | f32 scale | 28 bytes of padding |
//! ```
//!
//! # The layout of official files
//!
//! The flattened tensor is cut into blocks of 128 elements, 32 bytes each. A byte holds four elements that lie 32
//! apart, the first of them in the *high* bits. Element `e` of a block is in byte `e % 32`, at bit `6 - 2 * (e / 32)`:
//!
//! ```text
//!   bits       7:6      5:4      3:2      1:0
//!   byte  0     0        32       64       96
//!   byte  1     1        33       65       97
//!    ...
//!   byte 31     31       63       95       127
//! ```
//!
//! Blocks take no notice of rows: if K is no multiple of 128, a row may begin in the middle of one. Nothing can be said
//! of a tensor whose element count is no multiple of 128: the quantizer of bitnet.cpp leaves the last, partial block
//! out of such a tensor, so its weights are lost, and the shape is refused here.
//!
//! Worked example, `t(0..128)`: the first eight bytes are `26 64 44 48 89 99 91 12`. The first is 00 10 01 10, the codes
//! 0, 2, 1, 2 of elements 0, 32, 64 and 96.
//!
//! # Blocks of 64
//!
//! Files *quantized* by an ARM build of bitnet.cpp since November 2025 have blocks of 64 elements in 16 bytes, with
//! elements 16 apart in a byte: byte `e % 16`, bit `6 - 2 * (e / 16)`. Nothing in a file tells the two apart, and the
//! wrong choice permutes the columns within every 128, so the reader has to be told. `t(0..64)` begins
//! `09 4a 42 52 90 94 a4 25`.
//!
//! # Four rows a byte
//!
//! x86 builds compiled without `ACT_PARALLEL` put four neighbouring rows of one column in a byte: byte
//! `(n / 4) * K + k`, bit `6 - 2 * (n % 4)`. `t(0..16)` as 4 rows of 4 columns is `21 62 66 46`.

use super::Packing;
use super::block_scale::read_f32;
use crate::crumbs;
use crate::fresh::zeroed_words;
use crate::realign;
use crate::scale::is_scale;
use crate::wide::Wide;
use crate::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix, words_per_row};

/// Elements a block in official files.
pub(super) const BLOCK: usize = 128;
/// Elements a block in files quantized on ARM.
pub(super) const ARM_BLOCK: usize = 64;
/// Bytes after the codes: the scale and padding.
pub(super) const TAIL: usize = 32;

/// Codes in canonical order and the scale, from blocks of `BLOCK` elements.
pub(super) fn decode<const BLOCK: usize>(
    packing: Packing,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<(Vec<u32>, Scale), TernaryError> {
    let (codes, scale) = split_tail(packing, bytes)?;
    let mut words = zeroed_words(rows * cols / CODES_PER_WORD);
    Split::<BLOCK> { codes, words: &mut words }.run_widened();
    // So far the words run on from row to row, which is canonical only if rows are whole words.
    let words = if cols.is_multiple_of(CODES_PER_WORD) { words } else { realign::to_rows(&words, rows, cols) };
    Ok((words, scale))
}

/// Blocks of `BLOCK` elements, and where their words go.
struct Split<'a, const BLOCK: usize> {
    codes: &'a [u8],
    words: &'a mut [u32],
}

impl<const BLOCK: usize> Wide for Split<'_, BLOCK> {
    #[inline(always)]
    fn run(self) {
        // A block has `step` words to each plane, and `step` chunks of 16 bytes with one word of each plane.
        let step = BLOCK / 64;
        for (block, out) in self.codes.chunks_exact(BLOCK / 4).zip(self.words.chunks_exact_mut(4 * step)) {
            for (i, chunk) in block.as_chunks::<16>().0.iter().enumerate() {
                // The first elements are in the high bits, so the last plane comes first.
                let [d, c, b, a] = crumbs::planes(chunk);
                out[i] = a;
                out[step + i] = b;
                out[2 * step + i] = c;
                out[3 * step + i] = d;
            }
        }
    }
}

/// Appends blocks of `BLOCK` elements and the tail.
pub(super) fn encode<const BLOCK: usize>(
    packing: Packing,
    matrix: &TernaryMatrix,
    bytes: &mut Vec<u8>,
) -> Result<(), TernaryError> {
    let scale = tensor_scale(packing, matrix)?;
    let flat;
    let words = if matrix.cols().is_multiple_of(CODES_PER_WORD) {
        matrix.words()
    } else {
        flat = realign::to_flat(matrix.words(), matrix.rows(), matrix.cols());
        &flat
    };
    let step = BLOCK / 64;
    for block in words.chunks_exact(4 * step) {
        for i in 0..step {
            let planes = [block[3 * step + i], block[2 * step + i], block[step + i], block[i]];
            bytes.extend_from_slice(&crumbs::join(planes));
        }
    }
    push_tail(scale, bytes);
    Ok(())
}

/// Codes in canonical order and the scale, from bytes of four neighbouring rows.
pub(super) fn decode_four_rows(
    packing: Packing,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<(Vec<u32>, Scale), TernaryError> {
    let (codes, scale) = split_tail(packing, bytes)?;
    let per_row = words_per_row(cols);
    let mut words = zeroed_words(rows * per_row);
    for (packed, out) in codes.chunks_exact(cols).zip(words.chunks_exact_mut(4 * per_row)) {
        let (low, high) = out.split_at_mut(2 * per_row);
        let ((a, b), (c, d)) = (low.split_at_mut(per_row), high.split_at_mut(per_row));
        crumbs::split_row(packed, [d, c, b, a]);
    }
    Ok((words, scale))
}

/// Appends bytes of four neighbouring rows and the tail.
pub(super) fn encode_four_rows(
    packing: Packing,
    matrix: &TernaryMatrix,
    bytes: &mut Vec<u8>,
) -> Result<(), TernaryError> {
    let scale = tensor_scale(packing, matrix)?;
    let per_row = words_per_row(matrix.cols());
    for rows in matrix.words().chunks_exact(4 * per_row) {
        let row = |n: usize| &rows[n * per_row..][..per_row];
        crumbs::join_rows([row(3), row(2), row(1), row(0)], matrix.cols(), bytes);
    }
    push_tail(scale, bytes);
    Ok(())
}

/// The codes, and the scale behind them.
fn split_tail(packing: Packing, bytes: &[u8]) -> Result<(&[u8], Scale), TernaryError> {
    let offset = bytes.len() - TAIL;
    let (codes, tail) = bytes.split_at(offset);
    let value = read_f32(tail);
    if !is_scale(value) {
        return Err(TernaryError::PackedScale { packing, offset, value });
    }
    Ok((codes, Scale::Tensor(value)))
}

fn tensor_scale(packing: Packing, matrix: &TernaryMatrix) -> Result<f32, TernaryError> {
    match matrix.scale() {
        Scale::Tensor(value) => Ok(*value),
        finer => Err(TernaryError::ScaleNotHeld {
            packing,
            granularity: finer.granularity(),
            holds: "it stores one scale for the tensor",
        }),
    }
}

fn push_tail(scale: f32, bytes: &mut Vec<u8>) {
    let mut tail = [0; TAIL];
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    bytes.extend_from_slice(&tail);
}
