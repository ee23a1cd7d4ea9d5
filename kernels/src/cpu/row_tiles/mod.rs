//! The rows of a head in tiles of sixteen, for products with the codes themselves and no float for every weight.
//!
//! Sixteen rows are side by side, each in a 32-bit lane of its own, as those of the ternary layers are: no sum leaves its lane,
//! and the scales of a step are one vector. What a step reads lies in the order in which it is read, so that a processor fetches
//! the next lines by itself, and no vector is in two of them.

mod codes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod q6_k;
mod split;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::isa::Isa;
use super::parallel;
pub(crate) use split::SplitActivations;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Tokens that meet the codes of a tile at once, where there are so many.
pub(crate) const TOKENS: usize = 4;

/// A line of a processor's cache.
const LINE: usize = 64;

/// What the rows of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowTiles {
    /// Blocks of Q6_K, see `q6_k.rs`.
    Q6K,
    /// Codes of 8 bits with a scale for every 32, see `codes.rs`.
    Bytes,
    /// Codes of 4 bits, from -8 to 7, with a scale for every 32.
    Nibbles,
}

/// Reads the codes of a stored row, and a scale in half precision for every 32 of them: a value is their product.
pub type ReadCodes = fn(stored: &[u8], codes: &mut [i8], scales: &mut [f32]);

impl RowTiles {
    /// Whether rows of so many columns can be laid out so.
    pub fn takes(self, cols: usize) -> bool {
        cols > 0 && cols.is_multiple_of(split::BLOCK)
    }

    /// Bytes of the tiles of so many rows of `cols` columns.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(TILE_ROWS) * self.of_tile(cols)
    }

    /// Bytes of one tile.
    fn of_tile(self, cols: usize) -> usize {
        match self {
            RowTiles::Q6K => q6_k::tile_bytes(cols),
            RowTiles::Bytes => codes::tile_bytes::<8>(cols),
            RowTiles::Nibbles => codes::tile_bytes::<4>(cols),
        }
    }

    /// Lays out whole rows of `of_row` bytes each, as a file has them, into `tiles`; rows that are missing in the last tile are
    /// zeros. `read` gives the codes of rows that are not Q6_K's.
    ///
    /// # Panics
    /// When rows of so many columns cannot be laid out, `stored` is not whole rows, or `tiles` not [`RowTiles::bytes`] of them;
    /// when a code does not fit, or there is no `read`.
    pub fn lay_out(self, stored: &[u8], of_row: usize, cols: usize, read: Option<ReadCodes>, tiles: &mut [u8]) {
        assert!(self.takes(cols) && of_row > 0 && stored.len().is_multiple_of(of_row), "rows of whole blocks");
        assert_eq!(tiles.len(), self.bytes(stored.len() / of_row, cols), "tiles of these rows");
        parallel::chunks(tiles, self.of_tile(cols), 16 * stored.len(), |i, tile| {
            tile.fill(0);
            let rows = stored[i * TILE_ROWS * of_row..].chunks_exact(of_row).take(TILE_ROWS);
            let (mut codes, mut scales) = (Vec::new(), Vec::new());
            for (lane, row) in rows.enumerate() {
                if self == RowTiles::Q6K {
                    q6_k::put_lane(row, lane, tile);
                    continue;
                }
                codes.resize(cols, 0);
                scales.resize(cols / codes::GROUP, 0.0);
                read.expect("a function that reads codes")(row, &mut codes, &mut scales);
                match self {
                    RowTiles::Nibbles => codes::put_lane::<4>(&codes, &scales, lane, tile),
                    _ => codes::put_lane::<8>(&codes, &scales, lane, tile),
                }
            }
        });
    }

    /// Tile `i` of rows with so many columns.
    pub(crate) fn tile(self, tiles: &[u8], cols: usize, i: usize) -> &[u8] {
        let size = self.of_tile(cols);
        &tiles[i * size..][..size]
    }

    /// The values of row `lane` of a tile.
    pub(crate) fn decode_lane(self, tile: &[u8], lane: usize, row: &mut [f32]) {
        match self {
            RowTiles::Q6K => q6_k::decode_lane(tile, lane, row),
            RowTiles::Bytes => codes::decode_lane::<8>(tile, lane, row),
            RowTiles::Nibbles => codes::decode_lane::<4>(tile, lane, row),
        }
    }

    /// The products of the 16 rows of a tile with `T` tokens, of as many columns as the tile: `[token][row]`.
    ///
    /// # Panics
    /// When a token has another number of columns.
    pub(crate) fn dots<const T: usize>(
        self,
        isa: Isa,
        tile: &[u8],
        x: [&SplitActivations; T],
    ) -> [[f32; TILE_ROWS]; T] {
        match self {
            RowTiles::Q6K => q6_k::dots(isa, tile, x),
            RowTiles::Bytes => codes::dots::<8, T>(isa, tile, x),
            RowTiles::Nibbles => codes::dots::<4, T>(isa, tile, x),
        }
    }
}
