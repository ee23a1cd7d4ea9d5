//! Rows of 8-bit codes with a scale for each group, in the order in which a vector reads them.
//!
//! `lanes` neighbouring groups of a row are worked on at once, each in a lane of its own, so the scales of a step are one
//! vector as well. A word has four codes of one group:
//!
//! ```text
//! row      [groups / lanes] steps, each   [group / 4][lanes] words of codes    then    [lanes] scales in f32
//! ```

/// How the codes of a row are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeRows {
    /// Codes that share a scale, a multiple of four.
    pub group: usize,
    /// Groups side by side; a row has a multiple of so many.
    pub lanes: usize,
}

impl CodeRows {
    /// 32-bit words of a row of `cols` values.
    pub fn words(self, cols: usize) -> usize {
        cols / self.group * (self.group / 4 + 1)
    }

    /// Words of one step.
    pub(crate) fn step(self) -> usize {
        self.lanes * (self.group / 4 + 1)
    }

    /// Lays out one row: a value is `codes[i] * scales[i / group]`.
    ///
    /// # Panics
    /// When the slices are not one row, or that is not a multiple of `group * lanes`.
    pub fn encode(self, codes: &[i8], scales: &[f32], row: &mut [u32]) {
        let Self { group, lanes } = self;
        assert_eq!((codes.len() % (group * lanes), scales.len() * group), (0, codes.len()), "whole steps");
        assert_eq!(row.len(), self.words(codes.len()), "a row");
        let steps = row.chunks_exact_mut(self.step()).zip(codes.chunks_exact(group * lanes)).zip(scales.chunks(lanes));
        for ((row, codes), scales) in steps {
            let (words, last) = row.split_at_mut(group / 4 * lanes);
            for (lane, codes) in codes.chunks_exact(group).enumerate() {
                for (i, four) in codes.as_chunks::<4>().0.iter().enumerate() {
                    words[i * lanes + lane] = u32::from_le_bytes(four.map(|code| code as u8));
                }
            }
            last.iter_mut().zip(scales).for_each(|(to, scale)| *to = scale.to_bits());
        }
    }

    /// The values of a row in little-endian bytes.
    pub(crate) fn decode(self, bytes: &[u8], row: &mut [f32]) {
        let Self { group, lanes } = self;
        let steps = bytes.chunks_exact(4 * self.step()).zip(row.chunks_exact_mut(group * lanes));
        for (bytes, row) in steps {
            let (codes, scales) = bytes.split_at(group * lanes);
            let (codes, scales) = (codes.as_chunks::<4>().0, scales.as_chunks::<4>().0);
            for (lane, row) in row.chunks_exact_mut(group).enumerate() {
                let scale = f32::from_le_bytes(scales[lane]);
                for (i, out) in row.iter_mut().enumerate() {
                    *out = scale * f32::from(codes[i / 4 * lanes + lane][i % 4] as i8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        for (group, lanes, cols) in [(16, 1, 48), (32, 4, 256), (16, 16, 512)] {
            let rows = CodeRows { group, lanes };
            let codes: Vec<i8> = (0..cols).map(|i| (i * 37 % 256) as u8 as i8).collect();
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
