//! The float kernels, on every instruction set of this processor, against plain loops in f64; and the same bits on all.

use bitnet_kernels::cpu::attention::{AttentionShape, attention};
use bitnet_kernels::cpu::gate::gated;
use bitnet_kernels::cpu::rope::rotate;
use bitnet_kernels::{Gate, Isa};

fn noise(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
}

/// `softmax(q k^T * scale) v` by its definition.
fn exact_attention(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape, scale: f64) -> Vec<f64> {
    let AttentionShape { batch, tokens, heads, kv_heads, head_dim, capacity, start } = shape;
    let mut out = Vec::new();
    for (b, t, h) in (0..batch).flat_map(|b| (0..tokens).flat_map(move |t| (0..heads).map(move |h| (b, t, h)))) {
        let query = &q[((b * tokens + t) * heads + h) * head_dim..][..head_dim];
        let row = |cache: &'_ [f32], p: usize| -> Vec<f64> {
            let at = ((b * kv_heads + h * kv_heads / heads) * capacity + p) * head_dim;
            cache[at..at + head_dim].iter().map(|x| f64::from(*x)).collect()
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

#[test]
fn attention_is_its_definition_and_reads_no_later_position() {
    for (batch, tokens, heads, kv_heads, head_dim, capacity, start) in [
        (1, 1, 1, 1, 8, 1, 0),
        (1, 1, 4, 2, 64, 40, 17),
        (2, 5, 6, 2, 20, 9, 3),
        (1, 70, 4, 1, 33, 100, 0),
        (1, 3, 5, 5, 128, 300, 256),
    ] {
        let shape = AttentionShape { batch, tokens, heads, kv_heads, head_dim, capacity, start };
        let q = noise(1, batch * tokens * heads * head_dim);
        let cache = |seed| {
            let mut cache = noise(seed, batch * kv_heads * capacity * head_dim);
            for head in cache.chunks_exact_mut(capacity * head_dim) {
                head[(start + tokens) * head_dim..].fill(f32::NAN);
            }
            cache
        };
        let (k, v) = (cache(2), cache(3));
        let exact = exact_attention(&q, &k, &v, shape, 0.25);
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut out = vec![0f32; q.len()];
            attention(isa, &q, &k, &v, shape, 0.25, &mut out);
            for (y, exact) in out.iter().zip(&exact) {
                assert!((f64::from(*y) - exact).abs() < 1e-5, "{isa} {shape:?}: {y} {exact}");
            }
            assert_eq!(&out, first.get_or_insert_with(|| out.clone()), "{isa} {shape:?}");
        }
    }
}

#[test]
fn rope_turns_the_halves_of_every_head() {
    let (shape @ [batch, tokens, heads, head_dim], half, start) = ([2, 4, 3, 20], 8, 5);
    let (x, cos, sin) = (noise(1, 2 * 4 * 3 * 20), noise(2, 9 * half), noise(3, 9 * half));
    let mut out = x.clone();
    rotate(&mut out, shape, &cos, &sin, half, start);
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
            gated(kind, &gate, &up, &mut out);
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
    gated(Gate::Relu2, &[400.0], &[3.0], &mut out);
    assert_eq!(out, [480_000.0]);
}
