//! What the tests of the operations share.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Values in [-4, 4], the same for the same seed.
pub fn noise(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % 20_001) as f32 / 2500.0 - 4.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// [`noise`] of this shape.
pub fn tensor<const D: usize>(seed: u32, shape: [usize; D], device: &Device) -> Tensor<D> {
    given(noise(seed, shape.iter().product()), shape, device)
}

/// These values.
pub fn given<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// Within rounding of `b`.
pub fn close<const D: usize>(a: Tensor<D>, b: Tensor<D>, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let largest = floats(b.clone()).iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = floats(a).iter().zip(floats(b)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-5 * largest.max(1.0), "{what}: {worst} of {largest}");
}
