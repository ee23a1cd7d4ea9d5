//! The slice kernels, on every instruction set of this processor, against the exact integers of `bitnet-ternary`.

use std::sync::Arc;

use bitnet_kernels::Isa;
use bitnet_kernels::cpu::float_activations::linear_float;
use bitnet_kernels::cpu::pool::Pool;
use bitnet_kernels::cpu::ternary::{ScaleView, TernaryView, dequantize, linear, linear_onto, linears, matmul_i32};
use bitnet_kernels::cpu::tiles::WeightOrder;
use bitnet_ternary::{Scale, TernaryMatrix, reference};
use proptest::prelude::*;

/// Noise that is the same everywhere.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    }
}

fn matrix(rows: usize, cols: usize, group: Option<usize>, seed: u64) -> TernaryMatrix {
    let mut next = noise(seed);
    let trits: Vec<i8> = (0..rows * cols).map(|_| (next() % 3) as i8 - 1).collect();
    let mut scale = || 0.01 + (next() % 1000) as f32 / 997.0;
    let scale = match group {
        None => Scale::Tensor(scale()),
        Some(0) => Scale::Row((0..rows).map(|_| scale()).collect()),
        Some(size) => Scale::Group { size, values: (0..rows * cols.div_ceil(size)).map(|_| scale()).collect() },
    };
    TernaryMatrix::from_trits(rows, cols, &trits, scale).unwrap()
}

/// The words of a matrix in another order.
fn words_in(order: WeightOrder, m: &TernaryMatrix) -> Vec<u32> {
    WeightOrder::Rows.convert(order, m.words().to_vec(), m.cols())
}

fn view(m: &TernaryMatrix) -> TernaryView<'_> {
    let scale = match m.scale() {
        Scale::Tensor(s) => ScaleView::Tensor(*s),
        Scale::Row(s) => ScaleView::Row(s),
        Scale::Group { size, values } => ScaleView::Group { size: *size, values },
    };
    TernaryView { words: m.words(), order: WeightOrder::Rows, rows: m.rows(), cols: m.cols(), scale }
}

fn activations(tokens: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mut next = noise(seed);
    (0..tokens * cols).map(|_| (next() % 20_001) as f32 / 1000.0 - 10.0).collect()
}

fn check(rows: usize, cols: usize, tokens: usize, group: Option<usize>, seed: u64) {
    let m = matrix(rows, cols, group, seed);
    let codes: Vec<i8> = activations(tokens, cols, seed + 1).iter().map(|x| (x * 12.7) as i8).collect();
    let x = activations(tokens, cols, seed + 2);
    let (integers, floats) = (reference::matmul_i32(&codes, tokens, &m), reference::linear(&x, tokens, &m));
    let mut by_float_activations: Option<Vec<f32>> = None;
    let dense = m.to_f32();
    let (tiles, dense_tiles) = (words_in(WeightOrder::Tiles, &m), words_in(WeightOrder::DenseTiles, &m));
    let mut orders = vec![view(&m), TernaryView { words: &tiles, order: WeightOrder::Tiles, ..view(&m) }];
    if !matches!(m.scale(), Scale::Group { .. }) {
        orders.push(TernaryView { words: &dense_tiles, order: WeightOrder::DenseTiles, ..view(&m) });
    }
    for (isa, w) in Isa::available().into_iter().flat_map(|isa| orders.iter().map(move |w| (isa, w))) {
        let case = format!("{isa} {rows}x{cols} {:?}, {tokens} tokens, group {group:?}", w.order);
        let mut out = vec![0i32; tokens * rows];
        matmul_i32(isa, &codes, tokens, w, &mut out);
        assert_eq!(out, integers, "{case}");

        let mut out = vec![0f32; tokens * rows];
        linear(isa, &x, tokens, w, &mut out);
        assert!(out.iter().zip(&floats).all(|(a, b)| a.to_bits() == b.to_bits()), "{case}");

        linear_float(isa, &x, tokens, w, &mut out);
        let first = by_float_activations.get_or_insert_with(|| out.clone());
        assert_eq!(&out, first, "{case}: float activations");

        let mut out = vec![0f32; rows * cols];
        dequantize(w, &mut out);
        assert_eq!(out, dense, "{case}");
    }
    for (i, y) in by_float_activations.unwrap().iter().enumerate() {
        let (x, w) = (&x[i / rows * cols..][..cols], &dense[i % rows * cols..][..cols]);
        let products = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let (exact, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
        // An activation is within 2.4e-7 of the largest one.
        let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
        let rounded = 2.5e-7 * f64::from(largest) * w.iter().map(|w| f64::from(w.abs())).sum::<f64>();
        assert!((f64::from(*y) - exact).abs() <= rounded + 1e-6 * size, "{y} {exact} {size}");
    }
}

#[test]
fn ragged_shapes_are_exact() {
    for cols in [1, 3, 15, 16, 17, 63, 64, 65, 127, 128, 200, 255, 256, 257, 511, 1000, 2560] {
        for tokens in [1, 3, 4, 5, 15] {
            for group in [None, Some(0), Some(16), Some(64), Some(128)] {
                check(7, cols, tokens, group, (cols * tokens) as u64);
            }
        }
    }
}

#[test]
fn long_rows_and_many_rows_are_exact() {
    check(3, 6912, 2, None, 1);
    check(5, 16_384, 1, None, 2);
    check(600, 130, 17, Some(0), 3);
    check(33, 2048, 40, Some(128), 4);
}

#[test]
fn the_largest_sums_do_not_wrap() {
    let cols = 16_384;
    for trit in [-1i8, 1] {
        let m = TernaryMatrix::from_trits(2, cols, &vec![trit; 2 * cols], Scale::Tensor(1.0)).unwrap();
        for x in [-128i8, -127, 127] {
            for isa in Isa::available() {
                let mut out = [0i32; 2];
                matmul_i32(isa, &vec![x; cols], 1, &view(&m), &mut out);
                assert_eq!(out, [i32::from(trit) * i32::from(x) * cols as i32; 2], "{isa}");
            }
        }
    }
}

#[test]
fn zeros_and_tiny_activations_keep_their_meaning() {
    let m = matrix(4, 100, None, 9);
    for value in [0.0f32, 1e-30, -1e-7, 3e38] {
        let mut x = vec![0f32; 100];
        x[50] = value;
        let expected = reference::linear(&x, 1, &m);
        for isa in Isa::available() {
            let mut out = [0f32; 4];
            linear(isa, &x, 1, &view(&m), &mut out);
            assert_eq!(out.map(f32::to_bits).as_slice(), expected.iter().map(|y| y.to_bits()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn matrices_of_one_input_are_what_each_is_alone() {
    let (cols, tokens) = (320, 6);
    let x = activations(tokens, cols, 3);
    let groups = [None, Some(64), Some(0), Some(64), Some(128)];
    let matrices: Vec<_> =
        groups.iter().zip(1u64..).map(|(g, seed)| matrix(20 * seed as usize, cols, *g, seed)).collect();
    let views: Vec<_> = matrices.iter().map(view).collect();
    for isa in Isa::available() {
        let mut out: Vec<Vec<f32>> = matrices.iter().map(|m| vec![0f32; tokens * m.rows()]).collect();
        let mut slices: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        let row = |token: usize, row: &mut [f32]| row.copy_from_slice(&x[token * cols..][..cols]);
        linears(isa, tokens, row, &views, &mut slices);
        for ((out, m), view) in out.iter().zip(&matrices).zip(&views) {
            let alone = reference::linear(&x, tokens, m);
            assert_eq!(out, &alone, "{isa}");
            let residual = activations(tokens, m.rows(), 9);
            let sum: Vec<f32> = residual.iter().zip(&alone).map(|(before, y)| before + y).collect();
            let mut onto = vec![f32::NAN; sum.len()];
            linear_onto(isa, &residual, tokens, row, view, &mut onto);
            assert_eq!(onto, sum, "{isa}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (m, x) = (matrix(300, 700, None, 5), activations(3, 700, 6));
    let run = |threads: usize| {
        let mut out = vec![0f32; 900];
        Arc::new(Pool::new(threads)).install(|| linear(Isa::active(), &x, 3, &view(&m), &mut out));
        out
    };
    let one = run(1);
    assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_is_exact(
        rows in 1usize..40, cols in 1usize..600, tokens in 1usize..7, seed in 0u64..1000,
        group in prop::option::of(0usize..9),
    ) {
        check(rows, cols, tokens, group.map(|g| g * 16), seed);
    }
}
