//! The rows of a head in memory: all of its logits, where the kernels have an order of their own for it, or a few of them.

use std::sync::{Arc, OnceLock};

use bitnet_kernels::Isa;
use bitnet_kernels::cpu::dense::{self, DenseView, RowFormat};
use bitnet_kernels::cpu::q6_k;
use bitnet_kernels::cpu::top::{Head, Sketch, TopLogits, Wanted, top};
use bytes::Bytes;

/// The rows of a head in memory, in the order of the kernels if that is another one, and with the compressed copy that its
/// largest logits are found by, see [`bitnet_kernels::cpu::top`].
#[derive(Clone)]
pub(crate) struct Searchable {
    /// As the file has them.
    bytes: Bytes,
    /// As the kernels read them, where that is another order.
    tiles: Option<Bytes>,
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

    /// With the rows of Q6_K in the order of the kernels. `release` is called now and then, and may tell the system that the
    /// pages of the file are not needed any more.
    pub(crate) fn tiled(mut self, release: impl Fn()) -> Self {
        let of_row = self.bytes.len() / self.rows.max(1);
        let len = q6_k::tile_bytes(self.rows, self.cols);
        // A vector that lies across two lines of the cache costs twice: the head would be read at three fifths of its speed.
        let mut memory: Vec<u8> = bitnet_ternary::zeroed(len + LINE);
        let begin = memory.as_ptr().align_offset(LINE).min(LINE);
        let tiles = &mut memory[begin..begin + len];
        let rows_at_once = q6_k::TILE_ROWS * (RELEASED / of_row.max(1) / q6_k::TILE_ROWS).max(1);
        let parts = tiles.chunks_mut(q6_k::tile_bytes(rows_at_once, self.cols).max(1));
        for (tiles, rows) in parts.zip(self.bytes.chunks((rows_at_once * of_row).max(1))) {
            q6_k::tile(rows, self.cols, tiles);
            release();
        }
        self.tiles = Some(Bytes::from_owner(memory).slice(begin..begin + len));
        self
    }

    /// With tiles that were made of these rows before; `None` where they cannot be.
    pub(crate) fn with_tiles(self, tiles: Bytes) -> Option<Self> {
        let fits = tiles.len() == q6_k::tile_bytes(self.rows, self.cols);
        fits.then(|| Self { tiles: Some(tiles), ..self })
    }

    /// The rows in the order of the kernels, where that is another one than the file's.
    pub(crate) fn tiles(&self) -> Option<&Bytes> {
        self.tiles.as_ref()
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
        if let Some(tiles) = &self.tiles {
            return DenseView::Q6KTiles { bytes: tiles, rows: self.rows, cols: self.cols };
        }
        let row_bytes = self.bytes.len() / self.rows.max(1);
        DenseView::Stored { bytes: &self.bytes, cols: self.cols, row_bytes, format: self.format }
    }

    /// The logits that are wanted of one token, or `None` where all have to be read.
    pub(crate) fn top(&self, x: &[f32], wanted: &Wanted) -> Option<TopLogits> {
        top(Isa::active(), Head { rows: self.view(), sketch: self.sketch()? }, x, wanted)
    }
}

/// A head that is smaller is in a processor's caches, or nearly, and is read as fast as searched.
const WORTH_IT: usize = 32 << 20;

/// Pages of a file are given back after so many bytes.
const RELEASED: usize = 8 << 20;

/// Bytes of a line of a processor's cache, and of the largest vectors.
const LINE: usize = 64;
