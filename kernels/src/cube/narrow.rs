//! Values of 8 and 16 bits in words of 32, by integer operations alone: WebGPU has no narrower types.

use cubecl::prelude::*;

/// The values of signed bytes in the low 8 bits of each element, whatever is above them. Not by shifting the sign down:
/// CubeCL's CPU runtime shifts zeros into a vector of signed integers that was one of unsigned ones.
#[cube]
pub(super) fn from_i8<N: Size>(bits: Vector<u32, N>) -> Vector<f32, N> {
    from_above::<N>((bits & Vector::new(0xffu32)) ^ Vector::new(0x80u32), 128f32)
}

/// The values of integers below 2^23 that are stored plus `zero`. As the low bits of a float of 2^23, which is one instruction
/// less than a conversion.
#[cube]
pub(super) fn from_above<N: Size>(bits: Vector<u32, N>, zero: f32) -> Vector<f32, N> {
    let above = Vector::<f32, N>::reinterpret(bits | Vector::new(0x4b00_0000u32));
    above - Vector::new(8_388_608f32 + zero)
}

/// The values of IEEE half precision in the low 16 bits of each element.
#[cube]
pub(super) fn from_f16<N: Size>(bits: Vector<u32, N>) -> Vector<f32, N> {
    let magnitude = (bits & Vector::new(0x7fffu32)) << Vector::new(13u32);
    let sign = (bits & Vector::new(0x8000u32)) << Vector::new(16u32);
    // Normal numbers get another exponent bias; infinities and NaNs the largest exponent.
    let normal = magnitude + Vector::new(112u32 << 23u32);
    let huge = magnitude.greater_equal(&Vector::new(0x0f80_0000u32));
    let normal = select_many(huge, normal + Vector::new(112u32 << 23u32), normal);
    // A subnormal number is made normal by a power of two that is taken off again.
    let power = Vector::<f32, N>::new(f32::from_bits(113u32 << 23u32));
    let subnormal = Vector::<f32, N>::reinterpret(magnitude + Vector::new(113u32 << 23u32)) - power;
    let small = magnitude.less_than(&Vector::new(0x0080_0000u32));
    let value = select_many(small, Vector::<u32, N>::reinterpret(subnormal), normal);
    Vector::<f32, N>::reinterpret(value | sign)
}

/// The nearest number of IEEE half precision, ties to even, as its bits.
#[cube]
pub(super) fn to_f16(x: f32) -> u32 {
    let bits = u32::reinterpret(x);
    let sign = (bits >> 16u32) & 0x8000u32;
    let magnitude = bits & 0x7fff_ffffu32;
    let mut half = 0x7c00u32;
    if magnitude > 0x7f80_0000u32 {
        half = 0x7e00u32;
    } else if magnitude < 0x3880_0000u32 {
        // Next to 0.5 the spacing of f32 is the spacing of subnormal halves.
        half = u32::reinterpret(f32::reinterpret(magnitude) + 0.5f32) - 0x3f00_0000u32;
    } else if magnitude < 0x4780_0000u32 {
        let odd = (magnitude >> 13u32) & 1u32;
        half = (magnitude - (112u32 << 23u32) + 0xfffu32 + odd) >> 13u32;
    }
    sign | half
}
