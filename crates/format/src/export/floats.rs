//! Floats as the bytes of a stored type.

use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::{FormatError, StorageType};

/// Refuses a type that floats are not written as.
pub(super) fn check_dtype(file: &Path, dtype: StorageType) -> Result<(), FormatError> {
    match dtype {
        StorageType::F32 | StorageType::F16 | StorageType::BF16 => Ok(()),
        other if other.block_format().is_some_and(|block| block.is_written()) => Ok(()),
        other => {
            let what = format!("writing floats as {other} (F32, F16, BF16, Q8_0 and Q6_K can be)");
            Err(FormatError::unsupported(file, what))
        }
    }
}

/// The nearest number of a plain type; the number itself for a type of blocks.
pub(super) fn rounded(value: f32, dtype: StorageType) -> f32 {
    match dtype {
        StorageType::F16 => f16::from_f32(value).to_f32(),
        StorageType::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// Checks that values are finite and stay so as `dtype`. `first` is the place of the first value in its tensor.
///
/// # Errors
///
/// Says which value does not.
pub(super) fn check(values: &[f32], dtype: StorageType, first: usize) -> Result<(), String> {
    // What is more than 65504 as an f16 is infinite; as a scale of blocks, which is an f16 too, it is not wanted either.
    let limit = match dtype {
        StorageType::F32 => f32::MAX,
        // Below halfway between the largest number and the next power of two: ties go up.
        StorageType::BF16 => f32::from_bits(0x7f7f_7fff),
        StorageType::F16 => 65_520f32.next_down(),
        _ => f16::MAX.to_f32(),
    };
    // False for NaN.
    let is_fine = |x: &f32| x.abs() <= limit;
    if values.iter().fold(true, |fine, x| fine & is_fine(x)) {
        return Ok(());
    }
    let (at, value) = values.iter().enumerate().find(|(_, x)| !is_fine(x)).unwrap_or((0, &f32::NAN));
    let why = if value.is_finite() { format!(", which no {dtype} number reaches") } else { String::new() };
    Err(format!("has {value} at element {}{why}", first + at))
}

/// Appends values as `dtype`, one that [`check_dtype`] allows; of a type of blocks they are whole ones.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn encode(values: &[f32], dtype: StorageType, first: usize, out: &mut Vec<u8>) -> Result<(), String> {
    check(values, dtype, first)?;
    match dtype {
        StorageType::F16 => halves(values, out, f16::to_le_bytes, |x, y| y.convert_from_f32_slice(x)),
        StorageType::BF16 => halves(values, out, bf16::to_le_bytes, |x, y| y.convert_from_f32_slice(x)),
        plain_or_block => match plain_or_block.block_format() {
            Some(block) => block.quantize_row(values, out).map_err(|error| format!("cannot be stored so: {error}"))?,
            None => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        },
    }
    Ok(())
}

/// Whole slices convert fastest.
fn halves<T: Copy + Default>(
    values: &[f32],
    out: &mut Vec<u8>,
    bytes: impl Fn(T) -> [u8; 2],
    convert: impl Fn(&[f32], &mut [T]),
) {
    const CHUNK: usize = 256;
    let mut buffer = [T::default(); CHUNK];
    out.reserve(2 * values.len());
    for values in values.chunks(CHUNK) {
        let buffer = &mut buffer[..values.len()];
        convert(values, buffer);
        out.extend(buffer.iter().flat_map(|x| bytes(*x)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_stay_finite_is_refused_and_what_does_is_not() {
        for dtype in [StorageType::F32, StorageType::F16, StorageType::BF16] {
            for magnitude in [65_519.99, 65_520.0, f32::from_bits(0x7f7f_7fff), f32::from_bits(0x7f7f_8000), f32::MAX] {
                let mut out = Vec::new();
                let stays = rounded(-magnitude, dtype).is_finite();
                assert_eq!(encode(&[1.0, -magnitude], dtype, 0, &mut out).is_ok(), stays, "{magnitude} as {dtype}");
            }
            for bad in [f32::NAN, f32::INFINITY] {
                let error = encode(&[0.0, bad], dtype, 40, &mut Vec::new()).unwrap_err();
                assert!(error.contains("element 41") && !error.contains("reaches"), "{error}");
            }
        }
        let error = encode(&[70_000.0; 32], StorageType::Q8_0, 0, &mut Vec::new()).unwrap_err();
        assert!(error.contains("70000") && error.contains("Q8_0"), "{error}");
    }

    #[test]
    fn bytes_are_those_of_the_numbers() {
        let values = [0.5, -1.25, 3e-8];
        for dtype in [StorageType::F32, StorageType::F16, StorageType::BF16] {
            let mut out = Vec::new();
            encode(&values, dtype, 0, &mut out).unwrap();
            let mut back = [0.0; 3];
            crate::checkpoint::floats::dequantize(dtype, &out, &mut back).unwrap();
            assert_eq!(back, values.map(|x| rounded(x, dtype)));
        }
    }
}
