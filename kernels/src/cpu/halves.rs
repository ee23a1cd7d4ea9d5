//! IEEE half precision made wide, sixteen values at a time.

/// Values that are taken together.
pub(crate) const WIDTH: usize = 16;

/// The values of sixteen halves.
///
/// Where no instruction does it, exponent and fraction are moved to where a float has them, and the product with 2^112
/// corrects the exponent, also that of numbers too small for a leading one. Infinities and NaN keep the largest exponent.
#[inline(always)]
pub(crate) fn widen(bits: [u16; WIDTH]) -> [f32; WIDTH] {
    #[cfg(target_arch = "aarch64")]
    return aarch64::widen(bits);
    #[cfg(not(target_arch = "aarch64"))]
    bits.map(widen_one)
}

#[cfg_attr(target_arch = "aarch64", cfg(test))]
#[inline(always)]
fn widen_one(bits: u16) -> f32 {
    const TO_EXPONENT: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(bits);
    let magnitude = (bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * TO_EXPONENT).to_bits();
    let magnitude = if magnitude >= 0x7c00 << 13 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::WIDTH;

    /// By `fcvtl`, whose intrinsic is not stable in every compiler that we support.
    #[inline(always)]
    pub(super) fn widen(bits: [u16; WIDTH]) -> [f32; WIDTH] {
        let mut out = [0f32; WIDTH];
        for half in 0..2 {
            let (low, high): (float32x4_t, float32x4_t);
            // SAFETY: eight halves are there and room for eight floats; NEON, which every AArch64 processor has, has the
            // instructions, and they touch nothing but these registers.
            unsafe {
                let bits = vld1q_u16(bits.as_ptr().add(8 * half));
                asm!("fcvtl {low:v}.4s, {bits:v}.4h", "fcvtl2 {high:v}.4s, {bits:v}.8h", low = out(vreg) low,
                    high = lateout(vreg) high, bits = in(vreg) bits, options(pure, nomem, nostack, preserves_flags));
                vst1q_f32(out.as_mut_ptr().add(8 * half), low);
                vst1q_f32(out.as_mut_ptr().add(8 * half + 4), high);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_has_its_value() {
        for first in (0..=u16::MAX).step_by(WIDTH) {
            let bits: [u16; WIDTH] = std::array::from_fn(|i| first + i as u16);
            for (bits, wide) in bits.into_iter().zip(widen(bits)) {
                for wide in [wide, widen_one(bits)] {
                    let exact = half::f16::from_bits(bits).to_f32();
                    assert!(wide.to_bits() == exact.to_bits() || (wide.is_nan() && exact.is_nan()), "{bits:04x}");
                }
            }
        }
    }
}
