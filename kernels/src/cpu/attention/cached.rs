//! One attention step over a KV cache, for the tokens of any number of sequences.

use super::{AttentionShape, attention};
use crate::cpu::isa::Isa;
use crate::cpu::kv_cache::{CacheShape, CacheSide};
use crate::cpu::rope;

/// Tokens that follow each other in a sequence and in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The sequence of the cache.
    pub slot: usize,
    /// Position of the first one.
    pub start: usize,
    /// Number of the first one among the tokens of the call.
    pub first: usize,
    /// How many.
    pub tokens: usize,
}

/// The runs of a call whose tokens have these places (`[tokens, 2]`: slot, position).
pub fn runs(places: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (first, [slot, position]) in places.as_chunks::<2>().0.iter().enumerate() {
        let (slot, start) = (*slot as usize, *position as usize);
        match runs.last_mut() {
            Some(run) if run.slot == slot && run.start + run.tokens == start => run.tokens += 1,
            _ => runs.push(Run { slot, start, first, tokens: 1 }),
        }
    }
    runs
}

/// What an attention step reads besides the cache.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// `[tokens, heads, head_dim]`, not rotated.
    pub q: &'a [f32],
    /// `[tokens, kv_heads, head_dim]`, not rotated.
    pub k: &'a [f32],
    /// As `k`.
    pub v: &'a [f32],
    /// `[positions, half]`.
    pub cos: &'a [f32],
    /// As `cos`.
    pub sin: &'a [f32],
    /// `[tokens, 2]`: slot and position.
    pub places: &'a [u32],
    /// Query heads.
    pub heads: usize,
    /// Pairs of elements that turn.
    pub half: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

impl Step<'_> {
    /// Writes the rotated keys to `keys`.
    pub fn write_keys(&self, isa: Isa, cache: CacheShape, keys: &mut [u32]) {
        let mut k = self.k.to_vec();
        self.rotate(isa, &mut k, cache.kv_heads, cache.head_dim);
        self.write(CacheSide::Keys, cache, &k, keys);
    }

    /// Writes the values to `values`.
    pub fn write_values(&self, cache: CacheShape, values: &mut [u32]) {
        self.write(CacheSide::Values, cache, self.v, values);
    }

    /// Attention over what has been written, in the shape of `q`.
    pub fn attend(&self, isa: Isa, cache: CacheShape, keys: &[u32], values: &[u32], out: &mut [f32]) {
        let mut q = self.q.to_vec();
        self.rotate(isa, &mut q, self.heads, cache.head_dim);
        let of_slot = cache.kv_heads * cache.head_words();
        let width = self.heads * cache.head_dim;
        for Run { slot, start, first, tokens } in runs(self.places) {
            let (own, part) = (slot * of_slot..(slot + 1) * of_slot, first * width..(first + tokens) * width);
            let shape = AttentionShape { tokens, heads: self.heads, start };
            let one = CacheShape { batch: 1, ..cache };
            let (keys, values) = (&keys[own.clone()], &values[own]);
            attention(isa, &q[part.clone()], keys, values, one, shape, self.scale, &mut out[part]);
        }
    }

    fn rotate(&self, isa: Isa, x: &mut [f32], heads: usize, head_dim: usize) {
        let width = heads * head_dim;
        for Run { start, first, tokens, .. } in runs(self.places) {
            let x = &mut x[first * width..(first + tokens) * width];
            rope::rotate(isa, x, [1, tokens, heads, head_dim], self.cos, self.sin, self.half, start);
        }
    }

    fn write(&self, side: CacheSide, cache: CacheShape, x: &[f32], words: &mut [u32]) {
        let of_slot = cache.kv_heads * cache.head_words();
        let width = cache.kv_heads * cache.head_dim;
        for Run { slot, start, first, tokens } in runs(self.places) {
            let words = &mut words[slot * of_slot..(slot + 1) * of_slot];
            let x = &x[first * width..(first + tokens) * width];
            CacheShape { batch: 1, ..cache }.write(side, x, start, words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_sequence_are_a_run() {
        let run = |slot, start, first, tokens| Run { slot, start, first, tokens };
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[0, 7]), [run(0, 7, 0, 1)]);
        assert_eq!(
            runs(&[2, 0, 2, 1, 0, 2, 0, 3, 0, 5, 1, 6]),
            [run(2, 0, 0, 2), run(0, 2, 2, 2), run(0, 5, 4, 1), run(1, 6, 5, 1)]
        );
    }
}
