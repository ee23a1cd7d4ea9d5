//! The Q8_0 encoder: 32 values in 34 bytes, `y = d · code`.
//!
//! A block holds `d`, an f16, and 32 codes, each an i8.

use half::f16;

/// Values in a block.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 34;

/// Encodes a block of finite values: the largest magnitude takes the code 127, every value the nearest one.
pub(super) fn encode(values: &[f32; BLOCK]) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let d = f16::from_f32(largest / 127.0);
    bytes[..2].copy_from_slice(&d.to_le_bytes());
    // Against d as it is stored, so that its rounding is made up for. Where it is 0, so is every value that is read back.
    let d = d.to_f32();
    for (code, x) in bytes[2..].iter_mut().zip(values) {
        *code = (x / d).round().clamp(-127.0, 127.0) as i8 as u8;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockFormat;

    fn decoded(values: &[f32; BLOCK]) -> [f32; BLOCK] {
        let mut out = [f32::NAN; BLOCK];
        BlockFormat::Q8_0.dequantize_row(&encode(values), &mut out).unwrap();
        out
    }

    #[test]
    fn values_on_the_grid_come_back_as_they_were() {
        let values: [f32; BLOCK] = std::array::from_fn(|at| 0.125 * ((at * at * 5) as i32 % 128 - 64) as f32);
        let mut values = values;
        values[7] = 0.125 * -127.0;
        assert_eq!(decoded(&values), values);
        assert_eq!(decoded(&[0.0; BLOCK]), [0.0; BLOCK]);
        assert_eq!(decoded(&[1e-12; BLOCK]), [0.0; BLOCK], "smaller than any step");
    }

    #[test]
    fn no_value_is_further_off_than_half_a_step() {
        let values: [f32; BLOCK] = std::array::from_fn(|at| ((at * 7919) % 2003) as f32 / 1000.0 - 1.0);
        let step = values.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
        for (value, read) in values.iter().zip(decoded(&values)) {
            // The step is rounded to an f16, by which the largest code is off 127 times.
            assert!((value - read).abs() <= 0.5 * step * 1.001 + 127.0 * step / 2048.0, "{value} became {read}");
        }
    }
}
