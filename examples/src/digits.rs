//! Seven-segment digits in noise, drawn by the program itself.

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Rows and columns of a picture.
const SIDE: usize = 12;

/// Values in a picture.
pub const PIXELS: usize = SIDE * SIDE;

/// Which segments each digit lights: top, upper right, lower right, bottom, lower left, upper left, middle.
const SEGMENTS: [&[u8; 7]; 10] = [
    b"1111110", b"0110000", b"1101101", b"1111001", b"0110011", b"1011011", b"1011111", b"1110000", b"1111111",
    b"1111011",
];

/// A picture of a digit.
#[derive(Clone, Debug)]
pub struct Digit {
    /// Row by row, about 0 for dark and 1 for light.
    pub pixels: [f32; PIXELS],
    /// 0 to 9.
    pub label: u8,
}

/// `count` digits, not always in the same place, width and brightness; the same for the same seed.
pub fn digits(count: usize, seed: u64) -> Vec<Digit> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|i| draw((i % 10) as u8, &mut rng)).collect()
}

fn draw(label: u8, rng: &mut ChaCha8Rng) -> Digit {
    let mut below = |n: usize| rng.next_u32() as usize % n;
    // Height of a half and width, in steps between pixels.
    let (half, width) = (4, 4 + below(3));
    let (top, left) = (below(3), 1 + below(4));
    let (middle, bottom, right) = (top + half, top + 2 * half, left + width);
    let light = 0.7 + 0.3 * below(100) as f32 / 100.0;
    let mut pixels: [f32; PIXELS] = std::array::from_fn(|_| (below(100) as f32 - 50.0) / 150.0);
    let lines = [
        (top..=top, left..=right),
        (top..=middle, right..=right),
        (middle..=bottom, right..=right),
        (bottom..=bottom, left..=right),
        (middle..=bottom, left..=left),
        (top..=middle, left..=left),
        (middle..=middle, left..=right),
    ];
    let mut is_lit = [false; PIXELS];
    for (_, (rows, columns)) in SEGMENTS[usize::from(label)].iter().zip(lines).filter(|(lit, _)| **lit == b'1') {
        rows.for_each(|row| columns.clone().for_each(|column| is_lit[row * SIDE + column] = true));
    }
    pixels.iter_mut().zip(is_lit).filter(|(_, lit)| *lit).for_each(|(pixel, _)| *pixel += light);
    Digit { pixels, label }
}

/// Digits as a module takes them.
#[derive(Clone, Debug)]
pub struct DigitBatch {
    /// `[digits, PIXELS]`.
    pub pixels: Tensor<2>,
    /// `[digits]`.
    pub labels: Tensor<1, Int>,
}

impl DigitBatch {
    /// Brings digits to a device.
    pub fn new(digits: &[Digit], device: &Device) -> Self {
        let pixels: Vec<f32> = digits.iter().flat_map(|digit| digit.pixels).collect();
        let labels: Vec<i32> = digits.iter().map(|digit| i32::from(digit.label)).collect();
        Self {
            pixels: Tensor::from_data(TensorData::new(pixels, [digits.len(), PIXELS]), (device, DType::F32)),
            labels: Tensor::from_data(TensorData::new(labels, [digits.len()]), (device, DType::I32)),
        }
    }
}

/// Puts digits together for Burn's data loaders.
#[derive(Clone, Debug, Default)]
pub struct DigitBatcher;

impl Batcher<Digit, DigitBatch> for DigitBatcher {
    fn batch(&self, digits: Vec<Digit>, device: &Device) -> DigitBatch {
        DigitBatch::new(&digits, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_lit_where_their_segments_are() {
        let all = digits(100, 1);
        let light =
            |label: u8| all.iter().filter(|d| d.label == label).map(|d| d.pixels.iter().sum::<f32>()).sum::<f32>();
        assert!(light(8) > light(7) && light(7) > light(1));
        let batch = DigitBatch::new(&all, &Device::flex());
        assert_eq!((batch.pixels.dims(), batch.labels.dims()), ([100, PIXELS], [100]));
    }
}
