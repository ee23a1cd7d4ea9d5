//! How keys and values lie in a KV cache.
//!
//! The cache of one head is a row of blocks of 16 positions, in 32-bit words. A block of keys has the positions side by
//! side, so that 16 scores grow together and no sum crosses lanes; a block of values has 32 values of each position in a
//! row, so that the threads can share a head by its elements, each reading in one line.
//!
//! ```text
//! keys    [head_dim][16 positions]      values    [head_dim / 32][16 positions][32]
//! ```
//!
//! An int8 block begins with 16 scales in f32, one a position: a value is `code * scale`, with `scale = max|x| / 127`.

use std::fmt;
use std::str::FromStr;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::parallel::{self, Parts};

/// Positions of a block.
pub const BLOCK: usize = 16;

/// Values of a position that lie together; the last of a head can be fewer.
pub const VALUES: usize = 32;

/// How a KV cache stores its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CacheFormat {
    /// As they come, 4 bytes a value.
    F32,
    /// IEEE half precision, 2 bytes a value.
    #[default]
    F16,
    /// 8-bit codes with a scale for each position and head.
    Int8,
}

impl CacheFormat {
    /// All formats.
    pub const ALL: [CacheFormat; 3] = [CacheFormat::F32, CacheFormat::F16, CacheFormat::Int8];

    /// The name that [`FromStr`] takes.
    pub fn name(self) -> &'static str {
        match self {
            CacheFormat::F32 => "f32",
            CacheFormat::F16 => "f16",
            CacheFormat::Int8 => "int8",
        }
    }

    /// 32-bit words of a block of 16 positions of keys, or of values, of one head.
    pub fn block_words(self, head_dim: usize) -> usize {
        match self {
            CacheFormat::F32 => 16 * head_dim,
            CacheFormat::F16 => 8 * head_dim,
            CacheFormat::Int8 => 16 + 4 * head_dim,
        }
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CacheFormat {
    type Err = UnknownCacheFormat;

    fn from_str(name: &str) -> Result<Self, UnknownCacheFormat> {
        Self::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| UnknownCacheFormat(name.to_string()))
    }
}

/// No cache format has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cache format: f32, f16 or int8")]
pub struct UnknownCacheFormat(String);

/// Sizes of the keys, or of the values, of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Sequences side by side.
    pub batch: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Blocks of 16 positions that each head has room for.
    pub blocks: usize,
    /// How values are stored.
    pub format: CacheFormat,
}

/// Whether positions lie side by side (keys) or one after the other (values).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheSide {
    /// `[head_dim][16 positions]`.
    Keys,
    /// `[head_dim / 32][16 positions][32]`.
    Values,
}

impl CacheShape {
    /// 32-bit words of all keys, or of all values.
    pub fn words(&self) -> usize {
        self.batch * self.kv_heads * self.head_words()
    }

    /// Words of one head.
    pub(crate) fn head_words(&self) -> usize {
        self.blocks * self.format.block_words(self.head_dim)
    }

    /// Writes `x` (`[batch, tokens, kv_heads, head_dim]`) to the positions from `start` on.
    ///
    /// # Panics
    /// When a slice does not have the length that the shape says, or there is no room for so many positions.
    pub fn write(&self, side: CacheSide, x: &[f32], start: usize, cache: &mut [u32]) {
        let Self { batch, kv_heads, head_dim, blocks, format } = *self;
        assert_eq!(cache.len(), self.words(), "cache");
        let of_token = kv_heads * head_dim;
        let tokens = x.len() / (batch * of_token).max(1);
        assert_eq!(x.len(), batch * tokens * of_token, "keys or values");
        assert!(start + tokens <= blocks * BLOCK, "the cache has room for {} positions", blocks * BLOCK);
        let heads = Parts::new(cache);
        parallel::tasks(batch * kv_heads, 4 * x.len(), |i| {
            // SAFETY: each task has the words of its own head.
            let head = unsafe { heads.slice(i * self.head_words(), (i + 1) * self.head_words()) };
            for token in 0..tokens {
                let row = &x[((i / kv_heads * tokens + token) * kv_heads + i % kv_heads) * head_dim..][..head_dim];
                let (block, lane) = ((start + token) / BLOCK, (start + token) % BLOCK);
                let words = format.block_words(head_dim);
                put(format, side, row, &mut head[block * words..][..words], lane);
            }
        });
    }
}

/// Writes one position of a block.
fn put(format: CacheFormat, side: CacheSide, row: &[f32], block: &mut [u32], lane: usize) {
    let at = |d: usize| match side {
        CacheSide::Keys => d * BLOCK + lane,
        CacheSide::Values => {
            let first = d / VALUES * VALUES;
            first * BLOCK + lane * VALUES.min(row.len() - first) + d - first
        }
    };
    match format {
        CacheFormat::F32 => row.iter().enumerate().for_each(|(d, x)| block[at(d)] = x.to_bits()),
        CacheFormat::F16 => {
            let halves: &mut [u16] = bytemuck::cast_slice_mut(block);
            let mut part = [f16::ZERO; VALUES];
            for (i, row) in row.chunks(VALUES).enumerate() {
                let part = &mut part[..row.len()];
                part.convert_from_f32_slice(row);
                part.iter().enumerate().for_each(|(d, x)| halves[at(i * VALUES + d)] = x.to_bits());
            }
        }
        CacheFormat::Int8 => {
            let (scales, codes) = block.split_at_mut(BLOCK);
            let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
            let largest = row.iter().fold(0f32, |a, x| a.max(x.abs()));
            let scale = largest / 127.0;
            scales[lane] = scale.to_bits();
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            row.iter().enumerate().for_each(|(d, x)| codes[at(d)] = (x * inverse).round_ties_even() as i8);
        }
    }
}
