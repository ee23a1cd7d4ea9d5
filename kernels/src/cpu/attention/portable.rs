//! The kernels of attention in portable Rust, which say what the others compute.

use super::{SPAN, Sum};
use crate::cpu::kv_cache::{BLOCK, CacheFormat, VALUES};

pub(super) fn scores<const R: usize>(format: CacheFormat, q: [&[f32]; R], blocks: &[u32], scale: f32, out: &mut [f32]) {
    match format {
        CacheFormat::F32 => scores_as::<u32, R>(format, f32::from_bits, q, blocks, scale, out),
        CacheFormat::F16 => scores_as::<u16, R>(format, from_f16, q, blocks, scale, out),
        CacheFormat::Int8 => unreachable!("an int8 cache meets codes"),
    }
}

pub(super) fn weighted<const R: usize>(sum: Sum, weights: &[f32], values: &[u32], sums: &mut [f32]) {
    match sum.format {
        CacheFormat::F32 => weighted_as::<u32, R>(sum, f32::from_bits, weights, values, sums),
        CacheFormat::F16 => weighted_as::<u16, R>(sum, from_f16, weights, values, sums),
        CacheFormat::Int8 => unreachable!("an int8 cache meets codes"),
    }
}

pub(super) fn code_scores<const R: usize>(
    q: [&[i16]; R],
    factors: [f32; R],
    head_dim: usize,
    blocks: &[u32],
    out: &mut [f32],
) {
    let stride = out.len() / R;
    for (b, block) in blocks.chunks_exact(CacheFormat::Int8.block_words(head_dim)).enumerate() {
        let (scales, codes) = split(CacheFormat::Int8, block);
        let codes: &[i8] = bytemuck::cast_slice(codes);
        for ((q, factor), out) in q.iter().zip(factors).zip(out.chunks_exact_mut(stride)) {
            let mut sums = [0i32; BLOCK];
            for (q, k) in q.iter().zip(codes.as_chunks::<BLOCK>().0) {
                // Positions that were never written can hold anything; what they give is not used.
                sums.iter_mut().zip(k).for_each(|(sum, k)| *sum = sum.wrapping_add(i32::from(*q) * i32::from(*k)));
            }
            for (lane, (out, sum)) in out[b * BLOCK..][..BLOCK].iter_mut().zip(sums).enumerate() {
                *out = sum as f32 * factor * f32::from_bits(scales.expect("int8 blocks have scales")[lane]);
            }
        }
    }
}

pub(super) fn weighted_codes<const R: usize>(
    Sum { format, head_dim, positions, from }: Sum,
    weights: [&[i16; SPAN]; R],
    factors: [f32; R],
    values: &[u32],
    sums: &mut [f32],
) {
    let words = format.block_words(head_dim);
    for from in (from..head_dim).step_by(VALUES) {
        let width = VALUES.min(head_dim - from);
        let mut totals = [[0i32; VALUES]; R];
        for position in 0..positions {
            let (block, lane) = (position / BLOCK, position % BLOCK);
            let (_, codes) = split(format, &values[block * words..][..words]);
            let codes: &[i8] = bytemuck::cast_slice(codes);
            let v = &codes[BLOCK * from + lane * width..][..width];
            for (totals, weights) in totals.iter_mut().zip(weights) {
                let weight = i32::from(weights[position]);
                totals.iter_mut().zip(v).for_each(|(total, v)| *total += weight * i32::from(*v));
            }
        }
        for ((sums, totals), factor) in sums.chunks_exact_mut(head_dim).zip(totals).zip(factors) {
            sums[from..][..width].iter_mut().zip(totals).for_each(|(sum, total)| *sum = total as f32 * factor);
        }
    }
}

fn scores_as<T: bytemuck::AnyBitPattern, const R: usize>(
    format: CacheFormat,
    wide: impl Fn(T) -> f32,
    q: [&[f32]; R],
    blocks: &[u32],
    scale: f32,
    out: &mut [f32],
) {
    let head_dim = q[0].len();
    let stride = out.len() / R;
    for (b, block) in blocks.chunks_exact(format.block_words(head_dim)).enumerate() {
        let codes: &[T] = bytemuck::cast_slice(block);
        let mut sums = [[0f32; BLOCK]; R];
        for (d, k) in codes.as_chunks::<BLOCK>().0.iter().enumerate() {
            let k: [f32; BLOCK] = k.map(&wide);
            for (sums, q) in sums.iter_mut().zip(q) {
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = q[d].mul_add(k, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            out[r * stride + b * BLOCK..][..BLOCK].iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * scale);
        }
    }
}

fn weighted_as<T: bytemuck::AnyBitPattern, const R: usize>(
    Sum { format, head_dim, positions, from }: Sum,
    wide: impl Fn(T) -> f32,
    weights: &[f32],
    values: &[u32],
    sums: &mut [f32],
) {
    let (words, stride) = (format.block_words(head_dim), weights.len() / R);
    for position in 0..positions {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        let (_, codes) = split(format, &values[block * words..][..words]);
        let codes: &[T] = bytemuck::cast_slice(codes);
        for from in (from..head_dim).step_by(VALUES) {
            let width = VALUES.min(head_dim - from);
            let v = &codes[BLOCK * from + lane * width..][..width];
            for (row, sums) in sums.chunks_exact_mut(head_dim).enumerate() {
                let weight = weights[row * stride + position];
                let sums = sums[from..].iter_mut().zip(v);
                sums.for_each(|(sum, v)| *sum = weight.mul_add(wide(*v), *sum));
            }
        }
    }
}

/// The scales of a block, if it has some, and its codes.
pub(super) fn split(format: CacheFormat, block: &[u32]) -> (Option<&[u32]>, &[u32]) {
    match format {
        CacheFormat::Int8 => {
            let (scales, codes) = block.split_at(BLOCK);
            (Some(scales), codes)
        }
        CacheFormat::F32 | CacheFormat::F16 => (None, block),
    }
}

fn from_f16(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}
