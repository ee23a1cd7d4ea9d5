//! How fast each packing is decoded and encoded on one thread, in GB of packed bytes a second, and floats are quantized.
//!
//! Run with `cargo bench -p bitnet-ternary`. The matrix has the shape of the largest linear of the 2B-4T model.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bitnet_ternary::{Granularity, Packing, Scale, TernaryMatrix, quantize};

const ROWS: usize = 2560;
const COLS: usize = 6912;
const REPEATS: usize = 15;

fn main() {
    // `cargo test --benches` runs this too; there it only has to work.
    let repeats = if std::env::args().any(|arg| arg == "--bench") { REPEATS } else { 1 };
    let matrix = TernaryMatrix::from_trits(ROWS, COLS, &random_trits(ROWS * COLS), Scale::Tensor(0.5)).unwrap();
    let packings = [
        Packing::HfPacked,
        Packing::I2S,
        Packing::I2SArm64,
        Packing::I2SFourRows,
        Packing::Tq1_0,
        Packing::Tq2_0,
        Packing::Iq2Bn,
        Packing::Iq2BnR4,
        Packing::Iq1Bn,
        Packing::Q2_0 { group: 64 },
        Packing::Q2_0 { group: 128 },
    ];
    println!("{ROWS} x {COLS}, one thread, best of {repeats}");
    println!("{:<26}{:>10}{:>14}{:>14}", "packing", "bytes", "decode GB/s", "encode GB/s");
    for packing in packings {
        let bytes = packing.encode(&matrix).unwrap();
        let decode = best(repeats, || packing.decode(black_box(&bytes), ROWS, COLS).unwrap());
        let encode = best(repeats, || packing.encode(black_box(&matrix)).unwrap());
        let rate = |time: Duration| bytes.len() as f64 / time.as_secs_f64() / 1e9;
        println!("{:<26}{:>10}{:>14.2}{:>14.2}", packing.to_string(), bytes.len(), rate(decode), rate(encode));
    }
    let masters: Vec<f32> =
        random_trits(ROWS * COLS).iter().enumerate().map(|(i, t)| f32::from(*t) + i as f32 * 1e-8).collect();
    let floats = matrix.to_f32();
    println!("{:<26}{:>10}", "quantizer", "weights/ns");
    let rate = |time: Duration| masters.len() as f64 / time.as_secs_f64() / 1e9;
    let time = best(repeats, || quantize::absmean(black_box(&masters), ROWS, COLS, Granularity::Tensor).unwrap());
    println!("{:<26}{:>10.2}", "absmean", rate(time));
    let time = best(repeats, || quantize::already_ternary(black_box(&floats), ROWS, COLS).unwrap());
    println!("{:<26}{:>10.2}", "already_ternary", rate(time));
}

/// The shortest of several runs.
fn best<T>(repeats: usize, run: impl Fn() -> T) -> Duration {
    let time = |_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed()
    };
    (0..repeats).map(time).min().unwrap_or_default()
}

/// Trits from a multiplicative congruential generator: no pattern that a branch predictor could learn.
fn random_trits(count: usize) -> Vec<i8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % 3) as i8 - 1
    };
    (0..count).map(|_| next()).collect()
}
