//! Activations in two bytes each.
//!
//! An activation is taken as an integer of 14 bits, with one scale for the 256 of a block, and meets codes of up to eight bits
//! in 32-bit lanes:
//!
//! ```text
//! x ≈ s * (64 * high + low)     s = max|x| / 8128
//! ```

/// Activations that share a scale.
pub(super) const BLOCK: usize = 256;

/// Weights that share a scale where the fewest do.
const GROUP: usize = 16;

/// Largest magnitude of an activation's integer: its high byte stays within 127.
const LARGEST: f32 = 8_128.0;

/// The activations of one token.
pub(crate) struct SplitActivations {
    /// One for each block.
    pub(super) blocks: Vec<Split>,
}

/// 256 activations in two bytes each.
#[repr(C, align(64))]
pub(super) struct Split {
    pub(super) high: [i8; BLOCK],
    pub(super) low: [i8; BLOCK],
    /// `-32 * sum(64 high + low)` of each 16: what the offset of the weights makes of them.
    pub(super) offset: [i32; BLOCK / GROUP],
    /// `-32 * sum(high)` and `-32 * sum(low)` of each 16, of the first and of the second two of every four.
    #[cfg(target_arch = "x86_64")]
    pub(super) pairs: [[[i16; 2]; 2]; BLOCK / GROUP],
    pub(super) scale: f32,
}

impl SplitActivations {
    /// From whole blocks of activations.
    pub(crate) fn new(x: &[f32]) -> Self {
        Self { blocks: x.as_chunks::<BLOCK>().0.iter().map(Split::new).collect() }
    }

    /// What activation `i` is taken for.
    pub(crate) fn value(&self, i: usize) -> f64 {
        let block = &self.blocks[i / BLOCK];
        f64::from(block.scale) * f64::from(block.integer(i % BLOCK))
    }
}

impl Split {
    fn new(x: &[f32; BLOCK]) -> Self {
        let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
        // What is computed from NaN or infinity shall be NaN.
        let finite = x.iter().all(|x| x.is_finite());
        let factor = if finite && largest > 0.0 { LARGEST / largest } else { 0.0 };
        let mut split = Self {
            high: [0; BLOCK],
            low: [0; BLOCK],
            offset: [0; _],
            #[cfg(target_arch = "x86_64")]
            pairs: [[[0; 2]; 2]; _],
            scale: largest / LARGEST,
        };
        if !finite {
            split.scale = f32::NAN;
        }
        for (i, x) in x.iter().enumerate() {
            let code = (x * factor).round_ties_even() as i32;
            let high = (code + 32) >> 6;
            split.high[i] = high as i8;
            split.low[i] = (code - 64 * high) as i8;
            split.offset[i / GROUP] -= 32 * code;
            #[cfg(target_arch = "x86_64")]
            for (pairs, value) in split.pairs[i / GROUP].iter_mut().zip([split.high[i], split.low[i]]) {
                pairs[i % 4 / 2] -= 32 * i16::from(value);
            }
        }
        split
    }

    pub(super) fn integer(&self, i: usize) -> i32 {
        64 * i32::from(self.high[i]) + i32::from(self.low[i])
    }
}
