//! The Q6_K encoder: 256 values in 210 bytes, `y = d · scale · (code − 32)`.
//!
//! A block holds the low four bits of all codes (128 bytes), their high two (64 bytes), an i8 scale for each run of 16
//! values, and `d`, an f16.

use half::f16;

/// Values in a block.
pub(super) const BLOCK: usize = 256;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 210;

/// Values that share a scale.
const RUN: usize = 16;
/// What stands for 0, and so the number of levels on the wider, negative side.
const ZERO: f32 = 32.0;
/// Where the high bits begin, the scales, and `d`.
const HIGH: usize = 128;
const SCALES: usize = 192;
const D: usize = 208;

/// Encodes a block of finite values.
///
/// In each run the value of greatest magnitude takes the outermost code, 0, which gives the run's step its sign and
/// its size; `d` makes the largest step of the block a scale of 127. Every other value goes to the nearest code.
pub(super) fn encode(values: &[f32; BLOCK]) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    let runs = values.as_chunks::<RUN>().0;
    let step = |run: &[f32; RUN]| run.iter().copied().fold(0.0, further_from_zero) / -ZERO;
    let largest = runs.iter().map(|run| step(run).abs()).fold(0.0, f32::max);
    let d = f16::from_f32(largest / 127.0);
    bytes[D..].copy_from_slice(&d.to_le_bytes());
    for (at, run) in runs.iter().enumerate() {
        // Against d as it is stored, so that its rounding is made up for. Where d is 0, casts make 0 of what is not a
        // number.
        let scale = (step(run) / d.to_f32()).round() as i8;
        bytes[SCALES + at] = scale as u8;
        let step = f32::from(scale) * d.to_f32();
        for (i, value) in run.iter().enumerate() {
            let code = ((value / step).round() + ZERO).clamp(0.0, 63.0) as u8;
            put(&mut bytes, RUN * at + i, code);
        }
    }
    bytes
}

fn further_from_zero(a: f32, b: f32) -> f32 {
    if b.abs() > a.abs() { b } else { a }
}

/// Stores the code of value `at`, whose bits are still clear.
///
/// A half of 128 values is four quarters. A byte's low nibble is of quarter 0 or 1, its high one of the value two
/// quarters on; the four bit pairs of a high byte are of all four quarters.
fn put(bytes: &mut [u8; BLOCK_BYTES], at: usize, code: u8) {
    let (half, quarter, i) = (at / 128, at % 128 / 32, at % 32);
    bytes[64 * half + 32 * (quarter % 2) + i] |= (code & 15) << (4 * (quarter / 2));
    bytes[HIGH + 32 * half + i] |= (code >> 4) << (2 * quarter);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockFormat;

    fn decoded(values: &[f32; BLOCK]) -> [f32; BLOCK] {
        let mut out = [f32::NAN; BLOCK];
        BlockFormat::Q6_K.dequantize_row(&encode(values), &mut out).unwrap();
        out
    }

    #[test]
    fn values_on_the_grid_come_back_as_they_were() {
        // Every scale from -127 to -8 in steps, and in each run the outermost code, which gives the scale away.
        let values: [f32; BLOCK] = std::array::from_fn(|at| {
            let scale = if at / RUN == 3 { -127 } else { (at / RUN) as i32 * 7 - 113 };
            let code = if at % RUN == 5 { 0 } else { (at * at + 11 * at) as i32 % 63 + 1 };
            0.25 * (scale * (code - 32)) as f32
        });
        assert_eq!(decoded(&values), values);
    }

    #[test]
    fn no_value_is_further_off_than_half_a_step_and_what_the_scale_was_rounded() {
        let values: [f32; BLOCK] = std::array::from_fn(|at| {
            let noise = (at as u32).wrapping_mul(2_654_435_769) >> 8;
            (noise as f32 / (1 << 23) as f32 - 1.0) * 0.06
        });
        let largest = values.iter().fold(0f32, |a, b| a.max(b.abs()));
        let (step, scale_step) = (largest / 32.0, largest / 32.0 / 127.0);
        // A code of 32 steps is off by 32 times what the step is, and one level is missing on the positive side.
        let allowed = step / 2.0 + 32.0 * scale_step;
        for (value, read) in values.iter().zip(decoded(&values)) {
            let missing = if read.abs() < value.abs() { step / 2.0 } else { 0.0 };
            assert!((value - read).abs() <= allowed + missing, "{value} became {read}");
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        assert_eq!(decoded(&[0.0; BLOCK]), [0.0; BLOCK]);
        let mut values = [0.0; BLOCK];
        values[200] = 0.05;
        let read = decoded(&values);
        assert!((read[200] - 0.05).abs() < 1e-3);
        assert!(read.iter().enumerate().all(|(at, value)| at == 200 || *value == 0.0));
    }
}
