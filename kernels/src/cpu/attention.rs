//! Causal grouped-query attention over a KV cache.

use super::isa::Isa;
use super::{lanes, parallel};

/// Sizes of one attention call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences side by side.
    pub batch: usize,
    /// Query tokens of each sequence.
    pub tokens: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; query head `h` reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Position of the first query token; token `t` sees positions `0..=start + t`.
    pub start: usize,
}

/// `softmax(q k^T * scale) v` for `q` and `out` of shape `[batch, tokens, heads, head_dim]`, `k` and `v` of shape
/// `[batch, kv_heads, capacity, head_dim]`; positions from `start + tokens` on are never read.
///
/// Source: Vaswani et al. (arXiv 1706.03762), eq. 1; grouped queries: Ainslie et al. (arXiv 2305.13245).
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that `shape` says.
pub fn attention(isa: Isa, q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape, scale: f32, out: &mut [f32]) {
    isa.check();
    let AttentionShape { batch, tokens, heads, kv_heads, head_dim, capacity, start } = shape;
    let cache_len = batch * kv_heads * capacity * head_dim;
    assert_eq!(q.len(), batch * tokens * heads * head_dim, "queries");
    assert_eq!(out.len(), q.len(), "output");
    assert_eq!((k.len(), v.len()), (cache_len, cache_len), "cache");
    assert!(start + tokens <= capacity, "the cache has room for {capacity} positions, not {}", start + tokens);
    let work = 2 * q.len() * (start + tokens);
    parallel::chunks(out, head_dim.max(1), work, |i, out| {
        let (head, token, sequence) = (i % heads, i / heads % tokens, i / heads / tokens);
        let positions = start + token + 1;
        let at = (sequence * kv_heads + head / (heads / kv_heads)) * capacity * head_dim;
        let (k, v) = (&k[at..][..positions * head_dim], &v[at..][..positions * head_dim]);
        let q = &q[i * head_dim..][..head_dim];

        let mut scores: Vec<f32> = k.chunks_exact(head_dim).map(|k| lanes::dot(isa, q, k) * scale).collect();
        let total = softmax_numerators(&mut scores);
        out.fill(0.0);
        for (p, v) in scores.iter().zip(v.chunks_exact(head_dim)) {
            lanes::axpy(isa, p / total, v, out);
        }
    });
}

/// Replaces each score by `exp(score - max)` and returns their sum.
fn softmax_numerators(scores: &mut [f32]) -> f32 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in scores {
        *score = (*score - max).exp();
        total += *score;
    }
    total
}
