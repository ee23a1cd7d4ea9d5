//! Scales stored beside each block or row: reading many, keeping one where one will do, and writing them back.

use half::f16;

use super::Packing;
use crate::crumbs::ZERO_TRITS;
use crate::scale::is_scale;
use crate::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix};

/// Collects the scales of a tensor block by block and notes whether they are all one.
pub(super) struct BlockScales {
    packing: Packing,
    values: Vec<f32>,
    /// The scale that all blocks so far share, if any block so far has told one.
    common: Option<f32>,
    uniform: bool,
}

impl BlockScales {
    pub(super) fn new(packing: Packing, blocks: usize) -> Self {
        Self { packing, values: Vec::with_capacity(blocks), common: None, uniform: true }
    }

    /// Adds the scale that was stored at byte `offset` for the block with these codes.
    ///
    /// A zero beside nothing but zero trits tells nothing: writers put it there for want of a magnitude. A zero beside
    /// other trits makes zeros of them, and so differs from any other scale.
    pub(super) fn push(&mut self, value: f32, offset: usize, words: &[u32]) -> Result<(), TernaryError> {
        if !is_scale(value) {
            return Err(TernaryError::PackedScale { packing: self.packing, offset, value });
        }
        if value != 0.0 || !all_zero(words) {
            self.uniform &= *self.common.get_or_insert(value) == value;
        }
        self.values.push(value);
        Ok(())
    }

    /// One scale for the tensor if all blocks agree (zero if none tells), otherwise what `finer` makes of the values.
    pub(super) fn finish(self, finer: impl FnOnce(Vec<f32>) -> Scale) -> Scale {
        if self.uniform { Scale::Tensor(self.common.unwrap_or(0.0)) } else { finer(self.values) }
    }
}

fn all_zero(words: &[u32]) -> bool {
    words.iter().all(|word| *word == ZERO_TRITS)
}

/// The little-endian f16 at the start of `bytes`.
pub(super) fn read_f16(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The little-endian f32 at the start of `bytes`.
pub(super) fn read_f32(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The matrix cut into blocks of `block` columns (a multiple of 16 that divides the row, or the whole row), with the
/// scale to store for each: 0 for a block of zeros.
///
/// # Errors
/// When non-zero trits of a block have several scales.
pub(super) fn blocks<'a>(
    packing: Packing,
    matrix: &'a TernaryMatrix,
    block: usize,
    holds: &'static str,
) -> Result<impl Iterator<Item = (&'a [u32], f32)>, TernaryError> {
    let (scale, cols) = (matrix.scale(), matrix.cols());
    let not_held = || TernaryError::ScaleNotHeld { packing, granularity: scale.granularity(), holds };
    // Columns that surely have one scale: the block, or groups in it, which may still agree.
    let step = match scale {
        _ if scale.is_constant_in_blocks(block, cols) => block,
        Scale::Group { size, .. } if size.is_multiple_of(CODES_PER_WORD) && block.is_multiple_of(*size) => *size,
        _ => return Err(not_held()),
    };
    let per_row = cols / block;
    let common = move |(index, words): (usize, &'a [u32])| {
        let (row, col) = (index / per_row, index % per_row * block);
        let mut found = None;
        for (part, words) in words.chunks(step / CODES_PER_WORD).enumerate() {
            let value = scale.at(row, col + part * step, cols);
            if !all_zero(words) && *found.get_or_insert(value) != value {
                return None;
            }
        }
        Some((words, found.unwrap_or(0.0)))
    };
    let blocks = matrix.words().chunks_exact(block / CODES_PER_WORD).enumerate().map(common);
    Ok(blocks.collect::<Option<Vec<_>>>().ok_or_else(not_held)?.into_iter())
}

/// The nearest f16, unless that is infinite, or zero though the scale is not.
pub(super) fn f16_bytes(packing: Packing, value: f32) -> Result<[u8; 2], TernaryError> {
    let nearest = f16::from_f32(value);
    if nearest.is_infinite() || (nearest == f16::ZERO && value != 0.0) {
        return Err(TernaryError::ScaleOutOfRange { packing, value });
    }
    Ok(nearest.to_le_bytes())
}
