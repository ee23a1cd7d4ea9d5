//! The float kernels, on every instruction set of this processor, against plain loops in f64; and the same bits on all.

use std::sync::Arc;

use bitnet_kernels::cpu::attention::{AttentionShape, attention};
use bitnet_kernels::cpu::gate::gated;
use bitnet_kernels::cpu::kv_cache::{BLOCK, CacheFormat, CacheShape, CacheSide};
use bitnet_kernels::cpu::pool::Pool;
use bitnet_kernels::cpu::rope::rotate;
use bitnet_kernels::{Gate, Isa};

fn noise(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
}

/// `softmax(q k^T * scale) v` by its definition, with `k` and `v` of shape `[batch, positions, kv_heads, head_dim]`.
fn exact_attention(q: &[f32], k: &[f32], v: &[f32], cache: CacheShape, shape: AttentionShape, scale: f64) -> Vec<f64> {
    let (AttentionShape { tokens, heads, start }, CacheShape { batch, kv_heads, head_dim, .. }) = (shape, cache);
    let positions = start + tokens;
    let mut out = Vec::new();
    for (b, t, h) in (0..batch).flat_map(|b| (0..tokens).flat_map(move |t| (0..heads).map(move |h| (b, t, h)))) {
        let query = &q[((b * tokens + t) * heads + h) * head_dim..][..head_dim];
        let row = |side: &'_ [f32], p: usize| -> Vec<f64> {
            let at = ((b * positions + p) * kv_heads + h * kv_heads / heads) * head_dim;
            side[at..at + head_dim].iter().map(|x| f64::from(*x)).collect()
        };
        let score = |p| query.iter().zip(row(k, p)).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * scale;
        let weights: Vec<f64> = (0..=start + t).map(|p| f64::exp(score(p))).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = vec![0f64; head_dim];
        for (p, weight) in weights.iter().enumerate() {
            sum.iter_mut().zip(row(v, p)).for_each(|(sum, v)| *sum += weight / total * v);
        }
        out.extend(sum);
    }
    out
}

/// Keys or values in a cache whose other positions are not numbers, written in two parts.
fn stored(cache: CacheShape, side: CacheSide, x: &[f32], first: usize) -> Vec<u32> {
    let of_token = cache.kv_heads * cache.head_dim;
    let of_sequence = x.len() / cache.batch;
    let mut words = vec![u32::MAX; cache.words()];
    let part = |from: usize, to: usize| -> Vec<f32> {
        let rows = x.chunks_exact(of_sequence).map(|s| &s[from * of_token..to * of_token]);
        rows.collect::<Vec<_>>().concat()
    };
    cache.write(side, &part(0, first), 0, &mut words);
    cache.write(side, &part(first, of_sequence / of_token), first, &mut words);
    words
}

#[test]
fn attention_is_its_definition_and_reads_no_later_position() {
    for (batch, tokens, heads, kv_heads, head_dim, start) in [
        (1, 1, 1, 1, 8, 0),
        (1, 1, 4, 2, 64, 17),
        (2, 5, 6, 2, 20, 3),
        (1, 70, 4, 1, 33, 0),
        (1, 3, 5, 5, 128, 256),
        (2, 1, 6, 2, 48, 700),
        (1, 1, 18, 2, 64, 256),
    ] {
        for format in CacheFormat::ALL {
            let positions: usize = start + tokens;
            let values = batch * positions * kv_heads * head_dim;
            let blocks = positions.div_ceil(BLOCK) + 1;
            let cache = CacheShape { batch, kv_heads, head_dim, blocks, format };
            let shape = AttentionShape { tokens, heads, start };
            let q = noise(1, batch * tokens * heads * head_dim);
            let (k, v) = (noise(2, values), noise(3, values));
            let (keys, values) =
                (stored(cache, CacheSide::Keys, &k, start), stored(cache, CacheSide::Values, &v, start));
            let exact = exact_attention(&q, &k, &v, cache, shape, 0.25);
            let tolerance = match format {
                CacheFormat::F32 => 5e-5,
                CacheFormat::F16 => 4e-3,
                CacheFormat::Int8 => 0.1,
            };
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = vec![0f32; q.len()];
                attention(isa, &q, &keys, &values, cache, shape, 0.25, &mut out);
                for (y, exact) in out.iter().zip(&exact) {
                    assert!((f64::from(*y) - exact).abs() < tolerance, "{isa} {cache:?} {shape:?}: {y} {exact}");
                }
                assert_eq!(&out, first.get_or_insert_with(|| out.clone()), "{isa} {shape:?}");
            }
        }
    }
}

#[test]
fn the_number_of_query_tokens_and_threads_changes_nothing() {
    for format in CacheFormat::ALL {
        number_of_query_tokens_and_threads(CacheShape { batch: 1, kv_heads: 2, head_dim: 40, blocks: 20, format });
    }
}

fn number_of_query_tokens_and_threads(cache: CacheShape) {
    let (heads, tokens) = (6, 300);
    let q = noise(1, tokens * heads * cache.head_dim);
    let kv = noise(2, tokens * cache.kv_heads * cache.head_dim);
    let keys = stored(cache, CacheSide::Keys, &kv, 0);
    let values = stored(cache, CacheSide::Values, &kv, 0);
    let isa = Isa::active();
    let mut whole = vec![0f32; q.len()];
    let shape = AttentionShape { tokens, heads, start: 0 };
    attention(isa, &q, &keys, &values, cache, shape, 0.2, &mut whole);
    for threads in [1, 3] {
        Arc::new(Pool::new(threads)).install(|| {
            for token in [0, 5, 255, 256, 299] {
                let of_token = token * heads * cache.head_dim..(token + 1) * heads * cache.head_dim;
                let mut out = vec![0f32; of_token.len()];
                let shape = AttentionShape { tokens: 1, heads, start: token };
                attention(isa, &q[of_token.clone()], &keys, &values, cache, shape, 0.2, &mut out);
                assert_eq!(out, whole[of_token], "token {token}, {threads} threads");
            }
        });
    }
}

#[test]
fn rope_turns_the_halves_of_every_head() {
    let (shape @ [batch, tokens, heads, head_dim], half, start) = ([2, 4, 3, 20], 8, 5);
    let (x, cos, sin) = (noise(1, 2 * 4 * 3 * 20), noise(2, 9 * half), noise(3, 9 * half));
    let mut out = x.clone();
    rotate(Isa::active(), &mut out, shape, &cos, &sin, half, start);
    for isa in Isa::available() {
        let mut same = x.clone();
        rotate(isa, &mut same, shape, &cos, &sin, half, start);
        assert_eq!(same, out, "{isa}");
    }
    for i in 0..batch * tokens * heads {
        let position = start + i / heads % tokens;
        let (x, out) = (&x[i * head_dim..][..head_dim], &out[i * head_dim..][..head_dim]);
        for j in 0..half {
            let (a, b) = (f64::from(x[j]), f64::from(x[j + half]));
            let (c, s) = (f64::from(cos[position * half + j]), f64::from(sin[position * half + j]));
            assert!((f64::from(out[j]) - (a * c - b * s)).abs() < 1e-5);
            assert!((f64::from(out[j + half]) - (b * c + a * s)).abs() < 1e-5);
        }
        assert_eq!(out[2 * half..], x[2 * half..], "the rest of the head stays");
    }
}

#[test]
fn gates_are_their_formulas_at_any_length() {
    for length in [0, 1, 4095, 4096, 4097, 10_000, 70_000] {
        let (gate, up) = (noise(4, length), noise(5, length));
        for kind in [Gate::Relu2, Gate::Silu] {
            let mut out = vec![f32::NAN; length];
            gated(Isa::active(), kind, &gate, &up, &mut out);
            for isa in Isa::available() {
                let mut same = vec![f32::NAN; length];
                gated(isa, kind, &gate, &up, &mut same);
                assert_eq!(same, out, "{isa}");
            }
            for ((y, gate), up) in out.iter().zip(&gate).zip(&up) {
                let g = f64::from(*gate);
                let act = if kind == Gate::Relu2 { g.max(0.0).powi(2) } else { g / (1.0 + (-g).exp()) };
                assert!((f64::from(*y) - act * f64::from(*up)).abs() < 1e-5, "{kind:?} {gate}");
            }
        }
    }
}

#[test]
fn a_squared_relu_may_leave_the_range_of_half_precision() {
    let mut out = [0f32];
    gated(Isa::active(), Gate::Relu2, &[400.0], &[3.0], &mut out);
    assert_eq!(out, [480_000.0]);
}
