//! Block-quantized float formats: the types embeddings and heads come in beside plain floats.
//!
//! A row of K values is cut into blocks of [`block_elems`](BlockFormat::block_elems); each block carries its own scale.
//! The `d` of every format is an f16. Layouts as documented for GGUF files.

mod codes;
mod q3_k;
mod q6_k;
mod q8_0;

use half::f16;

/// One block-quantized float format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the field's own names
pub enum BlockFormat {
    /// 32 values in 34 bytes: `d`, 32 × i8. `y = d·q`.
    Q8_0,
    /// 256 values in 210 bytes: low nibbles, high bit pairs, 16 i8 sub-scales, `d`. `y = d·sc·(q − 32)`.
    Q6_K,
    /// 32 values in 18 bytes: `d`, 32 nibbles. `y = d·(q − 8)`.
    Q4_0,
    /// 32 values in 22 bytes: `d`, 32 fifth bits, 32 nibbles. `y = d·(q − 16)`.
    Q5_0,
    /// 256 values in 110 bytes: third bits, bit pairs, 16 six-bit sub-scales, `d`. `y = d·(sc − 32)·(q − 4)`.
    Q3_K,
    /// 256 values in 144 bytes: `d`, `dmin`, eight 6-bit (scale, min) pairs, 256 nibbles. `y = d·sc·q − dmin·m`.
    Q4_K,
    /// 32 values in 18 bytes: `d`, 32 nibbles that index a fixed table. `y = d·table[q]`.
    IQ4_NL,
}

/// The bytes and the values of a row do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a {format:?} row of {values} values cannot have {bytes} bytes ({elems} values in {size} bytes a block)",
    elems = format.block_elems(),
    size = format.block_bytes()
)]
pub struct RowLengthError {
    /// The format asked for.
    pub format: BlockFormat,
    /// Bytes given.
    pub bytes: usize,
    /// Room for values given.
    pub values: usize,
}

/// Values cannot be stored in a block format.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// This project reads the format and does not write it.
    #[error("{0:?} is read and not written (Q8_0 and Q6_K are written)")]
    NotWritten(BlockFormat),
    /// The values are not of whole blocks.
    #[error("{values} values are not of whole {format:?} blocks of {elems}", elems = format.block_elems())]
    Length {
        /// The format asked for.
        format: BlockFormat,
        /// Values given.
        values: usize,
    },
    /// A value is not finite, or larger than any f16.
    #[error("the value {0} is beyond the scale of a block")]
    Range(f32),
}

const IQ4_NL_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl BlockFormat {
    /// Values in one block.
    pub const fn block_elems(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 | Self::IQ4_NL => 32,
            Self::Q6_K | Self::Q3_K | Self::Q4_K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q6_K => 210,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q5_0 => 22,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
        }
    }

    /// Bytes of a row of `cols` values, or `None` when `cols` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_elems()) {
            return None;
        }
        (cols / self.block_elems()).checked_mul(self.block_bytes())
    }

    /// Whether [`quantize_row`](Self::quantize_row) has an encoder for it.
    pub const fn is_written(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q6_K)
    }

    /// Encodes one row (or any whole number of blocks) and appends the bytes to `out`.
    ///
    /// # Errors
    ///
    /// When this project does not write the format, the values are not of whole blocks, or one of them is NaN, infinite or
    /// larger than 65504; nothing is appended then.
    pub fn quantize_row(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), QuantizeError> {
        if !self.is_written() {
            return Err(QuantizeError::NotWritten(self));
        }
        if !values.len().is_multiple_of(self.block_elems()) {
            return Err(QuantizeError::Length { format: self, values: values.len() });
        }
        // NaN fails every comparison.
        if let Some(value) =
            values.iter().find(|x| !matches!(x.abs().partial_cmp(&f16::MAX.to_f32()), Some(o) if o.is_le()))
        {
            return Err(QuantizeError::Range(*value));
        }
        match self {
            Self::Q8_0 => values.as_chunks().0.iter().for_each(|block| out.extend(q8_0::encode(block))),
            _ => values.as_chunks().0.iter().for_each(|block| out.extend(q6_k::encode(block))),
        }
        Ok(())
    }

    /// Decodes one row (or any whole number of blocks) into `out`.
    ///
    /// # Errors
    ///
    /// When `bytes` is not exactly what `out.len()` values take.
    pub fn dequantize_row(self, bytes: &[u8], out: &mut [f32]) -> Result<(), RowLengthError> {
        if self.row_bytes(out.len()) != Some(bytes.len()) {
            return Err(RowLengthError { format: self, bytes: bytes.len(), values: out.len() });
        }
        let block = match self {
            Self::Q8_0 => read_q8_0,
            Self::Q6_K => read_q6_k,
            Self::Q4_0 => read_q4_0,
            Self::Q5_0 => read_q5_0,
            Self::Q3_K => q3_k::read,
            Self::Q4_K => read_q4_k,
            Self::IQ4_NL => read_iq4_nl,
        };
        let values = out.chunks_exact_mut(self.block_elems());
        for (bytes, values) in bytes.chunks_exact(self.block_bytes()).zip(values) {
            block(bytes, values);
        }
        Ok(())
    }
}

fn scale(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn read_q8_0(bytes: &[u8], out: &mut [f32]) {
    let d = scale(bytes, 0);
    for (y, q) in out.iter_mut().zip(&bytes[2..]) {
        *y = d * f32::from(*q as i8);
    }
}

fn read_q4_0(bytes: &[u8], out: &mut [f32]) {
    let d = scale(bytes, 0);
    let (low, high) = out.split_at_mut(16);
    for ((q, y0), y1) in bytes[2..].iter().zip(low).zip(high) {
        *y0 = d * (f32::from(q & 15) - 8.0);
        *y1 = d * (f32::from(q >> 4) - 8.0);
    }
}

/// As Q4_0, with a fifth bit for each value.
fn read_q5_0(bytes: &[u8], out: &mut [f32]) {
    let d = scale(bytes, 0);
    let fifths = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
    for (i, y) in out.iter_mut().enumerate() {
        let nibble = (bytes[6 + i % 16] >> (4 * (i / 16))) & 15;
        let fifth = (fifths >> i) as u8 & 1;
        *y = d * (f32::from(nibble | (fifth << 4)) - 16.0);
    }
}

fn read_iq4_nl(bytes: &[u8], out: &mut [f32]) {
    let d = scale(bytes, 0);
    let (low, high) = out.split_at_mut(16);
    for ((q, y0), y1) in bytes[2..].iter().zip(low).zip(high) {
        *y0 = d * f32::from(IQ4_NL_LEVELS[usize::from(q & 15)]);
        *y1 = d * f32::from(IQ4_NL_LEVELS[usize::from(q >> 4)]);
    }
}

/// Two halves of 128 values, each in eight runs of 16 with a sub-scale of their own. In a half, value `32·quarter + l` takes
/// four bits from `ql` (low nibbles serve quarters 0 and 1, high ones 2 and 3) and two from `qh` (pair `quarter` of byte `l`).
fn read_q6_k(bytes: &[u8], out: &mut [f32]) {
    let (ql, rest) = bytes.split_at(128);
    let (qh, rest) = rest.split_at(64);
    let d = scale(rest, 16);
    for (run, out) in out.chunks_exact_mut(16).enumerate() {
        let (half, quarter, odd) = (run / 8, run % 8 / 2, run % 2);
        let gain = d * f32::from(rest[run] as i8);
        let low = &ql[64 * half + 32 * (quarter % 2) + 16 * odd..][..16];
        let high = &qh[32 * half + 16 * odd..][..16];
        for ((y, low), high) in out.iter_mut().zip(low).zip(high) {
            let low = (low >> (4 * (quarter / 2))) & 15;
            let high = (high >> (2 * quarter)) & 3;
            *y = gain * (f32::from(low | (high << 4)) - 32.0);
        }
    }
}

/// Eight runs of 32 values; runs 2i and 2i+1 are the low and high nibbles of the same 32 bytes.
fn read_q4_k(bytes: &[u8], out: &mut [f32]) {
    let (d, dmin) = (scale(bytes, 0), scale(bytes, 2));
    let (packed, nibbles) = bytes[4..].split_at(12);
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (sc, min) = q4_k_scale_min(packed, run);
        let (gain, offset) = (d * f32::from(sc), dmin * f32::from(min));
        let nibbles = &nibbles[32 * (run / 2)..];
        for (y, byte) in out.iter_mut().zip(nibbles) {
            let q = if run % 2 == 0 { byte & 15 } else { byte >> 4 };
            *y = gain * f32::from(q) - offset;
        }
    }
}

/// The 6-bit scale and minimum of run 0..8. Runs 0..4 sit in the low six bits of bytes 0..4 (scales) and 4..8
/// (minima); runs 4..8 have their low four bits in bytes 8..12 and their high two in the top bits of the former.
fn q4_k_scale_min(packed: &[u8], run: usize) -> (u8, u8) {
    if run < 4 {
        (packed[run] & 63, packed[run + 4] & 63)
    } else {
        let i = run - 4;
        ((packed[run + 4] & 15) | ((packed[i] >> 6) << 4), (packed[run + 4] >> 4) | ((packed[i + 4] >> 6) << 4))
    }
}
