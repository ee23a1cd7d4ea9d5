//! Five trits in a byte, as TQ1_0 and IQ1_BN store them.
//!
//! Five base-3 digits (a digit is the trit plus one) make a number v in 0..243, stored not as v but as the fixed-point
//! fraction `q = ceil(256 * v / 243)`: multiplying q by 3 then pushes the most significant digit out at the top of the
//! byte. Of the 256 bytes 243 are the code of some five trits.

/// Five digits as two-bit codes: bits 1:0 hold digit 0, bits 9:8 hold digit 4.
pub(super) type Digits = u16;

/// What a byte that no digits encode to decodes to: the only value with a bit above the fifth digit's.
const INVALID: Digits = Digits::MAX;

/// The two ways to number the digits of a byte.
pub(super) struct Base3 {
    /// What digits 0 to 4 are worth.
    weights: [u16; 5],
    /// The digits of every byte.
    digits: [Digits; 256],
}

/// Digit 0 is the most significant one.
pub(super) static MOST_FIRST: Base3 = Base3::new([81, 27, 9, 3, 1]);

/// Digit 0 is the least significant one.
pub(super) static LEAST_FIRST: Base3 = Base3::new([1, 3, 9, 27, 81]);

/// The byte of a number below 243.
const fn fraction(v: u16) -> u8 {
    (256 * v as u32).div_ceil(243) as u8
}

impl Base3 {
    const fn new(weights: [u16; 5]) -> Self {
        let mut digits = [INVALID; 256];
        let mut v = 0;
        while v < 243 {
            let (mut packed, mut n) = (0, 0);
            while n < 5 {
                packed |= (v / weights[n] % 3) << (2 * n);
                n += 1;
            }
            digits[fraction(v) as usize] = packed;
            v += 1;
        }
        Self { weights, digits }
    }

    /// The byte of five digits, each 0, 1 or 2.
    #[inline]
    pub(super) fn encode(&self, digits: Digits) -> u8 {
        let [a, b, c, d, e] = self.weights;
        let digit = |n: u32| (digits >> (2 * n)) & 3;
        fraction(a * digit(0) + b * digit(1) + c * digit(2) + d * digit(3) + e * digit(4))
    }

    /// The five digits of a byte, or something that [`are_valid`] refuses.
    #[inline]
    pub(super) fn decode(&self, byte: u8) -> Digits {
        self.digits[usize::from(byte)]
    }
}

/// Whether these are `count` digits (4 or 5) and no more; also of several [`Digits`] or-ed together.
pub(super) const fn are_valid(digits: Digits, count: u32) -> bool {
    digits >> (2 * count) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_bytes() {
        let packed = |digits: [u16; 5]| digits.iter().enumerate().map(|(n, d)| d << (2 * n)).sum();
        assert_eq!(MOST_FIRST.encode(packed([0; 5])), 0x00);
        assert_eq!(MOST_FIRST.encode(packed([1; 5])), 0x80);
        assert_eq!(MOST_FIRST.encode(packed([2; 5])), 0xff);
        assert_eq!(MOST_FIRST.encode(packed([2, 1, 0, 1, 2])), 0xcd);
        assert_eq!(LEAST_FIRST.encode(packed([2, 1, 0, 1, 2])), 0xcd);
        assert_eq!(LEAST_FIRST.encode(packed([1, 1, 1, 1, 0])), 0x2b);
    }

    #[test]
    fn digits_are_what_multiplying_by_three_pushes_out() {
        let mut valid = 0;
        for byte in 0..=255u8 {
            let (most, least) = (MOST_FIRST.decode(byte), LEAST_FIRST.decode(byte));
            assert_eq!(are_valid(most, 5), are_valid(least, 5));
            if !are_valid(most, 5) {
                continue;
            }
            valid += 1;
            let mut fraction = byte;
            for n in 0..5 {
                let product = u16::from(fraction) * 3;
                assert_eq!((most >> (2 * n)) & 3, product >> 8, "byte {byte:#04x} digit {n}");
                assert_eq!((least >> (8 - 2 * n)) & 3, product >> 8, "byte {byte:#04x} digit {n} from the end");
                fraction = product as u8;
            }
            assert_eq!((MOST_FIRST.encode(most), LEAST_FIRST.encode(least)), (byte, byte));
        }
        assert_eq!(valid, 243);
    }
}
