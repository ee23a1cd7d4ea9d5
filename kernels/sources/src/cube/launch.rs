//! A launch of every kernel, in the forms that a GPU gets, at the sizes of BitNet b1.58 2B-4T.

use cubecl::client::Client;
use cubecl::prelude::*;
use half::{bf16, f16};

use super::plan::{BLOCK, LANES, UNITS, block, lanes, tile, tiling};
use super::target::{MatrixUnits, Operand, Target};
use super::{attention, cache, dense, gate, groups, matmul, matvec, norm, quantize, rope, top, training};
use crate::cpu::gate::Gate;
use crate::cpu::kv_cache::CacheFormat;

/// What [`all`] launches: everything but `halves` and `alone`, which are for processors.
pub const KERNELS: [&str; 25] = [
    "matvec",
    "tiles",
    "groups",
    "quantize",
    "quantize_packed",
    "rms_norm",
    "gated",
    "rope",
    "scales",
    "write",
    "together",
    "combine",
    "of_segments",
    "merge",
    "arrange",
    "product",
    "decode",
    "absmax",
    "arrange",
    "values_of_codes",
    "mean_magnitudes",
    "pack",
    "unpack",
    "round_to",
    "adamw",
];

const HIDDEN: usize = 2560;
const INNER: usize = 6912;

/// A buffer of `len` values of 32 bits.
fn buffer(client: &Client, len: usize) -> BufferArg {
    // SAFETY: the length is that of the buffer, and nothing runs.
    unsafe { BufferArg::from_raw_parts(client.empty(len * size_of::<f32>()), len) }
}

/// Launches all kernels.
pub fn all(client: &Client) {
    let target = Target::of(client);
    for tokens in [1, 4, 8] {
        few_tokens(client, &target, tokens);
    }
    for tokens in [20, 60, 300] {
        tiles(client, &target, tokens, 4);
    }
    // A width of which no vector of four words is a part.
    tiles(client, &target, 300, 1);
    quantizers(client, &target);
    attention(client, &target);
    rows(client, &target);
    of_training(client, &target);

    let (count, dim) = target.rows(8);
    let b = |len| buffer(client, len);
    let units = target.units_of_a_row();
    norm::rms_norm::launch(client, count, dim, 4, b(8 * HIDDEN), b(HIDDEN), b(8 * HIDDEN), 8, 1e-5, units);
    for kind in [Gate::Relu2, Gate::Silu] {
        let (count, dim) = target.tasks(INNER);
        gate::gated::launch(client, count, dim, 4, b(INNER), b(INNER), b(INNER), kind);
    }
}

/// Q, K and V, gate and up, and one matrix, for activations as bytes and as floats.
fn few_tokens(client: &Client, target: &Target, tokens: usize) {
    let b = |len| buffer(client, len);
    let forms = [
        (1, None, [HIDDEN, 0, 0]),
        (3, None, [HIDDEN, 640, 640]),
        (2, Some(Gate::Relu2), [INNER, INNER, 0]),
        (2, Some(Gate::Silu), [INNER, INNER, 0]),
    ];
    for (matrices, gate, rows) in forms {
        let every = [(true, true), (true, false), (false, true), (false, false)];
        // One matrix with and without what it is added to.
        let added = if matrices == 1 { &[false, true][..] } else { &[false] };
        for (((bytes, in_plane), side_by_side), added) in every
            .into_iter()
            .flat_map(|way| [(way, 1), (way, BLOCK)])
            .flat_map(|way| added.iter().map(move |added| (way, *added)))
        {
            let (tile, [r, s, t]) = (tile(tokens), rows);
            let outputs = if gate.is_some() { r } else { r + s + t };
            let block = block(side_by_side, tile, gate.is_some());
            let (lanes, count, dim) = lanes(target, outputs / block * tokens.div_ceil(tile), LANES);
            let in_plane = in_plane && lanes <= target.plane;
            let scale_of_row = [false, true, false];
            let how = matvec::How { bytes, tile, block, lanes, units: UNITS, in_plane, matrices, scale_of_row, gate };
            let words = |i: usize| (i < matrices).then(|| b(rows[i] * HIDDEN / 16));
            let scale = |i: usize| (i < matrices).then(|| b(if scale_of_row[i] { rows[i] } else { 1 }));
            let codes = b(tokens * HIDDEN / if bytes { 4 } else { 1 });
            // SAFETY: nothing runs.
            unsafe {
                matvec::matvec::launch_unchecked(
                    client,
                    count,
                    dim,
                    4,
                    b(r * HIDDEN / 16),
                    b(1),
                    words(1).into(),
                    scale(1).into(),
                    words(2).into(),
                    scale(2).into(),
                    codes,
                    b(2 * tokens),
                    added.then(|| b(tokens * outputs)).into(),
                    b(tokens * outputs),
                    r,
                    s,
                    t,
                    HIDDEN / 64,
                    how,
                );
            }
        }
    }
    for one_scale in [true, false] {
        let (count, dim) = target.tasks(HIDDEN * tokens);
        let scales = b(if one_scale { 1 } else { HIDDEN * HIDDEN / 128 });
        let words = b(HIDDEN * HIDDEN / 16);
        let (codes, meta, out) = (b(tokens * HIDDEN), b(2 * tokens), b(tokens * HIDDEN));
        groups::groups::launch(
            client,
            count,
            dim,
            4,
            words,
            codes,
            meta,
            scales,
            out,
            HIDDEN,
            HIDDEN / 64,
            2,
            one_scale,
        );
    }
}

/// A matrix times many tokens, as each operand that the device's units take.
fn tiles(client: &Client, target: &Target, tokens: usize, vector: usize) {
    let b = |len| buffer(client, len);
    let with = |matrix| {
        let mut other = *target;
        other.matrix = matrix;
        other
    };
    let mut targets = vec![*target, with(None)];
    // The floats of devices without int8, where this one has both.
    if let Some(units) = target.matrix.filter(|units| units.operand == Operand::Int8) {
        targets.extend([Operand::F16, Operand::Bf16].map(|operand| with(Some(MatrixUnits { operand, ..units }))));
    }
    for (target, smaller) in targets.iter().flat_map(|target| [(target, true), (target, false)]) {
        let (operand, tiling) = tiling(target, tokens, smaller);
        let launch = match operand {
            Operand::Int8 => matmul::tiles::launch_unchecked::<i8, i32>,
            Operand::F16 => matmul::tiles::launch_unchecked::<f16, f32>,
            Operand::Bf16 => matmul::tiles::launch_unchecked::<bf16, f32>,
            Operand::F32 => matmul::tiles::launch_unchecked::<f32, f32>,
        };
        // SAFETY: nothing runs.
        unsafe {
            launch(
                client,
                CubeCount::new_1d(target.cubes(100)),
                CubeDim::new_1d(tiling.units as u32),
                vector,
                b(INNER * HIDDEN / 16),
                b(tokens * HIDDEN / 4),
                b(2 * tokens),
                b(INNER),
                b(tokens * INNER),
                INNER,
                HIDDEN / 16 / vector,
                true,
                operand == Operand::Int8,
                tiling,
            );
        }
    }
}

fn quantizers(client: &Client, target: &Target) {
    let b = |len| buffer(client, len);
    let units = target.units_of_a_row();
    for with_norm in [true, false] {
        let norm = || with_norm.then(|| b(HIDDEN));
        for rounded in [true, false] {
            let (count, dim) = target.rows(4);
            let (x, codes, meta) = (b(4 * HIDDEN), b(4 * HIDDEN), b(8));
            let (width, words) = (HIDDEN / 4, HIDDEN / 16);
            quantize::quantize::launch(
                client,
                count,
                dim,
                4,
                x,
                norm().into(),
                codes,
                meta,
                width,
                words,
                1e-5,
                4,
                units,
                rounded,
            );
        }
        let (count, dim) = target.rows(4);
        let (x, codes, meta) = (b(4 * HIDDEN), b(HIDDEN), b(8));
        let (width, words) = (HIDDEN / 4, HIDDEN / 16);
        quantize::quantize_packed::launch(
            client,
            count,
            dim,
            4,
            x,
            norm().into(),
            codes,
            meta,
            width,
            words,
            1e-5,
            4,
            units,
            4,
        );
    }
}

fn attention(client: &Client, target: &Target) {
    let b = |len| buffer(client, len);
    let (heads, kv_heads, head_dim, half, blocks) = (20, 5, 128, 64, 8);
    let (count, dim) = target.tasks(heads * head_dim);
    let (x, cos, sin, out) = (b(heads * head_dim), b(half), b(half), b(heads * head_dim));
    rope::rope::launch(client, count, dim, x, cos, sin, out, 0, 1, heads, head_dim, half);
    for format in [CacheFormat::F32, CacheFormat::F16, CacheFormat::Int8] {
        let words = format.block_words(head_dim);
        let of_cache = kv_heads * blocks * words;
        let (count, dim) = target.tasks(kv_heads);
        let (x, cos, sin, places, to) = (b(kv_heads * head_dim), b(half), b(half), b(2), b(of_cache));
        cache::scales::launch(client, count, dim, x, cos, sin, places, to, kv_heads, blocks, head_dim, half, words);
        let (count, dim) = target.tasks(kv_heads * words);
        let (k, v, cos, sin, places) = (b(kv_heads * head_dim), b(kv_heads * head_dim), b(half), b(half), b(2));
        let (keys, values) = (b(of_cache), b(of_cache));
        cache::write::launch(
            client, count, dim, k, v, cos, sin, places, keys, values, kv_heads, blocks, head_dim, half, words, format,
        );
        let units = target.units_of_a_row();
        for (tokens, splits) in [(1, 1), (1, 4), (4, 1)] {
            let tile = attention::Tile { head_dim, half, heads: 4, of_kv_head: 1, tokens, units, splits };
            let (count, dim) = target.rows(kv_heads * splits);
            let (q, cos, sin, places) =
                (b(tokens * heads * head_dim), b(tokens * half), b(tokens * half), b(2 * tokens));
            let (keys, values, out) = (b(of_cache), b(of_cache), b(tokens * heads * splits * (head_dim + 2)));
            attention::together::launch(
                client, count, dim, q, cos, sin, places, keys, values, out, tokens, kv_heads, blocks, 0.1, tile, words,
                format,
            );
        }
    }
    let (count, dim) = target.tasks(heads * head_dim);
    let (parts, out) = (b(heads * 4 * (head_dim + 2)), b(heads * head_dim));
    attention::combine::launch(client, count, dim, parts, out, head_dim, 4);

    let (vocab, segment, best, units) = (128_256, 4096, 40, target.units_of_a_row());
    let segments = 32;
    let (cubes, dim) = target.rows(segments);
    let (logits, values, ids, sums) = (b(vocab), b(segments * best), b(segments * best), b(2 * segments));
    top::of_segments::launch(client, cubes, dim, logits, values, ids, sums, vocab, segment, best, units);
    let (cubes, dim) = target.rows(1);
    let (values, ids, sums, out) = (b(segments * best), b(segments * best), b(2 * segments), b(1 + 2 * best));
    top::merge::launch(client, cubes, dim, values, ids, sums, out, segments, best, units);
}

/// The head and rows of the embedding.
fn rows(client: &Client, target: &Target) {
    let b = |len| buffer(client, len);
    use dense::Words;
    for format in [Words::F32, Words::F16, Words::Bf16, Words::Codes { units: 8 }, Words::SixBits { units: 1 }] {
        let count = 1000;
        let words = format.stored(4, HIDDEN);
        let steps = HIDDEN / format.of_step(4);
        let (cubes, dim) = target.tasks(HIDDEN / format.values());
        dense::arrange::launch(client, cubes, dim, b(HIDDEN), b(HIDDEN), HIDDEN, 4, format);
        let (lanes, cubes, dim) = lanes(target, count, LANES);
        let (weights, x, out) = (b(count * words), b(HIDDEN), b(count));
        // SAFETY: nothing runs.
        unsafe {
            dense::product::launch_unchecked(
                client, cubes, dim, 4, weights, x, out, count, 1, steps, format, 1, 1, lanes, UNITS,
            );
        }
        let (cubes, dim) = target.tasks(4 * steps);
        dense::decode::launch(client, cubes, dim, 4, b(4 * words), b(4 * HIDDEN), HIDDEN, steps, format);
    }
}

fn of_training(client: &Client, target: &Target) {
    let b = |len| buffer(client, len);
    let units = target.units_of_a_row();
    let (square, words) = (HIDDEN * HIDDEN, HIDDEN * HIDDEN / 16);
    let (count, dim) = target.rows(4);
    training::absmax::launch(client, count, dim, 4, b(4 * HIDDEN), b(HIDDEN), b(4), HIDDEN / 4, HIDDEN / 4, units);
    for per_word in [1, 4] {
        let (count, dim) = target.rows(4);
        let (codes, multiplier, out, meta) = (b(HIDDEN), b(4), b(4 * HIDDEN / per_word), b(8));
        let (own, words) = (HIDDEN / 4, HIDDEN / 16);
        training::arrange::launch(client, count, dim, codes, multiplier, out, meta, own, words, 4, per_word, units);
    }
    for divided in [true, false] {
        let (count, dim) = target.tasks(HIDDEN);
        let (codes, multiplier, out) = (b(HIDDEN), b(4), b(4 * HIDDEN));
        training::values_of_codes::launch(client, count, dim, codes, multiplier, out, HIDDEN, HIDDEN / 4, divided);
    }
    let (count, dim) = target.rows(HIDDEN);
    training::mean_magnitudes::launch(client, count, dim, b(square), b(HIDDEN), HIDDEN, HIDDEN, 1e-5, units);
    let (count, dim) = target.tasks(words);
    training::pack::launch(client, count, dim, b(square), b(HIDDEN), b(words), HIDDEN, HIDDEN);
    for scaled in [true, false] {
        let (count, dim) = target.tasks(words);
        training::unpack::launch(client, count, dim, b(words), b(HIDDEN), b(square), HIDDEN, HIDDEN, scaled);
    }
    for to in [training::Half::F16, training::Half::Bf16] {
        let (count, dim) = target.tasks(HIDDEN);
        training::round_to::launch(client, count, dim, b(HIDDEN), b(HIDDEN), to);
    }
    let (count, dim) = target.tasks(HIDDEN);
    let [w, gradient, mean, squares] = [(); 4].map(|()| b(HIDDEN));
    training::adamw::launch(client, count, dim, w, gradient, mean, squares, 1.0, 1.0, 0.9, 0.95, 1e-8, 1e-3, 1.0);
}
