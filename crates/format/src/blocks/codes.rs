//! Blocks as codes and scales, for kernels that multiply the codes themselves.

use half::f16;

use super::{BlockFormat, RowLengthError, scale};

/// Bytes of the largest block that has codes.
const LARGEST: usize = BlockFormat::Q6_K.block_bytes();

impl BlockFormat {
    /// Values that share a scale, if each value is that scale times a code of eight bits.
    pub const fn code_group(self) -> Option<usize> {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 | Self::IQ4_NL => Some(32),
            Self::Q6_K => Some(16),
            // The first could have, too: no device has kernels for it yet.
            Self::Q3_K | Self::Q4_K => None,
        }
    }

    /// Bits that every code fits in, with its sign: 6 or 8.
    pub fn code_bits(self) -> usize {
        match self {
            Self::Q6_K | Self::Q4_0 | Self::Q5_0 => 6,
            _ => 8,
        }
    }

    /// The codes of one row (or any whole number of blocks), and the scale of each [`code_group`](Self::code_group): their
    /// products are the values that [`dequantize_row`](Self::dequantize_row) gives, to the bit.
    ///
    /// # Errors
    /// When `bytes` is not exactly what `codes.len()` values take.
    ///
    /// # Panics
    /// When the format has no such codes, or `scales` is not one a group.
    pub fn codes_row(self, bytes: &[u8], codes: &mut [i8], scales: &mut [f32]) -> Result<(), RowLengthError> {
        let group = self.code_group().expect("a format of codes and scales");
        if self.row_bytes(codes.len()) != Some(bytes.len()) {
            return Err(RowLengthError { format: self, bytes: bytes.len(), values: codes.len() });
        }
        assert_eq!(scales.len() * group, codes.len(), "a scale for each group");
        let elems = self.block_elems();
        let mut values = vec![0f32; elems];
        let blocks = bytes.chunks_exact(self.block_bytes());
        for ((bytes, codes), scales) in blocks.zip(codes.chunks_exact_mut(elems)).zip(scales.chunks_mut(elems / group))
        {
            if self == Self::Q8_0 {
                scales.fill(scale(bytes, 0));
                codes.iter_mut().zip(&bytes[2..]).for_each(|(code, byte)| *code = byte.cast_signed());
                continue;
            }
            // With scales of one, a block's values are its codes.
            let mut unit = [0; LARGEST];
            let unit = &mut unit[..bytes.len()];
            unit.copy_from_slice(bytes);
            let d = if self == Self::Q6_K { 208 } else { 0 };
            unit[d..d + 2].copy_from_slice(&f16::ONE.to_le_bytes());
            let d = scale(bytes, d);
            match self {
                Self::Q6_K => {
                    unit[192..208].fill(1);
                    scales.iter_mut().zip(&bytes[192..208]).for_each(|(to, sub)| *to = d * f32::from(*sub as i8));
                }
                _ => scales.fill(d),
            }
            self.dequantize_row(unit, &mut values)?;
            codes.iter_mut().zip(&values).for_each(|(code, value)| *code = *value as i8);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_times_scales_are_the_values() {
        for format in [BlockFormat::Q8_0, BlockFormat::Q6_K, BlockFormat::Q4_0, BlockFormat::Q5_0, BlockFormat::IQ4_NL]
        {
            let group = format.code_group().unwrap();
            let blocks = 3;
            // Any bytes are a block; the halves that are scales are made finite.
            let mut bytes: Vec<u8> = (0..blocks * format.block_bytes()).map(|i| (i * 167 + i / 7 * 13) as u8).collect();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                let d = if format == BlockFormat::Q6_K { 208 } else { 0 };
                block[d..d + 2].copy_from_slice(&f16::from_f32(-0.3).to_le_bytes());
            }
            let count = blocks * format.block_elems();
            let (mut values, mut codes, mut scales) = (vec![0.0; count], vec![0; count], vec![0.0; count / group]);
            format.dequantize_row(&bytes, &mut values).unwrap();
            format.codes_row(&bytes, &mut codes, &mut scales).unwrap();
            for i in 0..count {
                assert_eq!(values[i], scales[i / group] * f32::from(codes[i]), "{format:?} {i}");
                let most = 1 << (format.code_bits() - 1);
                assert!((-most..most).contains(&i32::from(codes[i])), "{format:?} {i}");
            }
            assert!(format.codes_row(&bytes[1..], &mut codes, &mut scales).is_err());
        }
        assert_eq!(BlockFormat::Q4_K.code_group(), None);
    }
}
