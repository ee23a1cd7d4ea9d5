//! The kernels of attention in portable Rust, which say what the others compute.

use super::{Place, WIDTH};
use crate::cpu::kv_cache::{BLOCK, CacheFormat};

pub(super) fn scores<const R: usize>(format: CacheFormat, q: [&[f32]; R], blocks: &[u32], scale: f32, out: &mut [f32]) {
    match format {
        CacheFormat::F32 => scores_as::<u32, R>(format, f32::from_bits, q, blocks, scale, out),
        CacheFormat::F16 => scores_as::<u16, R>(format, from_f16, q, blocks, scale, out),
        CacheFormat::Int8 => scores_as::<i8, R>(format, f32::from, q, blocks, scale, out),
    }
}

pub(super) fn weighted<const R: usize>(
    format: CacheFormat,
    p: [&[f32]; R],
    values: &[u32],
    place: Place,
) -> [[f32; WIDTH]; R] {
    match format {
        CacheFormat::F32 => weighted_as::<u32, R>(format, f32::from_bits, p, values, place),
        CacheFormat::F16 => weighted_as::<u16, R>(format, from_f16, p, values, place),
        CacheFormat::Int8 => weighted_as::<i8, R>(format, f32::from, p, values, place),
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
        let (scales, codes) = split(format, block);
        let codes: &[T] = bytemuck::cast_slice(codes);
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
            let out = &mut out[r * stride + b * BLOCK..][..BLOCK];
            for (lane, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                *out = sum * scales.map_or(1.0, |scales| f32::from_bits(scales[lane])) * scale;
            }
        }
    }
}

fn weighted_as<T: bytemuck::AnyBitPattern, const R: usize>(
    format: CacheFormat,
    wide: impl Fn(T) -> f32,
    p: [&[f32]; R],
    values: &[u32],
    place: Place,
) -> [[f32; WIDTH]; R] {
    let Place { head_dim, from, width } = place;
    let mut sums = [[0f32; WIDTH]; R];
    let words = format.block_words(head_dim);
    for position in 0..p[0].len() {
        let (block, lane) = (position / BLOCK, position % BLOCK);
        let (scales, codes) = split(format, &values[block * words..][..words]);
        let codes: &[T] = bytemuck::cast_slice(codes);
        let of_position = scales.map_or(1.0, |scales| f32::from_bits(scales[lane]));
        let v = &codes[BLOCK * from + lane * width..][..width];
        for (sums, p) in sums.iter_mut().zip(p) {
            let p = p[position] * of_position;
            for (sum, v) in sums.iter_mut().zip(v) {
                *sum = p.mul_add(wide(*v), *sum);
            }
        }
    }
    sums
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
