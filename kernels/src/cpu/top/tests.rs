//! The search against the whole head.

use half::{bf16, f16};
use proptest::prelude::*;

use super::activations::Activations;
use super::*;
use crate::cpu::dense::{self, DenseView, RowFormat};
use crate::cpu::isa::Isa;
use crate::cpu::pool::Pool;
use crate::cpu::row_tiles::RowTiles;

/// Floats of about normal distribution, the same for every seed.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() - 3.0).collect()
}

/// A matrix in stored form.
struct Stored {
    bytes: Vec<u8>,
    cols: usize,
    row_bytes: usize,
    format: RowFormat,
    /// Of Q6_K.
    tiles: Option<Vec<u8>>,
}

impl Stored {
    fn new(values: &[f32], cols: usize, format: RowFormat) -> Self {
        let bytes: Vec<u8> = match format {
            RowFormat::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            RowFormat::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let row_bytes = bytes.len() / (values.len() / cols);
        Self { bytes, cols, row_bytes, format, tiles: None }
    }

    /// Rows of Q6_K with these bytes, whatever they mean.
    fn q6_k(seed: u64, rows: usize, blocks: usize) -> Self {
        let mut bytes: Vec<u8> =
            noise(seed, 210 * rows * blocks).iter().map(|x| (x.abs() * 3000.0) as u32 as u8).collect();
        for block in bytes.as_chunks_mut::<210>().0 {
            block[208..].copy_from_slice(&f16::from_f32(1e-3).to_le_bytes());
        }
        let (cols, row_bytes) = (256 * blocks, 210 * blocks);
        let mut tiles = vec![0; RowTiles::Q6K.bytes(rows, cols)];
        RowTiles::Q6K.lay_out(&bytes, row_bytes, cols, None, &mut tiles);
        Self { bytes, cols, row_bytes, format: RowFormat::Other(decode_q6_k), tiles: Some(tiles) }
    }

    fn view(&self) -> DenseView<'_> {
        if let Some(bytes) = &self.tiles {
            let (tiles, rows) = (RowTiles::Q6K, self.bytes.len() / self.row_bytes);
            return DenseView::Tiles { bytes, tiles, rows, cols: self.cols };
        }
        DenseView::Stored { bytes: &self.bytes, cols: self.cols, row_bytes: self.row_bytes, format: self.format }
    }

    fn logits(&self, isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes.len() / self.row_bytes];
        dense::linear(isa, x, 1, &self.view(), &mut out);
        out
    }
}

/// By the definition of the format.
fn decode_q6_k(bytes: &[u8], row: &mut [f32]) {
    for (block, row) in bytes.as_chunks::<210>().0.iter().zip(row.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
        for (j, value) in row.iter_mut().enumerate() {
            let (half, quarter, at) = (j / 128, j % 128 / 32, j % 32);
            let low = block[64 * half + 32 * (quarter % 2) + at] >> (4 * (quarter / 2)) & 15;
            let high = block[128 + 32 * half + at] >> (2 * quarter) & 3;
            let scale = f32::from(block[192 + j / 16].cast_signed());
            *value = d * scale * (f32::from(low | high << 4) - 32.0);
        }
    }
}

/// The whole head, in the order of a sampler.
fn sorted(logits: &[f32]) -> Vec<(u32, f32)> {
    let mut all: Vec<_> = logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// Checks everything that a [`TopLogits`] says. Gives how many rows were read in full.
fn check(isa: Isa, stored: &Stored, x: &[f32], wanted: &Wanted) -> Option<usize> {
    let sketch = Sketch::new(isa, &stored.view()).expect("rows of ordinary numbers");
    let logits = stored.logits(isa, x);
    let found = top(isa, Head { rows: stored.view(), sketch: &sketch }, x, wanted)?;
    for (id, logit) in &found.logits {
        assert_eq!(logit.to_bits(), logits[*id as usize].to_bits(), "the very floats of the head");
    }
    let all = sorted(&logits);
    let listed = |id: u32| found.logits.iter().any(|(other, _)| *other == id);
    let (count, from) = (wanted.count.max(1), found.from);
    assert!(all.iter().take_while(|(_, logit)| *logit >= from).all(|(id, _)| listed(*id)), "all from {from} up");
    assert!(all[count.min(all.len()) - 1].1 >= from, "the {count} largest");
    assert_eq!(found.largest, all[0].1);
    assert!(wanted.also.iter().filter(|id| (**id as usize) < all.len()).all(|id| listed(*id)));
    if let Some(within) = wanted.within {
        assert!(all.iter().filter(|(_, logit)| *logit >= all[0].1 - within).all(|(id, _)| listed(*id)));
    }
    if let Some(share) = wanted.share {
        let weight = |logit: f32| (f64::from(logit - all[0].1) / f64::from(share.temperature)).exp();
        let rest: f64 = all.iter().filter(|(id, _)| !listed(*id)).map(|(_, logit)| weight(*logit)).sum();
        let [least, most] = found.rest;
        assert!((least - 1e-30..=most + 1e-30).contains(&rest), "{least} {rest} {most}");
    }
    Some(found.logits.len())
}

/// A token that is near row `at`, as a hidden state is near the row of the next token.
fn towards(stored: &Stored, at: usize, seed: u64, strength: f32) -> Vec<f32> {
    let mut row = vec![0.0; stored.cols];
    stored.format.decode(&stored.bytes[at * stored.row_bytes..][..stored.row_bytes], &mut row);
    row.iter().zip(noise(seed, stored.cols)).map(|(w, n)| strength * w + n).collect()
}

fn wishes() -> Vec<Wanted> {
    let share = |of_all, temperature| Some(Share { of_all, temperature });
    vec![
        Wanted { count: 1, ..Default::default() },
        Wanted { count: 40, also: vec![3, 3, 77, 100_000], ..Default::default() },
        Wanted { count: 5, within: Some(0.7), ..Default::default() },
        Wanted { share: share(0.95, 0.7), ..Default::default() },
        Wanted { count: 2, share: share(0.5, 1.5), ..Default::default() },
    ]
}

#[test]
fn what_is_found_is_what_the_whole_head_has() {
    let mut found = 0;
    for (cols, seed) in [(256, 1), (320, 2), (100, 3)] {
        let rows = 3_001;
        for format in [RowFormat::F16, RowFormat::Bf16, RowFormat::F32] {
            let stored = Stored::new(&noise(seed, rows * cols), cols, format);
            for (isa, strength) in Isa::available().into_iter().flat_map(|isa| [(isa, 0.0), (isa, 1.0)]) {
                let x = towards(&stored, 1234, seed + 9, strength);
                found += wishes().iter().filter(|wanted| check(isa, &stored, &x, wanted).is_some()).count();
            }
        }
    }
    let stored = Stored::q6_k(5, 2_003, 2);
    for isa in Isa::available() {
        let x = towards(&stored, 99, 4, 0.5);
        found += wishes().iter().filter(|wanted| check(isa, &stored, &x, wanted).is_some()).count();
    }
    assert!(found > 60 * Isa::available().len(), "{found}: most heads need not be read whole");
}

#[test]
fn every_instruction_set_and_number_of_threads_finds_the_same() {
    let stored = Stored::new(&noise(8, 5_003 * 200), 200, RowFormat::F16);
    let x = towards(&stored, 17, 3, 0.3);
    let wanted = Wanted { count: 10, share: Some(Share { of_all: 0.9, temperature: 0.5 }), ..Default::default() };
    let first = Sketch::new(Isa::Scalar, &stored.view()).unwrap();
    let of = |isa| {
        let sketch = Sketch::new(isa, &stored.view()).unwrap();
        assert!(sketch.bytes() == first.bytes(), "{isa}: the same sketch");
        top(isa, Head { rows: stored.view(), sketch: &sketch }, &x, &wanted)
    };
    let expected = of(Isa::Scalar).expect("ten are found");
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let found = std::sync::Arc::new(Pool::new(threads)).install(|| of(isa));
            assert_eq!(found.as_ref(), Some(&expected), "{isa}, {threads} threads");
        }
    }
}

#[test]
fn a_sketch_in_bytes_comes_back_and_one_of_another_size_does_not() {
    let stored = Stored::new(&noise(1, 50 * 70), 70, RowFormat::F32);
    let sketch = Sketch::new(Isa::Scalar, &stored.view()).unwrap();
    assert_eq!(sketch.bytes().len(), Sketch::size(50, 70));
    let bytes = sketch.bytes().to_vec();
    let back = Sketch::from_bytes(50, 70, std::sync::Arc::new(bytes.clone())).unwrap();
    assert_eq!(back.bytes(), sketch.bytes());
    assert!(Sketch::from_bytes(50, 170, std::sync::Arc::new(bytes)).is_none());
}

#[test]
fn what_cannot_be_bounded_is_left_to_the_whole_head() {
    let mut values = noise(2, 64 * 64);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2e15] {
        values[777] = bad;
        assert!(Sketch::new(Isa::active(), &Stored::new(&values, 64, RowFormat::F32).view()).is_none(), "{bad}");
    }
    values[777] = 1.0;
    let stored = Stored::new(&values, 64, RowFormat::F32);
    let sketch = Sketch::new(Isa::active(), &stored.view()).unwrap();
    let mut x = noise(3, 64);
    for bad in [f32::NAN, f32::INFINITY, 2e15] {
        x[5] = bad;
        assert!(top(Isa::active(), Head { rows: stored.view(), sketch: &sketch }, &x, &wishes()[0]).is_none(), "{bad}");
    }
    let zero = [0.0; 64];
    assert!(top(Isa::active(), Head { rows: stored.view(), sketch: &sketch }, &zero, &wishes()[0]).is_none());
    // All rows are the same: nothing separates them.
    let stored = Stored::new(&noise(3, 64).repeat(2000), 64, RowFormat::F32);
    assert_eq!(check(Isa::active(), &stored, &noise(4, 64), &wishes()[0]), None);
}

/// Values that are hard on the bound: outliers, zeros, rows and blocks of other sizes.
fn hard(seed: u64, rows: usize, cols: usize, kind: u8) -> Vec<f32> {
    let mut values = noise(seed, rows * cols);
    for (i, value) in values.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        *value *= match kind {
            0 => 1.0,
            // Some columns carry nearly everything.
            1 => {
                if col % 61 == 7 {
                    300.0
                } else {
                    0.01
                }
            }
            // Rows of very different sizes.
            2 => 2f32.powi((row % 40) as i32 - 30),
            // Blocks of very different sizes, and zero rows.
            3 => {
                if row % 5 == 0 {
                    0.0
                } else {
                    4f32.powi(-((col / 64) as i32 * 3))
                }
            }
            // Single outliers.
            4 => {
                if (row * 31 + col) % 97 == 0 {
                    1e4
                } else {
                    1.0
                }
            }
            // At the ends of what is searched.
            5 => {
                if row % 2 == 0 {
                    1e13
                } else {
                    1e-30
                }
            }
            // Values in steps, many the same.
            _ => {
                *value = value.round();
                0.5
            }
        };
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_logit_is_outside_of_its_bounds(
        seed: u64, rows in 1usize..70, cols in 1usize..300, kind in 0u8..7, x_kind in 0u8..5, power in -14i32..14,
    ) {
        let stored = Stored::new(&hard(seed, rows, cols, kind), cols, RowFormat::F32);
        let mut x = hard(seed ^ 55, 1, cols, x_kind);
        // The largest errors come from activations that point along them.
        let sketch = Sketch::new(Isa::active(), &stored.view()).unwrap();
        let of_row = seed as usize % rows;
        let row = &hard(seed, rows, cols, kind)[of_row * cols..][..cols];
        if seed % 3 == 0 {
            let unit = row.iter().fold(0f32, |a, x| a.max(x.abs())).max(1e-30);
            x = row.iter().map(|w| { let s = w / unit * 40.0; s - s.floor() - 0.5 }).collect();
        }
        x.iter_mut().for_each(|x| *x *= 10f32.powi(power).clamp(1e-14, 1e14) * 0.5);
        let Some(activations) = Activations::new(&x, None) else { return Ok(()) };
        for isa in Isa::available() {
            let logits = stored.logits(isa, &x);
            for tile in 0..sketch.tiles() {
                let coarse = scan::coarse(isa, sketch.tile(tile), &activations);
                let fine = scan::fine(isa, sketch.tile(tile), &activations, &coarse);
                for (lane, logit) in logits[16 * tile..].iter().take(16).enumerate() {
                    for (bounds, bits) in [(&coarse, 4), (&fine, 5)] {
                        let (product, distance) = (f64::from(bounds.product[lane]), f64::from(bounds.distance[lane]));
                        prop_assert!(
                            (f64::from(*logit) - product).abs() <= distance,
                            "{isa}, {bits} bits, row {}: {logit} is not within {distance} of {product}", 16 * tile + lane
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn hard_heads_give_their_largest(seed: u64, kind in 0u8..7, x_kind in 0u8..5, wish in 0usize..5) {
        let stored = Stored::new(&hard(seed, 700, 130, kind), 130, RowFormat::F32);
        let x = hard(seed ^ 99, 1, 130, x_kind);
        check(Isa::active(), &stored, &x, &wishes()[wish]);
    }
}
