//! The kernels alone, at the sizes of BitNet b1.58 2B-4T, beside what the machine does at most:
//!
//!     cargo bench -p bitnet-benches --bench kernels
//!
//! Bytes are those that must come from memory, items are multiply-adds. Weights and caches take turns in more memory than
//! caches hold, as in a decode step, where every one of them is read once.

use std::cell::Cell;
use std::fmt;

use bitnet_kernels::cpu::attention::{AttentionShape, attention};
use bitnet_kernels::cpu::dense::{self, DenseView};
use bitnet_kernels::cpu::float_activations::linear_float;
use bitnet_kernels::cpu::kv_cache::{CacheShape, CacheSide};
use bitnet_kernels::cpu::norm::rms_norm;
use bitnet_kernels::cpu::probe::{ReadProbe, int8_peak};
use bitnet_kernels::cpu::row_tiles::RowTiles;
use bitnet_kernels::cpu::ternary::{ScaleView, TernaryView, linear};
use bitnet_kernels::cpu::{pool, tiles::WeightOrder};
use bitnet_kernels::{CacheFormat, Isa, RowFormat};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// More than the last cache holds.
const MEMORY: usize = 256 << 20;

const HIDDEN: usize = 2560;
const MLP: usize = 6912;
const HEADS: usize = 20;
const KV_HEADS: usize = 5;
const HEAD_DIM: usize = 128;
const VOCABULARY: usize = 128_256;
const PROMPT: usize = 512;
const DEPTH: usize = 2048;

/// Bytes of a line of the cache.
const LINE: usize = 64;

fn main() {
    let isa = Isa::active();
    let read = ReadProbe::new(MEMORY).map_or(f64::NAN, |probe| probe.bandwidth(isa));
    let products = int8_peak(isa);
    println!(
        "{isa}, {} threads: memory reads at most {:.1} GB/s, int8 products at most {:.1} G/s",
        pool::threads(),
        read / 1e9,
        products / 1e9
    );
    divan::main();
}

/// A linear layer of the model.
#[derive(Clone, Copy)]
struct Linear {
    name: &'static str,
    rows: usize,
    cols: usize,
    order: WeightOrder,
}

/// All of them, in both orders of the native kernels.
fn linears() -> impl Iterator<Item = Linear> {
    let shapes = [
        ("k, v", KV_HEADS * HEAD_DIM, HIDDEN),
        ("q, o", HIDDEN, HIDDEN),
        ("gate, up", MLP, HIDDEN),
        ("down", HIDDEN, MLP),
    ];
    [WeightOrder::Tiles, WeightOrder::DenseTiles]
        .into_iter()
        .flat_map(move |order| shapes.map(|(name, rows, cols)| Linear { name, rows, cols, order }))
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.order == WeightOrder::DenseTiles { "1.6" } else { "2" };
        write!(f, "{bits} bits, {} {}x{}", self.name, self.rows, self.cols)
    }
}

impl Linear {
    /// Its weights, `copies` times.
    fn weights(&self, copies: usize) -> Vec<u32> {
        let words = trits(self.rows * WeightOrder::Tiles.words(self.cols));
        WeightOrder::Tiles.convert(self.order, words, self.cols).repeat(copies)
    }

    fn words(&self) -> usize {
        self.rows * self.order.words(self.cols)
    }

    fn view<'a>(&self, words: &'a [u32]) -> TernaryView<'a> {
        TernaryView { words, order: self.order, rows: self.rows, cols: self.cols, scale: ScaleView::Tensor(1.0) }
    }
}

/// Parts of a memory, one after the other and again from the beginning.
struct Ring<'a, T> {
    memory: &'a [T],
    part: usize,
    at: Cell<usize>,
}

impl<'a, T> Ring<'a, T> {
    fn new(memory: &'a [T], part: usize) -> Self {
        Self { memory, part, at: Cell::new(0) }
    }

    fn next(&self) -> &'a [T] {
        let at = if self.at.get() + self.part > self.memory.len() { 0 } else { self.at.get() };
        self.at.set(at + self.part);
        &self.memory[at..at + self.part]
    }
}

/// `len` random words of trits; no code is 3.
fn trits(len: usize) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let word = || {
        let codes = random.next_u32();
        codes & !(codes & (codes >> 1) & 0x5555_5555)
    };
    std::iter::repeat_with(word).take(len).collect()
}

/// `len` random values between -1 and 1.
fn floats(len: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    std::iter::repeat_with(|| random.next_u32() as i32 as f32 / i32::MAX as f32).take(len).collect()
}

#[divan::bench(args = linears())]
fn ternary_1_token(bencher: Bencher<'_, '_>, layer: Linear) {
    let (isa, x, mut out) = (Isa::active(), floats(layer.cols), vec![0f32; layer.rows]);
    let memory = layer.weights((MEMORY / 4).div_ceil(layer.words()));
    let ring = Ring::new(&memory, layer.words());
    bencher
        .counter(BytesCount::of_many::<u32>(layer.words()))
        .bench_local(|| linear(isa, black_box(&x), 1, &layer.view(ring.next()), &mut out));
}

#[divan::bench(args = linears(), max_time = 1)]
fn ternary_512_tokens(bencher: Bencher<'_, '_>, layer: Linear) {
    let (isa, x, words) = (Isa::active(), floats(PROMPT * layer.cols), layer.weights(1));
    let mut out = vec![0f32; PROMPT * layer.rows];
    bencher
        .counter(ItemsCount::new(PROMPT * layer.rows * layer.cols))
        .bench_local(|| linear(isa, black_box(&x), PROMPT, &layer.view(&words), &mut out));
}

/// A layer of TriLM's or Bonsai's: activations that are not quantized.
#[divan::bench(args = linears(), max_time = 1)]
fn float_activations_1_token(bencher: Bencher<'_, '_>, layer: Linear) {
    let (isa, x, mut out) = (Isa::active(), floats(layer.cols), vec![0f32; layer.rows]);
    let memory = layer.weights((MEMORY / 4).div_ceil(layer.words()));
    let ring = Ring::new(&memory, layer.words());
    bencher
        .counter(BytesCount::of_many::<u32>(layer.words()))
        .bench_local(|| linear_float(isa, black_box(&x), 1, &layer.view(ring.next()), &mut out));
}

#[divan::bench(args = ["f16", "q6_k", "q8_0", "q4_0"], max_time = 1)]
fn head(bencher: Bencher<'_, '_>, format: &str) {
    let tiles = match format {
        "q6_k" => Some(RowTiles::Q6K),
        "q8_0" => Some(RowTiles::Bytes),
        "q4_0" => Some(RowTiles::Nibbles),
        _ => None,
    };
    let size = tiles.map_or(VOCABULARY * 2 * HIDDEN, |tiles| tiles.bytes(VOCABULARY, HIDDEN));
    // Any two bytes of this are a small f16, and so a scale of a tile, too. From a line of the cache on, as a model has it.
    let memory = f16::from_f32(0.01).to_le_bytes().repeat(size / 2 + LINE);
    let begin = memory.as_ptr().align_offset(LINE);
    let bytes = &memory[begin..begin + size];
    let view = match tiles {
        Some(tiles) => DenseView::Tiles { bytes, tiles, rows: VOCABULARY, cols: HIDDEN },
        None => DenseView::Stored { bytes, cols: HIDDEN, row_bytes: 2 * HIDDEN, format: RowFormat::F16 },
    };
    let (isa, x, mut out) = (Isa::active(), floats(HIDDEN), vec![0f32; VOCABULARY]);
    bencher.counter(BytesCount::new(size)).bench_local(|| dense::linear(isa, black_box(&x), 1, &view, &mut out));
}

#[divan::bench(args = CacheFormat::ALL)]
fn attention_2048(bencher: Bencher<'_, '_>, format: CacheFormat) {
    let cache = CacheShape { batch: 1, kv_heads: KV_HEADS, head_dim: HEAD_DIM, blocks: DEPTH.div_ceil(16), format };
    let side = |side: CacheSide| {
        let mut words = vec![0u32; cache.words()];
        cache.write(side, &floats(DEPTH * KV_HEADS * HEAD_DIM), 0, &mut words);
        words.repeat((MEMORY / 8).div_ceil(cache.words()))
    };
    let (keys, values) = (side(CacheSide::Keys), side(CacheSide::Values));
    let (keys, values) = (Ring::new(&keys, cache.words()), Ring::new(&values, cache.words()));
    let (isa, q, mut out) = (Isa::active(), floats(HEADS * HEAD_DIM), vec![0f32; HEADS * HEAD_DIM]);
    let shape = AttentionShape { tokens: 1, heads: HEADS, start: DEPTH - 1 };
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    bencher
        .counter(BytesCount::of_many::<u32>(2 * cache.words()))
        .bench_local(|| attention(isa, black_box(&q), keys.next(), values.next(), cache, shape, scale, &mut out));
}

#[divan::bench]
fn rms_norm_1_token(bencher: Bencher<'_, '_>) {
    let (isa, x, weight, mut out) = (Isa::active(), floats(HIDDEN), floats(HIDDEN), vec![0f32; HIDDEN]);
    bencher
        .counter(BytesCount::of_many::<f32>(2 * HIDDEN))
        .bench_local(|| rms_norm(isa, black_box(&x), &weight, 1e-5, &mut out));
}
