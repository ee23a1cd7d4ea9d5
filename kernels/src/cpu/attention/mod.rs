//! Causal grouped-query attention over a KV cache.
//!
//! Up to eight query rows that read the same head of the cache are worked on together, so that a key or value is read and
//! widened once for all of them. Positions are taken in spans of 256. A span gives, for each row with the scores `s`,
//!
//! ```text
//! m = max s      l = sum exp(s - m)      o = sum exp(s - m) v
//! ```
//!
//! and two of them together `m' = max(m1, m2)`, `o' = o1 exp(m1 - m') + o2 exp(m2 - m')`, `l'` likewise; at the end stands
//! `o / l`. Source: Dao et al., "FlashAttention" (arXiv 2205.14135), section 3.1.
//!
//! A score is a sum over the head's elements in their order, and `o` a sum over the positions in theirs, each step rounded once
//! (a fused multiply-add), whatever the number of threads, rows and lanes; spans are put together in their order. So is
//! every result. In an int8 cache sums are exact integers: of scores see `queries.rs`, of a span's values `weights.rs`.

pub mod cached;
mod portable;
mod queries;
pub mod segments;
mod weights;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::exp::exp;
#[cfg(target_arch = "x86_64")]
use super::isa::Vectors;
use super::isa::{Isa, on_each_isa};
use super::kv_cache::{BLOCK, CacheFormat, CacheShape};
use super::parallel::{self, Parts};
use super::scratch::with_floats;
use queries::Queries;
use weights::Weights;

/// Query rows that are worked on together.
const ROWS: usize = 8;

/// Positions whose exponentials are formed together.
const SPAN: usize = 256;

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
    if tokens == 1 && start >= SPAN {
        call.span_by_span(&groups, work);
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
        let spans = self.positions(rows).div_ceil(SPAN);
        let queries = Queries::new(self.isa, self.cache, self.scale, self.queries(rows));
        let floats = State::floats(rows.count, self.cache.head_dim);
        with_floats(2 * floats, |both| {
            let (all, one) = both.split_at_mut(floats);
            let mut all = State::over(all, rows.count, self.cache.head_dim);
            self.span(rows, &queries, 0, &mut all);
            let mut one = State::over(one, rows.count, self.cache.head_dim);
            for span in 1..spans {
                self.span(rows, &queries, span, &mut one);
                for row in 0..rows.count {
                    if self.positions_of(rows.first + row) > span * SPAN {
                        all.add(self.isa, row, &one);
                    }
                }
            }
            self.put(rows, &all);
        });
    }

    /// One token over a long cache: spans on all threads, then all of a row together.
    fn span_by_span(&self, groups: &[Rows], work: usize) {
        let spans = (self.shape.start + 1).div_ceil(SPAN);
        let floats = State::floats(ROWS, self.cache.head_dim);
        with_floats(groups.len() * spans * floats, |states| {
            parallel::chunks(states, floats, work, |task, state| {
                let rows = groups[task / spans];
                let queries = Queries::new(self.isa, self.cache, self.scale, self.queries(rows));
                self.span(rows, &queries, task % spans, &mut State::over(state, rows.count, self.cache.head_dim));
            });
            let work = 2 * spans * groups.len() * floats;
            parallel::chunks(states, spans * floats, work, |group, states| {
                let (first, others) = states.split_at_mut(floats);
                let rows = groups[group];
                let mut all = State::over(first, rows.count, self.cache.head_dim);
                for one in others.chunks_exact_mut(floats) {
                    let one = State::over(one, rows.count, self.cache.head_dim);
                    (0..rows.count).for_each(|row| all.add(self.isa, row, &one));
                }
                self.put(rows, &all);
            });
        });
    }

    /// The queries of some rows.
    fn queries(&self, rows: Rows) -> impl Iterator<Item = &[f32]> {
        (0..rows.count).map(move |i| &self.q[self.offset(rows, rows.first + i)..][..self.cache.head_dim])
    }

    /// What the positions of one span give to some rows.
    fn span(&self, rows: Rows, queries: &Queries<'_>, span: usize, state: &mut State<'_>) {
        let (first, words) = (span * SPAN, self.cache.format.block_words(self.cache.head_dim));
        let positions = SPAN.min(self.positions(rows) - first);
        let stride = positions.next_multiple_of(BLOCK);
        let blocks = first / BLOCK * words..(first + stride) / BLOCK * words;
        let (keys, values) = (self.blocks(self.keys, rows), self.blocks(self.values, rows));
        let (keys, values) = (&keys[blocks.clone()], &values[blocks]);
        // One line in a block, which a processor does not see coming: there is time for them until the scores are there.
        #[cfg(target_arch = "x86_64")]
        if self.cache.format == CacheFormat::Int8 {
            x86::fetch_scales(values, words);
        }
        with_floats(rows.count * stride, |scores| {
            each_step(rows.count, |row, step| {
                queries.scores(row, step, keys, &mut scores[row * stride..][..step * stride]);
            });
            for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
                let seen = self.positions_of(rows.first + row).saturating_sub(first).min(positions);
                (state.largest[row], state.total[row]) = exponentials(self.isa, scores, seen);
            }
            if self.cache.format == CacheFormat::Int8 {
                Weights::new(self.isa, scores, rows.count, positions, values, words).sum(values, state.sums);
            } else {
                self.sum(rows, positions, scores, values, state.sums);
            }
        });
    }

    /// The values of so many positions, each with its weight for each row (`[rows, stride]`), into `sums`.
    fn sum(&self, rows: Rows, positions: usize, weights: &[f32], values: &[u32], sums: &mut [f32]) {
        let (head_dim, stride) = (self.cache.head_dim, weights.len() / rows.count);
        let sum = Sum { format: self.cache.format, head_dim, positions, from: 0 };
        sums.fill(0.0);
        each_step(rows.count, |row, step| {
            let sums = &mut sums[row * head_dim..][..step * head_dim];
            let weights = &weights[row * stride..][..step * stride];
            match step {
                8 => weighted_of::<8>(self.isa, sum, weights, values, sums),
                4 => weighted_of::<4>(self.isa, sum, weights, values, sums),
                2 => weighted_of::<2>(self.isa, sum, weights, values, sums),
                _ => weighted_of::<1>(self.isa, sum, weights, values, sums),
            }
        });
    }

    /// Writes the results of some rows.
    fn put(&self, rows: Rows, state: &State<'_>) {
        let head_dim = self.cache.head_dim;
        for (row, sums) in state.sums.chunks_exact(head_dim).enumerate() {
            let (at, inverse) = (self.offset(rows, rows.first + row), 1.0 / state.total[row]);
            // SAFETY: a row is written by the task that has it, alone.
            let out = unsafe { self.out.slice(at, at + head_dim) };
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * inverse);
        }
    }
}

/// Calls `f(first, rows)` for the numbers of rows that kernels are written for.
fn each_step(count: usize, mut f: impl FnMut(usize, usize)) {
    let mut row = 0;
    while row < count {
        let step = [8, 4, 2, 1].into_iter().find(|step| *step <= count - row).unwrap_or(1);
        f(row, step);
        row += step;
    }
}

/// What some positions give to some rows.
struct State<'a> {
    /// `[rows]`: the largest score.
    largest: &'a mut [f32],
    /// `[rows]`: the sum of `exp(score - largest)`.
    total: &'a mut [f32],
    /// `[rows, head_dim]`: the sum of values with these weights.
    sums: &'a mut [f32],
}

impl<'a> State<'a> {
    /// Floats of a state.
    fn floats(rows: usize, head_dim: usize) -> usize {
        rows * (head_dim + 2)
    }

    /// A state of no particular values in the memory of at least as many rows.
    fn over(memory: &'a mut [f32], rows: usize, head_dim: usize) -> Self {
        let (largest, rest) = memory.split_at_mut(rows);
        let (total, sums) = rest.split_at_mut(rows);
        Self { largest, total, sums: &mut sums[..rows * head_dim] }
    }

    /// Adds what later positions give to a row.
    fn add(&mut self, isa: Isa, row: usize, later: &State<'_>) {
        let head_dim = self.sums.len() / self.largest.len();
        let largest = self.largest[row].max(later.largest[row]);
        let (a, b) = (exp(self.largest[row] - largest), exp(later.largest[row] - largest));
        self.largest[row] = largest;
        self.total[row] = self.total[row] * a + later.total[row] * b;
        let of_row = row * head_dim..(row + 1) * head_dim;
        mix(isa, &mut self.sums[of_row.clone()], a, &later.sums[of_row], b);
    }
}

on_each_isa! {
    /// `x = x a + y b`.
    fn mix(x: &mut [f32], a: f32, y: &[f32], b: f32) = mix_body
}

#[inline(always)]
fn mix_body(x: &mut [f32], a: f32, y: &[f32], b: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = *x * a + *y * b);
}

/// A sum of values, each with a weight.
#[derive(Clone, Copy)]
struct Sum {
    format: CacheFormat,
    head_dim: usize,
    positions: usize,
    /// The first element that is summed.
    from: usize,
}

/// `sums[row][d] += weights[row][position] * v[position][d]` for `R` rows of floats.
fn weighted_of<const R: usize>(isa: Isa, sum: Sum, weights: &[f32], values: &[u32], sums: &mut [f32]) {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`.
        Vectors::Avx512 => unsafe { x86::weighted_avx512::<R>(sum, weights, values, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Vectors::Avx2 => unsafe { x86::weighted_avx2::<R>(sum, weights, values, sums) },
        _ => portable::weighted::<R>(sum, weights, values, sums),
    }
}

on_each_isa! {
    /// Turns the scores of the first `positions` into `exp(score - largest)`, and those behind them into zeros; gives the largest,
    /// and the sum of the exponentials.
    fn exponentials(scores: &mut [f32], positions: usize) -> (f32, f32) = exponentials_body
}

#[inline(always)]
fn exponentials_body(scores: &mut [f32], positions: usize) -> (f32, f32) {
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
    (max, sums.into_iter().sum())
}

/// Turns the scores of the first `positions` into probabilities, and those behind them into zeros.
fn softmax(isa: Isa, scores: &mut [f32], positions: usize) {
    let (_, total) = exponentials(isa, scores, positions);
    let inverse = 1.0 / total;
    scores[..positions].iter_mut().for_each(|x| *x *= inverse);
}
