#![doc = include_str!("../../docs/i2_s.md")]

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
