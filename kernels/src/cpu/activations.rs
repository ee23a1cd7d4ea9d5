//! Int8 activations, laid out for the kernels.
//!
//! A kernel multiplies one word of each of 16 rows (see [`super::tiles`]) by the 16 activations of its columns, four at a
//! time, for a block of up to 12 tokens. So the codes of a block lie as it takes them: for each word `k` and each plane `p`,
//! one 32-bit lane a token, with the columns `16 k + p`, `+ 4`, `+ 8` and `+ 12` in its bytes.
//!
//! ```text
//! block of T tokens     k = 0: p = 0: token 0 .. token T-1 | p = 1: token 0 .. | p = 2: .. | p = 3: ..     k = 1: ..
//! ```

use std::cell::Cell;

use bitnet_ternary::quantize::absmax_int8;

use super::base3;
use super::isa::{Isa, on_each_isa};
use super::parallel::{self, Parts};

/// Quantized activations of some tokens.
pub(crate) struct Activations {
    /// Four codes each, in the order above, block after block. Columns that are not there are zero.
    lanes: Vec<u32>,
    /// `[tokens]`: what each token was multiplied by, `127 / max(max|x|, 1e-5)`.
    scales: Vec<f32>,
    /// `[tokens, segments]`: the sum of the codes of each segment.
    sums: Vec<i32>,
    blocks: Vec<Block>,
    cols: usize,
    segment: usize,
}

/// Some neighbouring tokens that meet the weights together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: usize,
    pub(crate) tokens: usize,
}

impl Activations {
    /// Quantizes `tokens` rows of `cols` values by absmax; `row` writes the values of one. `segment` is the number of
    /// columns that are summed as one integer.
    pub(crate) fn quantize(
        isa: Isa,
        tokens: usize,
        cols: usize,
        segment: usize,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let codes = |token: usize, values: &mut [f32], codes: &mut [i8]| {
            row(token, values);
            absmax(isa, values, codes)
        };
        Self::fill(isa, tokens, cols, segment, codes)
    }

    /// Lays out codes that are there already (`[tokens, cols]`), with a scale of one.
    pub(crate) fn from_codes(isa: Isa, given: &[i8], tokens: usize, cols: usize, segment: usize) -> Self {
        Self::from_quantized(isa, given, &vec![1.0; tokens], tokens, cols, segment)
    }

    /// Lays out codes that are there already (`[tokens, cols]`), with the scale of each token.
    pub(crate) fn from_quantized(
        isa: Isa,
        given: &[i8],
        scale: &[f32],
        tokens: usize,
        cols: usize,
        segment: usize,
    ) -> Self {
        let codes = |token: usize, _: &mut [f32], codes: &mut [i8]| {
            codes.copy_from_slice(&given[token * cols..][..cols]);
            scale[token]
        };
        Self::fill(isa, tokens, cols, segment, codes)
    }

    fn fill(
        isa: Isa,
        tokens: usize,
        cols: usize,
        segment: usize,
        codes_of: impl Fn(usize, &mut [f32], &mut [i8]) -> f32 + Sync,
    ) -> Self {
        let (words, segment) = (words(cols), segment.clamp(1, cols.max(1)));
        let segments = cols.div_ceil(segment);
        let mut lanes = vec![0u32; tokens * words * 4];
        let (mut scales, mut sums) = (vec![0f32; tokens], vec![0i32; tokens * segments]);
        let blocks = blocks(isa, tokens);
        {
            let (lanes, scales, sums) = (Parts::new(&mut lanes), Parts::new(&mut scales), Parts::new(&mut sums));
            parallel::tasks(blocks.len(), 8 * tokens * cols, |i| {
                let Block { first, tokens } = blocks[i];
                let end = first + tokens;
                // SAFETY: no two blocks have a token in common.
                let (lanes, scales, sums) = unsafe {
                    (
                        lanes.slice(first * words * 4, end * words * 4),
                        scales.slice(first, end),
                        sums.slice(first * segments, end * segments),
                    )
                };
                with_scratch(cols, words * 16, |values, codes| {
                    codes[cols..].fill(0);
                    for t in 0..tokens {
                        scales[t] = codes_of(first + t, values, &mut codes[..cols]);
                        for (sum, codes) in sums[t * segments..].iter_mut().zip(codes[..cols].chunks(segment)) {
                            *sum = total(isa, codes);
                        }
                        spread(isa, codes, lanes, t, tokens);
                    }
                });
            });
        }
        Self { lanes, scales, sums, blocks, cols, segment }
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The lanes of a block for the words `first..end`.
    pub(crate) fn lanes(&self, block: Block, first: usize, end: usize) -> &[u32] {
        let words = words(self.cols);
        let start = block.first * words * 4;
        &self.lanes[start + first * 4 * block.tokens..start + end * 4 * block.tokens]
    }

    pub(crate) fn sum(&self, token: usize, segment: usize) -> i32 {
        self.sums[token * self.segments() + segment]
    }

    pub(crate) fn scale(&self, token: usize) -> f32 {
        self.scales[token]
    }

    pub(crate) fn tokens(&self) -> usize {
        self.scales.len()
    }

    /// Columns that are summed as one integer.
    pub(crate) fn segment(&self) -> usize {
        self.segment
    }

    pub(crate) fn segments(&self) -> usize {
        self.cols.div_ceil(self.segment)
    }
}

/// Calls `f` with so many values and codes, of no particular value, which this thread keeps for the next call.
fn with_scratch<R>(values: usize, codes: usize, f: impl FnOnce(&mut [f32], &mut [i8]) -> R) -> R {
    thread_local! {
        static SCRATCH: Cell<(Vec<f32>, Vec<i8>)> = const { Cell::new((Vec::new(), Vec::new())) };
    }
    let mut scratch = SCRATCH.take();
    if scratch.0.len() < values {
        scratch.0.resize(values, 0.0);
    }
    if scratch.1.len() < codes {
        scratch.1.resize(codes, 0);
    }
    let result = f(&mut scratch.0[..values], &mut scratch.1[..codes]);
    SCRATCH.set(scratch);
    result
}

/// Words of a row with its padding: whole groups of the denser order too.
fn words(cols: usize) -> usize {
    cols.div_ceil(16).next_multiple_of(base3::CANONICAL)
}

/// The sizes of blocks that the kernels of an instruction set are written for, largest first: as many tokens as leave
/// room for their sums in the registers.
pub(crate) fn block_sizes(isa: Isa) -> &'static [usize] {
    match isa {
        Isa::Avx512Vnni => &[12, 8, 4, 2, 1],
        Isa::Avx2 | Isa::AvxVnni | Isa::Vnni256 => &[6, 4, 2, 1],
        Isa::NeonI8mm => &[8, 4, 2, 1],
        Isa::Simd128 => &[2, 1],
        Isa::Scalar | Isa::Neon | Isa::NeonDotprod => &[4, 2, 1],
    }
}

fn blocks(isa: Isa, tokens: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut first = 0;
    for size in block_sizes(isa) {
        while tokens - first >= *size {
            blocks.push(Block { first, tokens: *size });
            first += size;
        }
    }
    blocks
}

on_each_isa! {
    fn absmax(x: &[f32], codes: &mut [i8]) -> f32 = absmax_int8
}

on_each_isa! {
    fn total(codes: &[i8]) -> i32 = |codes: &[i8]| codes.iter().map(|x| i32::from(*x)).sum()
}

on_each_isa! {
    /// Writes the codes of token `t` of a block of `tokens` to their places.
    fn spread(codes: &[i8], lanes: &mut [u32], t: usize, tokens: usize) = spread_body
}

#[inline(always)]
fn spread_body(codes: &[i8], lanes: &mut [u32], t: usize, tokens: usize) {
    for (c, lanes) in codes.as_chunks::<16>().0.iter().zip(lanes.chunks_exact_mut(4 * tokens)) {
        let c = c.map(i8::cast_unsigned);
        for p in 0..4 {
            lanes[p * tokens + t] = u32::from_le_bytes([c[p], c[p + 4], c[p + 8], c[p + 12]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_all_tokens_in_order() {
        for isa in Isa::available() {
            for tokens in 0..70 {
                let mut next = 0;
                for block in blocks(isa, tokens) {
                    assert!(block.first == next && block_sizes(isa).contains(&block.tokens));
                    next += block.tokens;
                }
                assert_eq!(next, tokens);
            }
        }
    }

    #[test]
    fn every_code_is_where_the_kernels_look_for_it() {
        let (tokens, cols) = (15, 37);
        let codes: Vec<i8> = (0..tokens * cols).map(|i| (i * 89 % 255) as u8 as i8).collect();
        for isa in Isa::available() {
            let acts = Activations::from_codes(isa, &codes, tokens, cols, 16);
            for block in acts.blocks() {
                let lanes = acts.lanes(*block, 0, 3);
                for (t, col) in (0..block.tokens).flat_map(|t| (0..48).map(move |col| (t, col))) {
                    let lane = lanes[(col / 16 * 4 + col % 4) * block.tokens + t];
                    let code = lane.to_le_bytes()[col / 4 % 4] as i8;
                    let token = block.first + t;
                    assert_eq!(code, if col < cols { codes[token * cols + col] } else { 0 });
                    if col < cols && col % 16 == 0 {
                        let segment = &codes[token * cols + col..][..16.min(cols - col)];
                        assert_eq!(acts.sum(token, col / 16), segment.iter().map(|x| i32::from(*x)).sum::<i32>());
                    }
                }
            }
        }
    }
}
