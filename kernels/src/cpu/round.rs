//! Floats as a shorter type can hold them.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::parallel;

/// Elements that one task takes, and how many of them are converted at a time.
const CHUNK: usize = 4096;
const PART: usize = 256;

/// Rounds each value to the nearest IEEE half precision number, ties to even.
pub fn to_f16(values: &mut [f32]) {
    let work = values.len();
    parallel::chunks(values, CHUNK, work, |_, values| {
        let mut part = [f16::ZERO; PART];
        for values in values.chunks_mut(PART) {
            let part = &mut part[..values.len()];
            part.convert_from_f32_slice(values);
            part.convert_to_f32_slice(values);
        }
    });
}

/// Rounds each value to the nearest bfloat16, ties to even.
pub fn to_bf16(values: &mut [f32]) {
    let work = values.len();
    parallel::chunks(values, CHUNK, work, |_, values| values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_shorter_type() {
        let values: Vec<f32> = (0..10_001).map(|i| ((i * 7919) % 2003) as f32 / 997.0 - 1.0).collect();
        let (mut halves, mut bf16s) = (values.clone(), values.clone());
        to_f16(&mut halves);
        to_bf16(&mut bf16s);
        for ((x, half), short) in values.iter().zip(&halves).zip(&bf16s) {
            assert_eq!(f16::from_f32(*x).to_f32(), *half);
            assert_eq!(bf16::from_f32(*x).to_f32(), *short);
        }
    }
}
