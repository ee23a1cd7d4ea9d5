//! The exponential function, the same to the bit on every instruction set and wide enough to be worth it.

use super::isa::{Isa, on_each_isa};

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

/// `log(sum(exp(x)))`: what makes probabilities of logits. `-inf` for no logits; NaN if one is.
///
/// Sums of 1,024 terms in f32, and their sum in f64: within 1e-6 of the exact value.
///
/// # Panics
/// When this processor cannot run `isa`.
pub fn log_sum_exp(isa: Isa, x: &[f32]) -> f64 {
    isa.check();
    let max = largest(isa, x);
    if !max.is_finite() {
        return f64::from(max);
    }
    let sum: f64 = x.chunks(1024).map(|x| f64::from(sum_of_exps(isa, x, max))).sum();
    f64::from(max) + sum.ln()
}

on_each_isa! {
    /// The largest; NaN is not larger than anything.
    fn largest(x: &[f32]) -> f32 = largest_body
}

on_each_isa! {
    fn sum_of_exps(x: &[f32], max: f32) -> f32 = sum_of_exps_body
}

#[inline(always)]
fn largest_body(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(a, x)| *a = a.max(*x));
    }
    lanes.iter_mut().zip(rest).for_each(|(a, x)| *a = a.max(*x));
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum_of_exps_body(x: &[f32], max: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += exp(*x - max));
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, x)| *sum += exp(*x - max));
    lanes.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_is_its_definition_on_every_instruction_set() {
        for n in [1usize, 15, 16, 1000, 5000, 128_256] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 7919) % 4001) as f32 / 200.0 - 12.0).collect();
            let exact = x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let first = log_sum_exp(Isa::Scalar, &x);
            assert!((first - exact).abs() < 1e-6, "{first} {exact}");
            assert!(Isa::available().into_iter().all(|isa| log_sum_exp(isa, &x) == first));
        }
        let isa = Isa::active();
        assert_eq!(log_sum_exp(isa, &[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(isa, &[f32::NEG_INFINITY, 2.0]), 2.0);
        assert!(log_sum_exp(isa, &[1.0, f32::NAN]).is_nan());
    }

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
