//! Five trits in a byte, as TQ1_0 and IQ1_BN store them.
//!
//! Five base-3 digits (a digit is the trit plus one) make a number v in 0..243, stored not as v but as the fixed-point
//! fraction `q = ceil(256 * v / 243)`: multiplying q by 3 then pushes the most significant digit out at the top of the
//! byte. Of the 256 bytes 243 are the code of some five trits. Here digit 0 is the most significant one; IQ1_BN counts
//! from the other end.

/// Five digits as two-bit codes: bits 1:0 hold digit 0, bits 9:8 hold digit 4.
pub(super) type Digits = u16;

/// Marks a byte that no digits encode to.
const INVALID: Digits = Digits::MAX;

const POWERS: [u16; 5] = [81, 27, 9, 3, 1];

const fn number(digits: Digits) -> u16 {
    let (mut v, mut n) = (0, 0);
    while n < 5 {
        v += POWERS[n] * ((digits >> (2 * n)) & 3);
        n += 1;
    }
    v
}

/// The byte of five digits, each 0, 1 or 2.
pub(super) const fn encode(digits: Digits) -> u8 {
    (256 * number(digits) as u32).div_ceil(243) as u8
}

/// The digits of every byte, digit 0 lowest.
static DIGITS: [Digits; 256] = {
    let mut table = [INVALID; 256];
    let mut v = 0;
    while v < 243 {
        let (mut digits, mut n) = (0, 0);
        while n < 5 {
            digits |= (v / POWERS[n] % 3) << (2 * n);
            n += 1;
        }
        table[encode(digits) as usize] = digits;
        v += 1;
    }
    table
};

/// The five digits of a byte, or `None` if no digits encode to it.
pub(super) fn decode(byte: u8) -> Option<Digits> {
    let digits = DIGITS[byte as usize];
    (digits != INVALID).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_bytes() {
        let byte = |digits: [u16; 5]| encode(digits.iter().enumerate().map(|(n, d)| d << (2 * n)).sum());
        assert_eq!(byte([0; 5]), 0x00);
        assert_eq!(byte([1; 5]), 0x80);
        assert_eq!(byte([2; 5]), 0xff);
        assert_eq!(byte([2, 1, 0, 1, 2]), 0xcd);
    }

    #[test]
    fn digits_are_what_multiplying_by_three_pushes_out() {
        let mut valid = 0;
        for byte in 0..=255u8 {
            let Some(digits) = decode(byte) else { continue };
            valid += 1;
            let mut fraction = byte;
            for n in 0..5 {
                let product = u16::from(fraction) * 3;
                assert_eq!((digits >> (2 * n)) & 3, product >> 8, "byte {byte:#04x} digit {n}");
                fraction = product as u8;
            }
            assert_eq!(encode(digits), byte);
        }
        assert_eq!(valid, 243);
    }
}
