//! The rows of a head in memory: all of its logits, where the kernels have an order of their own for it, or a few of them.

use std::sync::{Arc, OnceLock};

use bitnet_format::{BlockFormat, StorageType};
use bitnet_kernels::Isa;
use bitnet_kernels::cpu::dense::{self, DenseView, RowFormat};
use bitnet_kernels::cpu::row_tiles::{ReadCodes, RowTiles, TILE_ROWS};
use bitnet_kernels::cpu::top::{Head, Sketch, TopLogits, Wanted, top};
use bitnet_ternary::Packing;
use bitnet_ternary::packing::q2_0;
use bytes::Bytes;

/// The rows of a head in memory, in the order of the kernels if that is another one, and with the compressed copy that its
/// largest logits are found by, see [`bitnet_kernels::cpu::top`].
#[derive(Clone)]
pub(crate) struct Searchable {
    /// As the file has them.
    bytes: Bytes,
    /// As the kernels read them, where that is another order.
    tiles: Option<(RowTiles, Bytes)>,
    rows: usize,
    cols: usize,
    format: RowFormat,
    /// Made when it is needed first; `None` where it cannot be made.
    sketch: Arc<OnceLock<Option<Sketch>>>,
}

impl std::fmt::Debug for Searchable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searchable").field("rows", &self.rows).field("cols", &self.cols).finish_non_exhaustive()
    }
}

impl Searchable {
    pub(crate) fn new(bytes: Bytes, rows: usize, cols: usize, format: RowFormat) -> Self {
        Self { bytes, tiles: None, rows, cols, format, sketch: Arc::default() }
    }

    /// With the rows in the order of the kernels. `release` is called now and then, and may tell the system that the pages of
    /// the file are not needed any more.
    pub(crate) fn tiled(mut self, order: TileOrder, release: impl Fn()) -> Self {
        let TileOrder { tiles: kind, read } = order;
        let of_row = self.bytes.len() / self.rows.max(1);
        let len = kind.bytes(self.rows, self.cols);
        // A vector that lies across two lines of the cache costs twice: the head would be read at three fifths of its speed.
        let mut memory: Vec<u8> = bitnet_ternary::zeroed(len + LINE);
        let begin = memory.as_ptr().align_offset(LINE).min(LINE);
        let tiles = &mut memory[begin..begin + len];
        let rows_at_once = TILE_ROWS * (RELEASED / of_row.max(1) / TILE_ROWS).max(1);
        let parts = tiles.chunks_mut(kind.bytes(rows_at_once, self.cols).max(1));
        for (tiles, rows) in parts.zip(self.bytes.chunks((rows_at_once * of_row).max(1))) {
            kind.lay_out(rows, of_row, self.cols, read, tiles);
            release();
        }
        self.tiles = Some((kind, Bytes::from_owner(memory).slice(begin..begin + len)));
        self
    }

    /// With tiles that were made of these rows before; `None` where they cannot be.
    pub(crate) fn with_tiles(self, order: TileOrder, tiles: Bytes) -> Option<Self> {
        let fits = tiles.len() == order.tiles.bytes(self.rows, self.cols);
        fits.then(|| Self { tiles: Some((order.tiles, tiles)), ..self })
    }

    /// The rows in the order of the kernels, where that is another one than the file's.
    pub(crate) fn tiles(&self) -> Option<&Bytes> {
        self.tiles.as_ref().map(|(_, tiles)| tiles)
    }

    /// `x wᵀ`, `[tokens, rows]`, of `x` `[tokens, cols]`.
    pub(crate) fn linear(&self, x: &[f32], tokens: usize) -> Vec<f32> {
        let mut out = vec![0.0; tokens * self.rows];
        dense::linear(Isa::active(), x, tokens, &self.view(), &mut out);
        out
    }

    /// Whether a copy would be so much less to read than the rows that it is worth its memory.
    pub(crate) fn is_worth_it(&self) -> bool {
        // A search reads most of the copy, and some rows in full. Of rows in six bits it saves too little.
        Sketch::size(self.rows, self.cols) / 4 * 5 < self.bytes.len() && self.bytes.len() >= WORTH_IT
    }

    pub(crate) fn has_sketch(&self) -> bool {
        self.sketch.get().is_some()
    }

    /// The copy, made now if it is not there; `None` where it cannot be made.
    pub(crate) fn sketch(&self) -> Option<&Sketch> {
        self.sketch.get_or_init(|| Sketch::new(Isa::active(), &self.view())).as_ref()
    }

    /// Takes a copy that was made of these rows before; whether it can be one.
    pub(crate) fn take_sketch(&self, bytes: Bytes) -> bool {
        let sketch = Sketch::from_bytes(self.rows, self.cols, Arc::new(bytes));
        sketch.is_some_and(|sketch| self.sketch.set(Some(sketch)).is_ok())
    }

    fn view(&self) -> DenseView<'_> {
        if let Some((tiles, bytes)) = &self.tiles {
            return DenseView::Tiles { bytes, tiles: *tiles, rows: self.rows, cols: self.cols };
        }
        let row_bytes = self.bytes.len() / self.rows.max(1);
        DenseView::Stored { bytes: &self.bytes, cols: self.cols, row_bytes, format: self.format }
    }

    /// The logits that are wanted of one token, or `None` where all have to be read.
    pub(crate) fn top(&self, x: &[f32], wanted: &Wanted) -> Option<TopLogits> {
        top(Isa::active(), Head { rows: self.view(), sketch: self.sketch()? }, x, wanted)
    }
}

/// The order in which the kernels read the rows of a head.
#[derive(Clone, Copy)]
pub(crate) struct TileOrder {
    tiles: RowTiles,
    /// Of rows that are not Q6_K's.
    read: Option<ReadCodes>,
}

impl TileOrder {
    /// Of rows of `cols` values that a file has in `dtype`; `None` where the kernels read them as they are.
    pub(crate) fn of(dtype: StorageType, cols: usize) -> Option<Self> {
        macro_rules! blocks {
            ($format:ident) => {
                |stored, codes, scales| read_blocks(BlockFormat::$format, stored, codes, scales)
            };
        }
        let (tiles, read): (_, Option<ReadCodes>) = match dtype {
            StorageType::Q6_K => (RowTiles::Q6K, None),
            StorageType::Ternary(Packing::Q2_0 { group: 64 }) => {
                (RowTiles::Nibbles, Some(|stored, codes, scales| read_q2_0(64, stored, codes, scales)))
            }
            StorageType::Ternary(Packing::Q2_0 { group: 128 }) => {
                (RowTiles::Nibbles, Some(|stored, codes, scales| read_q2_0(128, stored, codes, scales)))
            }
            other => match other.block_format()? {
                BlockFormat::Q8_0 => (RowTiles::Bytes, Some(blocks!(Q8_0))),
                BlockFormat::Q5_0 => (RowTiles::Bytes, Some(blocks!(Q5_0))),
                BlockFormat::IQ4_NL => (RowTiles::Bytes, Some(blocks!(IQ4_NL))),
                BlockFormat::Q4_0 => (RowTiles::Nibbles, Some(blocks!(Q4_0))),
                _ => return None,
            },
        };
        tiles.takes(cols).then_some(Self { tiles, read })
    }
}

/// Codes of blocks of 32.
fn read_blocks(format: BlockFormat, stored: &[u8], codes: &mut [i8], scales: &mut [f32]) {
    format.codes_row(stored, codes, scales).expect("a row is whole blocks: the reader has checked it");
}

/// The same of blocks of Q2_0.
fn read_q2_0(group: usize, stored: &[u8], codes: &mut [i8], scales: &mut [f32]) {
    let mut of_group = vec![0.0; codes.len() / group];
    q2_0::codes_row(stored, group, codes, &mut of_group);
    let each = scales.len() / of_group.len().max(1);
    scales.chunks_mut(each.max(1)).zip(of_group).for_each(|(to, scale)| to.fill(scale));
}

/// A head that is smaller is in a processor's caches, or nearly, and is read as fast as searched.
const WORTH_IT: usize = 32 << 20;

/// Pages of a file are given back after so many bytes.
const RELEASED: usize = 8 << 20;

/// Bytes of a line of a processor's cache, and of the largest vectors.
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::row_format;

    #[test]
    fn rows_of_every_block_format_have_the_products_of_their_values() {
        let (rows, cols, tokens) = (37, 512, 3);
        let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 31) % 61) as f32 / 16.0 - 1.8).collect();
        // Where `d` is in a block.
        let formats = [
            (StorageType::Q6_K, 210, 208),
            (StorageType::Q8_0, 34, 0),
            (StorageType::Q4_0, 18, 0),
            (StorageType::Q5_0, 22, 0),
            (StorageType::IQ4_NL, 18, 0),
            (StorageType::Ternary(Packing::Q2_0 { group: 64 }), 18, 0),
            (StorageType::Ternary(Packing::Q2_0 { group: 128 }), 34, 0),
        ];
        for (dtype, of_block, d) in formats {
            let values = if let StorageType::Ternary(Packing::Q2_0 { group }) = dtype { group } else { 32 };
            let blocks = if dtype == StorageType::Q6_K { rows * cols / 256 } else { rows * cols / values };
            let mut bytes: Vec<u8> = (0..blocks * of_block).map(|i| (i * 167 + i / 7 * 13) as u8).collect();
            for (i, block) in bytes.chunks_exact_mut(of_block).enumerate() {
                // Half precision of 2^-6 to 2^-3.
                block[d..d + 2].copy_from_slice(&[i as u8, 0x24 + (i % 3) as u8 * 4]);
            }
            let (format, order) = (row_format(dtype).unwrap(), TileOrder::of(dtype, cols).unwrap());
            assert!(TileOrder::of(dtype, cols + 128).is_none());
            let stored = Searchable::new(bytes.clone().into(), rows, cols, format);
            let tiled = stored.clone().tiled(order, || {});
            let found = tiled.linear(&x, tokens);
            let mut row = vec![0.0; cols];
            for (n, bytes) in bytes.chunks_exact(bytes.len() / rows).enumerate() {
                format.decode(bytes, &mut row);
                for (t, x) in x.chunks_exact(cols).enumerate() {
                    let products = || row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (sum, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                    let found = f64::from(found[t * rows + n]);
                    assert!((found - sum).abs() <= 2e-4 * size, "{dtype:?}, row {n}: {found} {sum} {size}");
                }
            }
            let tiles = tiled.tiles().unwrap().clone();
            assert!(stored.clone().with_tiles(order, tiles.slice(64..)).is_none());
            assert_eq!(stored.with_tiles(order, tiles).unwrap().linear(&x, tokens), found, "{dtype:?}");
        }
        assert!(TileOrder::of(StorageType::F16, cols).is_none());
        assert!(TileOrder::of(StorageType::Q4_K, cols).is_none());
    }
}
