//! The largest logits of one token without reading the whole head: an exact search over a compressed copy.
//!
//! A head of 128,256 rows in half precision is more than half of what a token reads, and a sampler looks at a few logits. So
//! a [`Sketch`] of the rows is scanned, four bits a weight, and a bound says how far each product can be from that of the full
//! row. Rows that can be among the wanted ones are looked at again with a fifth bit, and those that still can are multiplied
//! in full, by the same function as the whole head: what comes out are its very logits. This is the filter and refine of
//! vector approximation files (Weber, Schek and Blott, "A Quantitative Analysis and Performance Study for Similarity-Search
//! Methods in High-Dimensional Spaces", VLDB 1998), with a bound for inner products.
//!
//! # The bound
//!
//! In blocks `b` of 64 columns a row is `w = s_b (c - 15.5) + e` with codes `c` of five bits and a scale `s_b` that is never
//! less than `max|w_b| / 16`; the upper four bits alone are the same with `2 (c >> 1) - 15`. The activations of a block are
//! `x = t_b X + h`, integers of 14 bits. The scan computes `a = sum_b s_b t_b (c - 15.5) · X`, and the head gives `y`. With
//! `ŵ = w - e` and `x̂ = x - h`:
//!
//! ```text
//! w · x - ŵ · x̂ = e · x + ŵ · h
//! |e · x|  <= sum_b |e_b| |x_b|  <= p sum_b s_b |x_b|       p = max_b |e_b| / s_b, kept for each row     (Cauchy-Schwarz)
//! |e · x|  <= |e| |x|                                       |e| is kept, too: the smaller one counts
//! |ŵ · h|  <= sum_b 128 s_b |h_b|                           no component of ŵ_b or w_b is more than 16 s_b, and there are 64
//! |y - w · x|, |a - ŵ · x̂|  <=  sum_b 128 s_b (|g_b| + r |x_b|)
//! ```
//!
//! where `g` is what the head's own product rounds off the activations (of tiles, see `row_tiles`; the others take them as
//! they are), and `r` is the rounding of the float sums, `n / 2^24` for `n` operations one after the other. All of it together,
//! `d = min(p S, |e| |x|) + R` with `S = sum_b s_b |x_b|` and `R = sum_b s_b 128 (|h_b| + |g_b| + r |x_b|)`, costs the scan two
//! multiplications for 64 columns. Norms are rounded up, and values that would leave the range of normal floats are not
//! searched but read in full ([`Sketch::new`], `activations.rs`).

mod activations;
mod scan;
mod search;
mod sketch;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use search::{Head, Share, TopLogits, Wanted, top};
pub use sketch::Sketch;

/// Columns that share a scale.
const BLOCK: usize = 64;

/// Rows side by side, each in a lane of its own.
const TILE: usize = 16;

#[cfg(test)]
mod tests;
