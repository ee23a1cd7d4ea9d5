//! Causal attention of training: sequences of different lengths one after the other, none of which sees another.

use super::{AttentionShape, attention, softmax};
use crate::cpu::gemm::{Lanes, Lines, matmul};
use crate::cpu::isa::{Isa, on_each_isa};
use crate::cpu::kv_cache::{BLOCK, CacheFormat, CacheShape, CacheSide};
use crate::cpu::parallel::{self, Parts};
use crate::cpu::precision::Precision;
use crate::cpu::scratch::with_floats;

/// Query tokens whose probabilities are held at a time.
const ROWS: usize = 64;

/// Sizes of the heads of queries, keys and values `[tokens, heads, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, a multiple of `kv_heads`. Query head `h` reads KV head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Heads {
    fn check(&self, q: &[f32], k: &[f32], v: &[f32], segments: &[usize]) {
        let Self { heads, kv_heads, head_dim } = *self;
        let tokens: usize = segments.iter().sum();
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "query heads");
        assert_eq!(q.len(), tokens * heads * head_dim, "queries");
        assert_eq!((k.len(), v.len()), (tokens * kv_heads * head_dim, k.len()), "keys and values");
    }
}

/// `softmax(q k^T * scale) v` within each of `segments`, the lengths of the sequences; the bits that [`attention`] gives for
/// each sequence by itself.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
#[expect(clippy::too_many_arguments, reason = "three inputs, what they look like, and the output")]
pub fn attend(
    isa: Isa,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[usize],
    heads: Heads,
    scale: f32,
    out: &mut [f32],
) {
    isa.check();
    heads.check(q, k, v, segments);
    assert_eq!(out.len(), q.len(), "output");
    let Heads { heads, kv_heads, head_dim } = heads;
    let mut first = 0;
    // Neighbours of one length are one batch.
    for same in segments.chunk_by(|a, b| a == b) {
        let (batch, tokens) = (same.len(), same[0]);
        let end = first + batch * tokens;
        let cache = CacheShape { batch, kv_heads, head_dim, blocks: tokens.div_ceil(BLOCK), format: CacheFormat::F32 };
        let (mut keys, mut values) = (vec![0u32; cache.words()], vec![0u32; cache.words()]);
        let of = |x: usize| x * head_dim;
        cache.write(CacheSide::Keys, &k[of(first * kv_heads)..of(end * kv_heads)], 0, &mut keys);
        cache.write(CacheSide::Values, &v[of(first * kv_heads)..of(end * kv_heads)], 0, &mut values);
        let shape = AttentionShape { tokens, heads, start: 0 };
        let rows = of(first * heads)..of(end * heads);
        attention(isa, &q[rows.clone()], &keys, &values, cache, shape, scale, &mut out[rows]);
        first = end;
    }
}

/// The gradients of [`attend`] for queries, keys and values, from its output and the gradient of that.
///
/// Probabilities are computed again, some rows at a time. With `p = softmax(s)` and `s = scale q k^T`:
///
/// ```text
/// dv = p^T dout    dp = dout v^T    ds = p (dp - sum(dout out))    dq = scale ds k    dk = scale ds^T q
/// ```
///
/// Source: Dao et al., "FlashAttention" (arXiv 2205.14135), algorithm 4.
///
/// # Panics
/// As [`attend`].
#[expect(clippy::too_many_arguments, reason = "five inputs, what they look like, and three outputs")]
pub fn backward(
    isa: Isa,
    [q, k, v]: [&[f32]; 3],
    out: &[f32],
    dout: &[f32],
    segments: &[usize],
    heads: Heads,
    scale: f32,
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    isa.check();
    heads.check(q, k, v, segments);
    assert_eq!((out.len(), dout.len(), dq.len()), (q.len(), q.len(), q.len()), "output and gradients");
    assert_eq!((dk.len(), dv.len()), (k.len(), k.len()), "gradients");
    let starts: Vec<usize> =
        segments.iter().scan(0, |start, len| Some(std::mem::replace(start, *start + len))).collect();
    let work = segments.iter().map(|len| 3 * heads.heads * heads.head_dim * len * len).sum();
    let (dq, dk, dv) = (Parts::new(dq), Parts::new(dk), Parts::new(dv));
    let call = Call { isa, q, k, v, out, dout, heads, scale, dq, dk, dv };
    parallel::tasks(segments.len() * heads.kv_heads, work, |task| {
        let (segment, kv_head) = (task / heads.kv_heads, task % heads.kv_heads);
        call.kv_head(starts[segment], segments[segment], kv_head);
    });
}

struct Call<'a> {
    isa: Isa,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    heads: Heads,
    scale: f32,
    dq: Parts<'a, f32>,
    dk: Parts<'a, f32>,
    dv: Parts<'a, f32>,
}

impl Call<'_> {
    /// Everything about one KV head of one sequence and the query heads that read it.
    fn kv_head(&self, start: usize, len: usize, kv_head: usize) {
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let (group, side) = (heads / kv_heads, len * head_dim);
        let rows = ROWS.min(len);
        with_floats(4 * side + 2 * rows * len + rows * head_dim + rows, |scratch| {
            let (sums, scratch) = scratch.split_at_mut(2 * side);
            let (parts, scratch) = scratch.split_at_mut(2 * side);
            sums.fill(0.0);
            for head in kv_head * group..(kv_head + 1) * group {
                for first in (0..len).step_by(ROWS) {
                    let rows = Rows { start, first, count: ROWS.min(len - first), head, kv_head };
                    self.rows(rows, len, sums, parts, scratch);
                }
            }
            for (of_side, sums) in [&self.dk, &self.dv].into_iter().zip(sums.chunks_exact(side.max(1))) {
                for (t, sum) in sums.chunks_exact(head_dim).enumerate() {
                    let at = ((start + t) * kv_heads + kv_head) * head_dim;
                    // SAFETY: this head of this sequence belongs to this task.
                    unsafe { of_side.slice(at, at + head_dim) }.copy_from_slice(sum);
                }
            }
        });
    }

    /// What some query rows add to `sums`, the gradients of keys and of values `[2][len][head_dim]`.
    fn rows(&self, rows: Rows, len: usize, sums: &mut [f32], parts: &mut [f32], scratch: &mut [f32]) {
        let Self { isa, scale, heads: Heads { heads, kv_heads, head_dim }, .. } = *self;
        let Rows { start, first, count, head, kv_head } = rows;
        let seen = first + count;
        let query = |x: &'_ [f32]| ((start + first) * heads + head) * head_dim..x.len();
        let key = (start * kv_heads + kv_head) * head_dim;
        let (q_stride, k_stride) = (heads * head_dim, kv_heads * head_dim);
        let (q, out, dout) = (&self.q[query(self.q)], &self.out[query(self.out)], &self.dout[query(self.dout)]);
        let (k, v) = (&self.k[key..], &self.v[key..]);
        let (p, scratch) = scratch.split_at_mut(count * seen);
        let (ds, scratch) = scratch.split_at_mut(count * seen);
        let (dq, _) = scratch.split_at_mut(count * head_dim);

        let queries = Lines { values: q, stride: q_stride };
        let douts = Lines { values: dout, stride: q_stride };
        matmul(isa, Precision::F32, [count, seen, head_dim], &queries, &Lines { values: k, stride: k_stride }, p);
        matmul(isa, Precision::F32, [count, seen, head_dim], &douts, &Lines { values: v, stride: k_stride }, ds);
        for (i, (p, ds)) in p.chunks_exact_mut(seen).zip(ds.chunks_exact_mut(seen)).enumerate() {
            scale_all(isa, p, scale);
            softmax(isa, p, first + i + 1);
            let at = i * q_stride;
            let through = product(isa, &dout[at..at + head_dim], &out[at..at + head_dim]);
            score_gradient(isa, p, through, scale, ds);
        }
        let across = |values| Lanes { values, stride: seen };
        let rows_of = |values| Lanes { values, stride: q_stride };
        let side = len * head_dim;
        let (dk_part, dv_part) = parts.split_at_mut(side);
        let (dk_part, dv_part) = (&mut dk_part[..seen * head_dim], &mut dv_part[..seen * head_dim]);
        matmul(isa, Precision::F32, [seen, head_dim, count], &across(&*ds), &rows_of(q), dk_part);
        matmul(isa, Precision::F32, [seen, head_dim, count], &across(&*p), &rows_of(dout), dv_part);
        add(isa, dk_part, &mut sums[..seen * head_dim]);
        add(isa, dv_part, &mut sums[side..][..seen * head_dim]);
        let scores = Lines { values: &*ds, stride: seen };
        matmul(isa, Precision::F32, [count, head_dim, seen], &scores, &Lanes { values: k, stride: k_stride }, dq);
        for (i, dq) in dq.chunks_exact(head_dim).enumerate() {
            let at = ((start + first + i) * heads + head) * head_dim;
            // SAFETY: the query heads of this KV head of this sequence belong to this task.
            unsafe { self.dq.slice(at, at + head_dim) }.copy_from_slice(dq);
        }
    }
}

/// Some query tokens of one head.
#[derive(Clone, Copy)]
struct Rows {
    /// First token of the sequence.
    start: usize,
    /// First token of these, within the sequence.
    first: usize,
    count: usize,
    head: usize,
    kv_head: usize,
}

on_each_isa! {
    fn scale_all(x: &mut [f32], factor: f32) = |x: &mut [f32], factor: f32| x.iter_mut().for_each(|x| *x *= factor)
}

on_each_isa! {
    fn add(x: &[f32], sums: &mut [f32]) = |x: &[f32], sums: &mut [f32]| sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x)
}

on_each_isa! {
    fn product(a: &[f32], b: &[f32]) -> f32 = product_body
}

#[inline(always)]
fn product_body(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter_mut().zip(a_rest.iter().zip(b_rest)).for_each(|(sum, (a, b))| *sum += a * b);
    sums.iter().sum()
}

on_each_isa! {
    /// `ds = p * (ds - through) * scale`.
    fn score_gradient(p: &[f32], through: f32, scale: f32, ds: &mut [f32]) =
        |p: &[f32], through: f32, scale: f32, ds: &mut [f32]| {
            ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - through) * scale)
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 997.0 - 1.0).collect()
    }

    /// `sum(dout * attention)` in f64.
    fn loss(q: &[f32], k: &[f32], v: &[f32], dout: &[f32], segments: &[usize], heads: Heads, scale: f64) -> f64 {
        let Heads { heads, kv_heads, head_dim } = heads;
        let at = |x: &[f32], t: usize, h: usize, n: usize, d: usize| f64::from(x[(t * n + h) * head_dim + d]);
        let (mut start, mut sum) = (0, 0.0);
        for len in segments {
            for (t, h) in (start..start + len).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                let g = h / (heads / kv_heads);
                let score = |p| (0..head_dim).map(|d| at(q, t, h, heads, d) * at(k, p, g, kv_heads, d)).sum::<f64>();
                let weights: Vec<f64> = (start..=t).map(|p| (score(p) * scale).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (p, weight) in (start..=t).zip(weights) {
                    let value = |d| at(v, p, g, kv_heads, d) * at(dout, t, h, heads, d);
                    sum += weight / total * (0..head_dim).map(value).sum::<f64>();
                }
            }
            start += len;
        }
        sum
    }

    #[test]
    fn the_gradients_are_the_slopes_in_sequences_of_any_length() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 12 };
        let segments = [3, 5, 5, 1, 70];
        let tokens: usize = segments.iter().sum();
        let (queries, keys) = (tokens * heads.heads * heads.head_dim, tokens * heads.kv_heads * heads.head_dim);
        let (q, k, v, dout) = (noise(1, queries), noise(2, keys), noise(3, keys), noise(4, queries));
        let mut all = Vec::new();
        for isa in Isa::available() {
            let (mut out, mut dq) = (vec![0.0; queries], vec![f32::NAN; queries]);
            let (mut dk, mut dv) = (vec![f32::NAN; keys], vec![f32::NAN; keys]);
            attend(isa, &q, &k, &v, &segments, heads, 0.3, &mut out);
            let total: f64 = out.iter().zip(&dout).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((total - loss(&q, &k, &v, &dout, &segments, heads, 0.3)).abs() < 1e-3);
            let gradients = [dq.as_mut_slice(), dk.as_mut_slice(), dv.as_mut_slice()];
            backward(isa, [&q, &k, &v], &out, &dout, &segments, heads, 0.3, gradients);
            all.push((out, dq, dk, dv));
        }
        assert!(all.iter().all(|g| g == &all[0]), "every instruction set gives the same bits");
        let (_, dq, dk, dv) = &all[0];
        let gradients = [(&q, dq), (&k, dk), (&v, dv)];
        for (side, (values, gradient)) in gradients.into_iter().enumerate() {
            for at in (0..values.len()).step_by(values.len() / 40) {
                let with = |shift: f32| {
                    let mut moved = [q.clone(), k.clone(), v.clone()];
                    moved[side][at] += shift;
                    loss(&moved[0], &moved[1], &moved[2], &dout, &segments, heads, 0.3)
                };
                let slope = (with(1e-2) - with(-1e-2)) / 2e-2;
                assert!((f64::from(gradient[at]) - slope).abs() < 2e-4, "{side} {at}: {} {slope}", gradient[at]);
            }
        }
    }
}
