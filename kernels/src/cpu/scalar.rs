//! The int8 × 2-bit dot product in portable Rust.

const VECTOR: usize = 16;

/// `sum(code * x)` for each of `T` tokens; `planes` as in [`super::ternary`], 16 weight bytes a vector.
pub(crate) fn code_dots<const T: usize>(weights: &[u8], planes: [&[i8]; T]) -> [i32; T] {
    let mut sums = [0i32; T];
    for (v, weights) in weights.chunks(VECTOR).enumerate() {
        for (sum, planes) in sums.iter_mut().zip(planes) {
            let planes = &planes[v * 4 * VECTOR..][..4 * VECTOR];
            for (i, byte) in weights.iter().enumerate() {
                for plane in 0..4 {
                    let code = i32::from((byte >> (2 * plane)) & 3);
                    *sum += code * i32::from(planes[plane * VECTOR + i]);
                }
            }
        }
    }
    sums
}
