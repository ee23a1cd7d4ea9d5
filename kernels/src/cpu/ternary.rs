//! The ternary linear layer: int8 activations × 2-bit codes, exact in the integers.
//!
//! The packed words are used in their canonical order, 16 codes a word and so four codes a byte. A vector of `V`
//! weight bytes, shifted right by 0, 2, 4 and 6 bits and masked, gives four vectors of codes: those of the elements
//! `4 i`, `4 i + 1`, `4 i + 2` and `4 i + 3`. So the weights stream without a shuffle, and the activations are laid out
//! once per token into the same four planes:
//!
//! ```text
//! weights      byte i  = code[4i] | code[4i+1] << 2 | code[4i+2] << 4 | code[4i+3] << 6         (V bytes, 4 V codes)
//! activations  x[0] x[4] x[8] ..  | x[1] x[5] ..  | x[2] x[6] ..  | x[3] x[7] ..               (4 planes of V bytes)
//! ```
//!
//! Codes are trits plus one, so `sum(trit * x) = sum(code * x) - sum(x)`. Activations are padded with zeros to whole
//! vectors, which makes the padding of the weights irrelevant.

use bitnet_ternary::quantize::absmax_int8;

use super::isa::Isa;
use super::{lanes, parallel, scalar};

/// Tokens that share one unpacking of the weights.
const TILE: usize = 4;

/// A packed ternary matrix in canonical order, borrowed. No code is 3: the kernels do not look, and would not agree.
#[derive(Clone, Copy, Debug)]
pub struct TernaryView<'a> {
    /// `rows * ceil(cols / 16)` words.
    pub words: &'a [u32],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// What the trits are multiplied by.
    pub scale: ScaleView<'a>,
}

/// The scale of a [`TernaryView`].
#[derive(Clone, Copy, Debug)]
pub enum ScaleView<'a> {
    /// One for the matrix.
    Tensor(f32),
    /// One for each row.
    Row(&'a [f32]),
    /// One for each `size` columns of each row, row-major.
    Group {
        /// Columns in a group, a multiple of 16.
        size: usize,
        /// `rows * ceil(cols / size)` values.
        values: &'a [f32],
    },
}

impl TernaryView<'_> {
    fn check(&self, x: usize, tokens: usize, out: usize) {
        assert_eq!(self.words.len(), self.rows * self.cols.div_ceil(16), "packed words");
        assert_eq!(x, tokens * self.cols, "activations");
        assert_eq!(out, tokens * self.rows, "output");
        match self.scale {
            ScaleView::Tensor(_) => {}
            ScaleView::Row(values) => assert_eq!(values.len(), self.rows, "row scales"),
            ScaleView::Group { size, values } => {
                assert!(size > 0 && size.is_multiple_of(16), "groups are of a multiple of 16 columns, not {size}");
                assert_eq!(values.len(), self.rows * self.cols.div_ceil(size), "group scales");
            }
        }
    }

    /// Columns that share a scale and so are summed as one integer.
    fn segment(&self) -> usize {
        match self.scale {
            ScaleView::Group { size, .. } => size.min(self.cols),
            _ => self.cols,
        }
    }

    fn row_bytes(&self, row: usize) -> &[u8] {
        let width = self.cols.div_ceil(16);
        let words = &self.words[row * width..][..width];
        // SAFETY: `u32` has no padding, every byte pattern is a `u8`, and the length is the slice's own.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
    }
}

/// Int8 activations of some tokens, laid out for the kernels.
struct Activations {
    /// `[tokens, segments, padded]`, each segment in planes.
    planes: Vec<i8>,
    /// `[tokens, segments]`: the sum of each segment's int8 values.
    sums: Vec<i32>,
    /// Int8 values in a padded segment.
    padded: usize,
    segments: usize,
}

impl Activations {
    /// Lays out `codes` (`[tokens, cols]`) in segments of `segment` columns.
    fn new(isa: Isa, codes: &[i8], cols: usize, segment: usize) -> Self {
        let vector = vector_bytes(isa);
        let segments = cols.div_ceil(segment.max(1));
        let padded = segment.div_ceil(4 * vector) * 4 * vector;
        let tokens = codes.len() / cols.max(1);
        let mut planes = vec![0i8; tokens * segments * padded];
        let mut sums = vec![0i32; tokens * segments];
        for (token, codes) in codes.chunks_exact(cols.max(1)).enumerate() {
            for (s, codes) in codes.chunks(segment.max(1)).enumerate() {
                let at = token * segments + s;
                sums[at] = codes.iter().map(|x| i32::from(*x)).sum();
                let target = planes[at * padded..][..padded].chunks_exact_mut(4 * vector);
                for (planes, codes) in target.zip(codes.chunks(4 * vector)) {
                    let (quads, rest) = codes.as_chunks::<4>();
                    for (i, quad) in quads.iter().enumerate() {
                        for (plane, x) in quad.iter().enumerate() {
                            planes[plane * vector + i] = *x;
                        }
                    }
                    for (plane, x) in rest.iter().enumerate() {
                        planes[plane * vector + quads.len()] = *x;
                    }
                }
            }
        }
        Self { planes, sums, padded, segments }
    }

    fn planes(&self, token: usize, segment: usize) -> &[i8] {
        &self.planes[(token * self.segments + segment) * self.padded..][..self.padded]
    }

    fn sum(&self, token: usize, segment: usize) -> i32 {
        self.sums[token * self.segments + segment]
    }
}

/// Weight bytes that a kernel reads at once.
fn vector_bytes(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Vnni => 64,
        Isa::Avx2 => 32,
        Isa::Scalar | Isa::Neon | Isa::NeonDotprod => 16,
    }
}

/// `sum(code * x)` over the codes in `weights` for each of `T` tokens.
fn code_dots<const T: usize>(isa: Isa, weights: &[u8], planes: [&[i8]; T]) -> [i32; T] {
    debug_assert!(planes.iter().all(|p| p.len() >= weights.len().next_multiple_of(vector_bytes(isa)) * 4));
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever came in through a public function has passed `Isa::check`, and each token's planes
        // cover the weights rounded up to whole vectors (`Activations::new`).
        Isa::Avx512Vnni => unsafe { super::avx512::code_dots(weights, planes) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::code_dots(weights, planes) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { super::neon::code_dots(weights, planes) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDotprod => unsafe { super::neon::code_dots_dotprod(weights, planes) },
        _ => scalar::code_dots(weights, planes),
    }
}

/// Calls `write(row, token, dots)` for every output, where `dots` are the exact integers of the row's segments.
fn for_each_output<O: Copy + Default + Send + Sync>(
    isa: Isa,
    codes: &[i8],
    tokens: usize,
    w: &TernaryView<'_>,
    out: &mut [O],
    finish: impl Fn(usize, usize, &[i32]) -> O + Sync,
) {
    let segment = w.segment();
    let acts = Activations::new(isa, codes, w.cols, segment);
    let rows_at_once = parallel::rows_per_task(w.rows, 16);
    // The output of a task is `[rows, tokens]`: its own, whatever the number of tokens.
    let run = |task: usize, out: &mut [O]| {
        let mut dots = vec![[0i32; TILE]; acts.segments];
        let mut of_token = vec![0i32; acts.segments];
        for first in (0..tokens).step_by(TILE) {
            for (i, out) in out.chunks_exact_mut(tokens).enumerate() {
                let row = task * rows_at_once + i;
                let bytes = w.row_bytes(row);
                let tile = TILE.min(tokens - first);
                for (s, dots) in dots.iter_mut().enumerate() {
                    let weights = &bytes[s * segment / 4..];
                    let weights = &weights[..weights.len().min(segment.div_ceil(16) * 4)];
                    if tile == TILE {
                        *dots = code_dots(isa, weights, std::array::from_fn(|t| acts.planes(first + t, s)));
                    } else {
                        for (t, dot) in dots.iter_mut().enumerate().take(tile) {
                            [*dot] = code_dots(isa, weights, [acts.planes(first + t, s)]);
                        }
                    }
                    for (t, dot) in dots.iter_mut().enumerate().take(tile) {
                        *dot -= acts.sum(first + t, s);
                    }
                }
                for t in 0..tile {
                    of_token.iter_mut().zip(&dots).for_each(|(one, all)| *one = all[t]);
                    out[first + t] = finish(row, first + t, &of_token);
                }
            }
        }
    };
    parallel::chunks(out, rows_at_once * tokens.max(1), tokens * w.rows * w.cols, run);
}

/// The exact integers `sum_k trit[n, k] * x[t, k]`, whatever the scale; `x` is `[tokens, cols]`, `out` `[tokens, rows]`.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn matmul_i32(isa: Isa, x: &[i8], tokens: usize, w: &TernaryView<'_>, out: &mut [i32]) {
    isa.check();
    w.check(x.len(), tokens, out.len());
    let mut by_row = vec![0i32; out.len()];
    for_each_output(isa, x, tokens, w, &mut by_row, |_, _, dots| dots.iter().sum());
    for (row, values) in by_row.chunks_exact(tokens.max(1)).enumerate() {
        for (token, value) in values.iter().enumerate() {
            out[token * w.rows + row] = *value;
        }
    }
}

/// BitNet b1.58's linear layer: absmax int8 activations per token, the exact integer product, one scale at the end.
///
/// `x` is `[tokens, cols]`, `out` is `[tokens, rows]`. Bit for bit `bitnet_ternary::reference::linear`.
///
/// Source: Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764), section 2.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn linear(isa: Isa, x: &[f32], tokens: usize, w: &TernaryView<'_>, out: &mut [f32]) {
    isa.check();
    w.check(x.len(), tokens, out.len());
    if w.cols == 0 || tokens == 0 {
        return out.fill(0.0);
    }
    let mut codes = vec![0i8; x.len()];
    let scales: Vec<f32> =
        x.chunks_exact(w.cols).zip(codes.chunks_exact_mut(w.cols)).map(|(x, codes)| absmax_int8(x, codes)).collect();
    let finish = |row: usize, token: usize, dots: &[i32]| match w.scale {
        ScaleView::Tensor(s) => dots[0] as f32 * (s / scales[token]),
        ScaleView::Row(s) => dots[0] as f32 * (s[row] / scales[token]),
        ScaleView::Group { values, .. } => {
            let s = &values[row * dots.len()..];
            dots.iter().zip(s).fold(0.0, |sum, (dot, s)| sum + *dot as f32 * s) / scales[token]
        }
    };
    if tokens == 1 {
        for_each_output(isa, &codes, tokens, w, out, finish);
    } else {
        let mut by_row = vec![0f32; out.len()];
        for_each_output(isa, &codes, tokens, w, &mut by_row, finish);
        parallel::transpose(&by_row, tokens, out, w.rows);
    }
}

/// The linear layer of weight-only ternary models (TriLM, Bonsai): float activations, trits, one scale at the end.
///
/// `x` is `[tokens, cols]`, `out` is `[tokens, rows]`.
///
/// # Panics
/// When this processor cannot run `isa`, or a slice does not have the length that the others say.
pub fn linear_float(isa: Isa, x: &[f32], tokens: usize, w: &TernaryView<'_>, out: &mut [f32]) {
    isa.check();
    w.check(x.len(), tokens, out.len());
    if w.cols == 0 || tokens == 0 {
        return out.fill(0.0);
    }
    let segment = w.segment();
    let rows_at_once = parallel::rows_per_task(w.rows, 8);
    let mut by_row = vec![0f32; out.len()];
    parallel::chunks(&mut by_row, rows_at_once * tokens, x.len() * w.rows, |task, out| {
        let mut trits = vec![0f32; w.cols];
        for (i, out) in out.chunks_exact_mut(tokens).enumerate() {
            let row = task * rows_at_once + i;
            unpack(w.row_bytes(row), &mut trits);
            for (x, out) in x.chunks_exact(w.cols).zip(out) {
                *out = match w.scale {
                    ScaleView::Tensor(s) => lanes::dot(isa, x, &trits) * s,
                    ScaleView::Row(s) => lanes::dot(isa, x, &trits) * s[row],
                    ScaleView::Group { values, .. } => {
                        let s = &values[row * w.cols.div_ceil(segment)..];
                        let groups = x.chunks(segment).zip(trits.chunks(segment)).zip(s);
                        groups.fold(0.0, |sum, ((x, trits), s)| sum + lanes::dot(isa, x, trits) * s)
                    }
                };
            }
        }
    });
    parallel::transpose(&by_row, tokens, out, w.rows);
}

/// The dense matrix `trit * scale`, `[rows, cols]`.
///
/// # Panics
/// When a slice does not have the length that the others say.
pub fn dequantize(w: &TernaryView<'_>, out: &mut [f32]) {
    w.check(0, 0, 0);
    assert_eq!(out.len(), w.rows * w.cols, "output");
    parallel::chunks(out, w.cols.max(1), w.rows * w.cols, |row, out| {
        unpack(w.row_bytes(row), out);
        match w.scale {
            ScaleView::Tensor(s) => out.iter_mut().for_each(|x| *x *= s),
            ScaleView::Row(s) => out.iter_mut().for_each(|x| *x *= s[row]),
            ScaleView::Group { size, values } => {
                let s = &values[row * w.cols.div_ceil(size)..];
                out.chunks_mut(size).zip(s).for_each(|(group, s)| group.iter_mut().for_each(|x| *x *= s));
            }
        }
    });
}

/// The trits of one row as floats.
fn unpack(bytes: &[u8], trits: &mut [f32]) {
    for (byte, four) in bytes.iter().zip(trits.chunks_mut(4)) {
        for (j, trit) in four.iter_mut().enumerate() {
            *trit = f32::from((byte >> (2 * j)) & 3) - 1.0;
        }
    }
}
