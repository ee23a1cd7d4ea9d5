//! Causal grouped-query attention over a KV cache.
//!
//! Up to eight query rows that read the same head of the cache are worked on together, so that a key or value is read and
//! widened once for all of them. A score is a sum over the head's elements in their order, and an output a sum over the
//! positions in theirs, each step rounded once (a fused multiply-add), whatever the number of threads, rows and lanes. So
//! is every result.

pub mod cached;
mod portable;
pub mod segments;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::exp::exp;
#[cfg(target_arch = "x86_64")]
use super::isa::Vectors;
use super::isa::{Isa, on_each_isa};
use super::kv_cache::{BLOCK, CacheFormat, CacheShape, VALUES};
use super::parallel::{self, Parts};
use super::scratch::with_floats;

/// Query rows that are worked on together.
const ROWS: usize = 8;

/// Elements of a head that are summed together: those whose values lie together.
const WIDTH: usize = VALUES;

/// From so many positions on, the work of a few rows is split over the threads in three steps.
const LONG: usize = 256;

/// Blocks of positions in one task of the first of these steps.
const BLOCKS_A_TASK: usize = 8;

/// The queries of one attention call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query tokens of each sequence.
    pub tokens: usize,
    /// Query heads; a multiple of the KV heads. Query head `h` reads KV head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Position of the first query token; token `t` sees positions `0..=start + t`.
    pub start: usize,
}

/// Query rows that read one head of the cache: tokens from outside to inside, then heads.
#[derive(Clone, Copy)]
struct Rows {
    sequence: usize,
    kv_head: usize,
    /// Numbered by token, then by query head of this KV head.
    first: usize,
    count: usize,
}

struct Call<'a> {
    isa: Isa,
    q: &'a [f32],
    keys: &'a [u32],
    values: &'a [u32],
    cache: CacheShape,
    shape: AttentionShape,
    scale: f32,
    out: Parts<'a, f32>,
}

/// `softmax(q k^T * scale) v` for `q` and `out` of shape `[batch, tokens, heads, head_dim]` over `keys` and `values` of the
/// shape `cache`; positions from `start + tokens` on have no influence.
///
/// Source: Vaswani et al. (arXiv 1706.03762), eq. 1; grouped queries: Ainslie et al. (arXiv 2305.13245).
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the shapes say.
#[expect(clippy::too_many_arguments, reason = "three inputs, what they look like, and the output")]
pub fn attention(
    isa: Isa,
    q: &[f32],
    keys: &[u32],
    values: &[u32],
    cache: CacheShape,
    shape: AttentionShape,
    scale: f32,
    out: &mut [f32],
) {
    isa.check();
    let AttentionShape { tokens, heads, start } = shape;
    assert_eq!(q.len(), cache.batch * tokens * heads * cache.head_dim, "queries");
    assert_eq!(out.len(), q.len(), "output");
    assert_eq!((keys.len(), values.len()), (cache.words(), cache.words()), "cache");
    assert!(start + tokens <= cache.blocks * BLOCK, "the cache has room for {} positions", cache.blocks * BLOCK);
    if q.is_empty() {
        return;
    }
    assert!(heads.is_multiple_of(cache.kv_heads), "query heads");
    let of_head = tokens * heads / cache.kv_heads;
    let groups: Vec<Rows> = (0..cache.batch * cache.kv_heads)
        .flat_map(|i| {
            (0..of_head).step_by(ROWS).map(move |first| Rows {
                sequence: i / cache.kv_heads,
                kv_head: i % cache.kv_heads,
                first,
                count: ROWS.min(of_head - first),
            })
        })
        .collect();
    let work = 2 * q.len() * (start + tokens);
    let call = Call { isa, q, keys, values, cache, shape, scale, out: Parts::new(out) };
    if tokens == 1 && start >= LONG {
        call.in_steps(&groups, work);
    } else {
        parallel::tasks(groups.len(), work, |i| call.whole(groups[i]));
    }
}

impl Call<'_> {
    /// Positions that the last of `rows` sees.
    fn positions(&self, rows: Rows) -> usize {
        self.positions_of(rows.first + rows.count - 1)
    }

    fn group(&self) -> usize {
        self.shape.heads / self.cache.kv_heads
    }

    fn positions_of(&self, row: usize) -> usize {
        self.shape.start + row / self.group() + 1
    }

    /// Where a row begins in `q` and `out`.
    fn offset(&self, rows: Rows, row: usize) -> usize {
        let (token, head) = (row / self.group(), rows.kv_head * self.group() + row % self.group());
        ((rows.sequence * self.shape.tokens + token) * self.shape.heads + head) * self.cache.head_dim
    }

    fn blocks<'c>(&self, side: &'c [u32], rows: Rows) -> &'c [u32] {
        let words = self.cache.head_words();
        &side[(rows.sequence * self.cache.kv_heads + rows.kv_head) * words..][..words]
    }

    /// Everything about some rows, on one thread.
    fn whole(&self, rows: Rows) {
        let stride = self.positions(rows).next_multiple_of(BLOCK);
        with_floats(rows.count * stride, |scores| self.whole_with(rows, stride, scores));
    }

    fn whole_with(&self, rows: Rows, stride: usize, scores: &mut [f32]) {
        {
            let parts = Parts::new(scores);
            // SAFETY: nobody else has these scores.
            unsafe { self.scores(rows, 0, stride / BLOCK, stride, &parts) };
        }
        for (i, scores) in scores.chunks_exact_mut(stride).enumerate() {
            softmax(self.isa, scores, self.positions_of(rows.first + i));
        }
        for from in (0..self.cache.head_dim).step_by(WIDTH) {
            self.weighted(rows, scores, stride, from);
        }
    }

    /// One token over a long cache: scores, probabilities and sums one after the other, each on all threads.
    fn in_steps(&self, groups: &[Rows], work: usize) {
        let stride = (self.shape.start + 1).next_multiple_of(BLOCK);
        let first_score = |i: usize| groups[..i].iter().map(|rows| rows.count).sum::<usize>() * stride;
        with_floats(first_score(groups.len()), |scores| self.in_steps_with(groups, work, stride, scores));
    }

    fn in_steps_with(&self, groups: &[Rows], work: usize, stride: usize, scores: &mut [f32]) {
        let first_score = |i: usize| groups[..i].iter().map(|rows| rows.count).sum::<usize>() * stride;
        let blocks = stride / BLOCK;
        let parts_of_row = blocks.div_ceil(BLOCKS_A_TASK);
        let shared = Parts::new(scores);
        parallel::tasks(groups.len() * parts_of_row, work, |task| {
            let (i, part) = (task / parts_of_row, task % parts_of_row);
            let end = blocks.min((part + 1) * BLOCKS_A_TASK);
            let mut own = [0f32; ROWS * BLOCKS_A_TASK * BLOCK];
            let width = (end - part * BLOCKS_A_TASK) * BLOCK;
            let own = &mut own[..groups[i].count * width];
            // SAFETY: nobody else has `own`, and each task copies it to scores of its own.
            unsafe {
                self.scores(groups[i], part * BLOCKS_A_TASK, end, width, &Parts::new(own));
                for (row, own) in own.chunks_exact(width).enumerate() {
                    let at = first_score(i) + row * stride + part * BLOCKS_A_TASK * BLOCK;
                    shared.slice(at, at + width).copy_from_slice(own);
                }
            }
        });
        parallel::chunks(scores, stride, work, |_, scores| softmax(self.isa, scores, self.shape.start + 1));
        let widths = self.cache.head_dim.div_ceil(WIDTH);
        parallel::tasks(groups.len() * widths, work, |task| {
            let (i, part) = (task / widths, task % widths);
            let scores = &scores[first_score(i)..][..groups[i].count * stride];
            self.weighted(groups[i], scores, stride, part * WIDTH);
        });
    }

    /// Scores of the positions in the blocks `first..end`, `[rows, stride]`.
    ///
    /// # Safety
    /// Nobody else has `scores`.
    unsafe fn scores(&self, rows: Rows, first: usize, end: usize, stride: usize, scores: &Parts<'_, f32>) {
        let words = self.cache.format.block_words(self.cache.head_dim);
        let blocks = &self.blocks(self.keys, rows)[first * words..end * words];
        let mut row = 0;
        while row < rows.count {
            let left = rows.count - row;
            let step = [8, 4, 2, 1].into_iter().find(|step| *step <= left).unwrap_or(1);
            // SAFETY: the caller has them all.
            let out = unsafe { scores.slice(row * stride, (row + step) * stride) };
            let q = |i: usize| &self.q[self.offset(rows, rows.first + row + i)..][..self.cache.head_dim];
            let (isa, format, scale) = (self.isa, self.cache.format, self.scale);
            match step {
                8 => scores_of(isa, format, std::array::from_fn::<_, 8, _>(q), blocks, scale, out),
                4 => scores_of(isa, format, std::array::from_fn::<_, 4, _>(q), blocks, scale, out),
                2 => scores_of(isa, format, std::array::from_fn::<_, 2, _>(q), blocks, scale, out),
                _ => scores_of(isa, format, std::array::from_fn::<_, 1, _>(q), blocks, scale, out),
            }
            row += step;
        }
    }

    /// The elements `from..from + 32` of the outputs of `rows`, whose probabilities are `[rows, stride]`.
    fn weighted(&self, rows: Rows, p: &[f32], stride: usize, from: usize) {
        let (head_dim, positions) = (self.cache.head_dim, self.positions(rows));
        let width = WIDTH.min(head_dim - from);
        let values = self.blocks(self.values, rows);
        let mut row = 0;
        while row < rows.count {
            let left = rows.count - row;
            let step = [8, 4, 2, 1].into_iter().find(|step| *step <= left).unwrap_or(1);
            let p = |i: usize| &p[(row + i) * stride..][..positions];
            let place = Place { head_dim, from, width };
            let (isa, format) = (self.isa, self.cache.format);
            let put = |i: usize, sums: &[f32; WIDTH]| {
                let at = self.offset(rows, rows.first + row + i) + from;
                // SAFETY: these elements of these rows are written by this task alone.
                unsafe { self.out.slice(at, at + width) }.copy_from_slice(&sums[..width]);
            };
            macro_rules! run {
                ($rows:literal) => {
                    weighted_of(isa, format, std::array::from_fn::<_, $rows, _>(p), values, place)
                        .iter()
                        .enumerate()
                        .for_each(|(i, sums)| put(i, sums))
                };
            }
            match step {
                8 => run!(8),
                4 => run!(4),
                2 => run!(2),
                _ => run!(1),
            }
            row += step;
        }
    }
}

/// Some elements of a head.
#[derive(Clone, Copy)]
struct Place {
    head_dim: usize,
    from: usize,
    width: usize,
}

/// `out[row][position] = scale * sum_d q[row][d] * k[position][d]`, for whole blocks of positions.
fn scores_of<const R: usize>(
    isa: Isa,
    format: CacheFormat,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { x86::scores_avx512(format, q, blocks, scale, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { x86::scores_avx2(format, q, blocks, scale, out) },
        _ => portable::scores(format, q, blocks, scale, out),
    }
}

/// `sums[row][i] = sum_position p[row][position] * v[position][from + i]`.
fn weighted_of<const R: usize>(
    isa: Isa,
    format: CacheFormat,
    p: [&[f32]; R],
    values: &[u32],
    place: Place,
) -> [[f32; WIDTH]; R] {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 if place.width == WIDTH => unsafe { x86::weighted_avx512(format, p, values, place) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 if place.width == WIDTH => unsafe { x86::weighted_avx2(format, p, values, place) },
        _ => portable::weighted(format, p, values, place),
    }
}

on_each_isa! {
    /// Turns the scores of the first `positions` into probabilities, and those behind them into zeros.
    fn softmax(scores: &mut [f32], positions: usize) = softmax_body
}

#[inline(always)]
fn softmax_body(scores: &mut [f32], positions: usize) {
    let (scores, rest) = scores.split_at_mut(positions);
    rest.fill(0.0);
    let mut largest = [f32::NEG_INFINITY; 16];
    let (chunks, tail) = scores.as_chunks::<16>();
    for chunk in chunks {
        largest.iter_mut().zip(chunk).for_each(|(a, x)| *a = a.max(*x));
    }
    largest.iter_mut().zip(tail).for_each(|(a, x)| *a = a.max(*x));
    let max = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; 16];
    let (chunks, tail) = scores.as_chunks_mut::<16>();
    for chunk in chunks {
        for (x, sum) in chunk.iter_mut().zip(&mut sums) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    for (x, sum) in tail.iter_mut().zip(&mut sums) {
        *x = exp(*x - max);
        *sum += *x;
    }
    let inverse = 1.0 / sums.into_iter().sum::<f32>();
    scores.iter_mut().for_each(|x| *x *= inverse);
}
