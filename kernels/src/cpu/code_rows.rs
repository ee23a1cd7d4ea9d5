//! Rows of codes of 8 or 6 bits with a scale for each group, in the order in which a vector reads them.
//!
//! `lanes` neighbouring groups of a row are worked on at once, each in a lane of its own, so the scales of a step are one
//! vector as well. Of 8 bits a word has four codes of one group, of 6 bits three words have 16 of them: five each, and two bits
//! of the last.
//!
//! ```text
//! row      [groups / lanes] steps, each   [words of a group][lanes] codes    then    [lanes] scales in f32
//! 8 bits   3 3 3 3 3 3 3 3 2 2 2 2 2 2 2 2 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 0
//! 6 bits   f f 4 4 4 4 4 4 3 3 3 3 3 3 2 2 2 2 2 2 1 1 1 1 1 1 0 0 0 0 0 0    f: the lowest two bits of code 15
//!          f f 9 9 9 9 9 9 8 8 8 8 8 8 7 7 7 7 7 7 6 6 6 6 6 6 5 5 5 5 5 5       the next two
//!          f f e e e e e e d d d d d d c c c c c c b b b b b b a a a a a a       the highest two
//! ```
//!
//! Codes of 6 bits are stored plus 32.

/// How the codes of a row are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeRows {
    /// Codes that share a scale, a multiple of four, of codes of 6 bits one of 16.
    pub group: usize,
    /// Groups side by side; a row has a multiple of so many.
    pub lanes: usize,
    /// Bits of a code: 8 or 6.
    pub bits: usize,
}

impl CodeRows {
    /// 32-bit words of a row of `cols` values.
    pub fn words(self, cols: usize) -> usize {
        cols / self.group * (self.of_group() + 1)
    }

    /// Words of the codes of a group.
    fn of_group(self) -> usize {
        self.group * self.bits / 32
    }

    /// Words of one step.
    fn step(self) -> usize {
        self.lanes * (self.of_group() + 1)
    }

    /// Lays out one row: a value is `codes[i] * scales[i / group]`.
    ///
    /// # Panics
    /// When the slices are not one row, or that is not a multiple of `group * lanes`; when codes of 6 bits do not fit them,
    /// or their groups are not of a multiple of 16.
    pub fn encode(self, codes: &[i8], scales: &[f32], row: &mut [u32]) {
        let Self { group, lanes, .. } = self;
        assert_eq!((codes.len() % (group * lanes), scales.len() * group), (0, codes.len()), "whole steps");
        assert_eq!(row.len(), self.words(codes.len()), "a row");
        let mut of_group = Vec::with_capacity(self.of_group());
        let steps = row.chunks_exact_mut(self.step()).zip(codes.chunks_exact(group * lanes)).zip(scales.chunks(lanes));
        for ((row, codes), scales) in steps {
            let (words, last) = row.split_at_mut(self.of_group() * lanes);
            for (lane, codes) in codes.chunks_exact(group).enumerate() {
                of_group.clear();
                match self.bits {
                    6 => of_group.extend(whole::<16>(codes).iter().flat_map(pack_six)),
                    8 => of_group
                        .extend(whole::<4>(codes).iter().map(|four| u32::from_le_bytes(four.map(i8::cast_unsigned)))),
                    bits => panic!("codes of 6 or 8 bits, not {bits}"),
                }
                of_group.iter().enumerate().for_each(|(i, word)| words[i * lanes + lane] = *word);
            }
            last.iter_mut().zip(scales).for_each(|(to, scale)| *to = scale.to_bits());
        }
    }

    /// The values of a row in little-endian bytes.
    pub(crate) fn decode(self, bytes: &[u8], row: &mut [f32]) {
        let Self { group, lanes, .. } = self;
        let mut of_group = vec![0; self.of_group()];
        let steps = bytes.chunks_exact(4 * self.step()).zip(row.chunks_exact_mut(group * lanes));
        for (bytes, row) in steps {
            let words = bytes.as_chunks::<4>().0;
            let (codes, scales) = words.split_at(self.of_group() * lanes);
            for (lane, row) in row.chunks_exact_mut(group).enumerate() {
                let scale = f32::from_le_bytes(scales[lane]);
                let own = codes[lane..].iter().step_by(lanes);
                of_group.iter_mut().zip(own).for_each(|(to, word)| *to = u32::from_le_bytes(*word));
                for (i, out) in row.iter_mut().enumerate() {
                    let code = match self.bits {
                        6 => i32::from(code_of_six(&of_group[i / 16 * 3..][..3], i % 16)) - 32,
                        _ => i32::from(of_group[i / 4].to_le_bytes()[i % 4].cast_signed()),
                    };
                    *out = scale * code as f32;
                }
            }
        }
    }
}

/// A slice in pieces of `N`.
fn whole<const N: usize>(codes: &[i8]) -> &[[i8; N]] {
    let (pieces, rest) = codes.as_chunks();
    assert!(rest.is_empty(), "a group of a multiple of {N} codes");
    pieces
}

/// Three words of 16 codes of 6 bits.
fn pack_six(codes: &[i8; 16]) -> [u32; 3] {
    let above = codes.map(|code| {
        assert!((-32..32).contains(&code), "a code of 6 bits, not {code}");
        u32::from((code + 32).cast_unsigned())
    });
    std::array::from_fn(|i| {
        let five = (0..5).fold(0, |word, e| word | above[5 * i + e] << (6 * e));
        five | (above[15] >> (2 * i) & 3) << 30
    })
}

/// Code `i` of 16 in three words, plus 32.
fn code_of_six(words: &[u32], i: usize) -> u8 {
    let code = match i {
        15 => words[0] >> 30 | words[1] >> 30 << 2 | words[2] >> 30 << 4,
        _ => words[i / 5] >> (6 * (i % 5)) & 63,
    };
    code as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        let shapes = [(16, 1, 48), (32, 4, 256), (16, 16, 512)];
        for ((group, lanes, cols), bits) in shapes.into_iter().flat_map(|shape| [(shape, 8), (shape, 6)]) {
            let rows = CodeRows { group, lanes, bits };
            let codes: Vec<i8> = (0..cols).map(|i| (i * 37 % 256) as u8 as i8 >> (8 - bits)).collect();
            let scales: Vec<f32> = (0..cols / group).map(|i| 0.5 + i as f32).collect();
            let mut words = vec![0; rows.words(cols)];
            rows.encode(&codes, &scales, &mut words);
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let mut values = vec![0.0; cols];
            rows.decode(&bytes, &mut values);
            for i in 0..cols {
                assert_eq!(values[i], scales[i / group] * f32::from(codes[i]));
            }
        }
    }
}
