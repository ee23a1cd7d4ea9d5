//! The exponential function, the same to the bit on every instruction set and wide enough to be worth it.

/// `e^x` within 2 ulp; `x` is taken as at least -87.3 and at most 88.3, where the result is about 1e-38 and 2e38.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and a polynomial in `r`: Cody and Waite, "Software Manual for the Elementary
/// Functions" (1980), chapter 6; the coefficients are those of Moshier's Cephes library.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: a sum of this size has no place for a fraction, and its low bits are the integer.
    const NO_FRACTION: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let sum = x * std::f32::consts::LOG2_E + NO_FRACTION;
    let n = sum - NO_FRACTION;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4 * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let power = (sum.to_bits() << 23).wrapping_add(1.0f32.to_bits());
    y * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_within_two_ulp_of_the_function() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let (y, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((y / exact - 1.0).abs() < 2.5e-7, "{x}: {y} {exact}");
            x += 0.000_917;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY) > 1e38 && exp(f32::NAN).is_nan());
    }
}
