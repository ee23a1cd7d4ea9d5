//! Embedding and head: matrices that are not ternary.

use bitnet_format::{BlockFormat, Checkpoint, StorageType};
use bitnet_kernels::cpu::top::{TopLogits, Wanted};
use bitnet_kernels::{CodeRows, RowFormat, RowStorage, ops, row_storage};
use bitnet_ternary::Packing;
use bitnet_ternary::packing::q2_0;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, FloatDType, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::ModelError;
use crate::head::{Searchable, TileOrder};

/// A float matrix `[rows, cols]`: the embedding, or the head.
///
/// One of a model that runs stays as its file stores it, row by row, and on the CPU stays mapped; it can be F32, F16, BF16,
/// Q8_0, Q6_K, Q4_0, Q5_0, Q3_K, Q4_K, IQ4_NL or Q2_0 (Bonsai's, which is ternary as the linears are), and a row becomes f32 when it is
/// used; but a head of blocks is laid out for the kernels, which multiply its codes (`head.rs`). A device whose kernels read
/// 32-bit words is given the same values in words: floats as they are, blocks as codes of 6 or 8 bits with their scales (Q3_K,
/// Q4_K and Q2_0 as F32), in as many tensors as it needs. One of a model in training is in F32 and has a gradient.
#[derive(Module, Debug)]
pub struct DenseMatrix {
    values: Values,
    cols: usize,
}

#[derive(Module, Debug)]
enum Values {
    Stored(StoredRows),
    Trained(TrainedRows),
}

#[derive(Module, Debug)]
struct StoredRows {
    /// U8 `[rows, row_bytes]`, or U32 `[rows, words]`: the first rows, the next, and so on.
    shards: Vec<Param<Tensor<2, Int>>>,
    #[module(skip)]
    format: RowFormat,
    /// Where the rows are in memory as the file has them.
    #[module(skip)]
    search: Option<Searchable>,
}

#[derive(Module, Debug)]
struct TrainedRows {
    weight: Param<Tensor<2>>,
    /// What the model is to be stored in: it computes with the values that this type can hold.
    #[module(skip)]
    storage: FloatDType,
}

impl DenseMatrix {
    /// The tensor `name` of `checkpoint`, which must be `[rows, cols]`.
    ///
    /// # Errors
    /// When the tensor is missing, has another shape, or is stored in a type that has no float values.
    pub fn load(
        checkpoint: &Checkpoint,
        name: &str,
        rows: usize,
        cols: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let bytes = checkpoint.shared_bytes(name)?;
        let info = checkpoint.info(name).expect("its bytes were just found");
        if info.shape != [rows, cols] {
            return Err(ModelError::MatrixShape {
                name: name.to_string(),
                found: info.shape.clone(),
                needed: [rows, cols],
            });
        }
        let unsupported =
            || ModelError::Unsupported { what: format!("tensor {name} of type {}, where floats belong,", info.dtype) };
        let format = row_format(info.dtype).ok_or_else(unsupported)?;
        let stored = match row_storage(device) {
            RowStorage::Bytes => {
                let shape = [rows, bytes.len() / rows.max(1)];
                let search = Searchable::new(bytes.clone(), rows, cols, format);
                let bytes = Bytes::from_shared(bytes, AllocationProperty::File);
                let data = vec![TensorData::from_bytes(bytes, shape, DType::U8)];
                StoredRows { search: Some(search), ..StoredRows::new(data, DType::U8, format, device) }
            }
            RowStorage::Words { lanes, max_bytes, small_codes } => {
                let words = RowWords::new(info.dtype, format, cols, lanes, small_codes);
                let of_row = bytes.len() / rows.max(1);
                let in_shard = (max_bytes / (4 * words.words)).clamp(1, rows.max(1));
                let shards = bytes.chunks((in_shard * of_row).max(1)).map(|bytes| words.encode(bytes, of_row));
                StoredRows::new(shards.collect(), DType::U32, words.format, device)
            }
        };
        Ok(Self { values: Values::Stored(stored), cols })
    }

    /// [`DenseMatrix::load`] of a head: where the kernels of the CPU want its rows in another order, they are laid out so, or
    /// taken from `tiles`, which an earlier one has made; `None` where these are of another matrix.
    pub(crate) fn load_head(
        checkpoint: &Checkpoint,
        name: &str,
        [rows, cols]: [usize; 2],
        tiles: Option<bytes::Bytes>,
        device: &Device,
    ) -> Result<Option<Self>, ModelError> {
        let mut matrix = Self::load(checkpoint, name, rows, cols, device)?;
        let order = checkpoint.info(name).and_then(|info| TileOrder::of(info.dtype, cols));
        let (Values::Stored(stored), Some(order)) = (&mut matrix.values, order) else { return Ok(Some(matrix)) };
        let Some(search) = stored.search.take() else { return Ok(Some(matrix)) };
        stored.search = match tiles {
            Some(tiles) => search.with_tiles(order, tiles),
            None => Some(search.tiled(order, || checkpoint.release(name))),
        };
        Ok(stored.search.is_some().then_some(matrix))
    }

    /// To be trained, from F32 weights `[rows, cols]`. The model computes with the values that `storage` (F32, F16 or BF16)
    /// can hold, so that it is the same model when it is stored so; the gradient passes unchanged.
    pub fn trained(weight: Tensor<2>, storage: FloatDType) -> Self {
        let [_, cols] = weight.dims();
        let weight = Param::from_tensor(weight);
        Self { values: Values::Trained(TrainedRows { weight, storage }), cols }
    }

    /// The rows `ids` as floats, `[ids, cols]`.
    pub fn select(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        match &self.values {
            Values::Stored(rows) => rows.select(ids, self.cols),
            Values::Trained(rows) => rows.rounded().select(0, ids),
        }
    }

    /// `x wᵀ`: `[tokens, cols] → [tokens, rows]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.values {
            Values::Stored(rows) => match rows.search.as_ref().filter(|search| search.tiles().is_some()) {
                Some(search) => {
                    let ([tokens, _], device) = (x.dims(), x.device());
                    let x: Vec<f32> = x.into_data().try_into_vec().expect("activations are F32");
                    let out = TensorData::new(search.linear(&x, tokens), [tokens, self.rows()]);
                    Tensor::from_data(out, (&device, DType::F32))
                }
                None => rows.cat(1, |shard| ops::rows_linear(x.clone(), shard, rows.format, self.cols)),
            },
            Values::Trained(rows) => ops::dense_linear(x, rows.rounded()),
        }
    }

    /// The values of [`DenseMatrix::forward`] that are wanted, for one token `x` (`[1, cols]`), to the bit; `None` where all of
    /// them have to be read for that, or the device has no kernel for it.
    ///
    /// The first call makes a compressed copy of the rows, and takes its time.
    pub fn top(&self, x: Tensor<2>, wanted: &Wanted) -> Option<TopLogits> {
        let search = self.search()?;
        let x: Vec<f32> = x.into_data().try_into_vec().ok()?;
        search.top(&x, wanted)
    }

    /// Whether [`DenseMatrix::top`] reads less than [`DenseMatrix::forward`], by so much that it is worth a copy of the rows.
    pub fn is_worth_searching(&self) -> bool {
        self.search().is_some_and(Searchable::is_worth_it)
    }

    /// Whether [`DenseMatrix::top`] has its copy of the rows.
    pub fn is_ready_to_search(&self) -> bool {
        self.search().is_some_and(Searchable::has_sketch)
    }

    pub(crate) fn search(&self) -> Option<&Searchable> {
        match &self.values {
            Values::Stored(rows) => rows.search.as_ref(),
            Values::Trained(_) => None,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match &self.values {
            Values::Stored(rows) => rows.shards.iter().map(|shard| shard.dims()[0]).sum(),
            Values::Trained(rows) => rows.weight.dims()[0],
        }
    }

    /// Bytes of its values as they are on the device.
    pub fn bytes(&self) -> usize {
        match &self.values {
            Values::Stored(rows) => {
                let bytes = |shard: &Tensor<2, Int>| shard.dims().iter().product::<usize>() * shard.dtype().size();
                rows.shards.iter().map(|shard| bytes(&shard.val())).sum()
            }
            Values::Trained(rows) => rows.weight.dims().iter().product::<usize>() * size_of::<f32>(),
        }
    }

    /// The weights in training, where it has them.
    pub fn param(&self) -> Option<&Param<Tensor<2>>> {
        match &self.values {
            Values::Stored(_) => None,
            Values::Trained(rows) => Some(&rows.weight),
        }
    }

    /// The values that the model computes with, `[rows, cols]` in F32.
    pub fn floats(&self) -> Tensor<2> {
        match &self.values {
            Values::Stored(rows) => rows.cat(0, |shard| ops::decode_rows(shard, rows.format, self.cols)),
            Values::Trained(rows) => rows.rounded(),
        }
    }

    /// The float type that a model in training is to be stored in.
    pub fn storage(&self) -> Option<FloatDType> {
        match &self.values {
            Values::Stored(_) => None,
            Values::Trained(rows) => Some(rows.storage),
        }
    }
}

impl StoredRows {
    fn new(shards: Vec<TensorData>, dtype: DType, format: RowFormat, device: &Device) -> Self {
        let tensor = |data| Param::initialized(ParamId::new(), ops::gapless(data, device, dtype));
        Self { shards: shards.into_iter().map(tensor).collect(), format, search: None }
    }

    /// What `f` makes of each shard, side by side along `dim`.
    fn cat(&self, dim: usize, f: impl Fn(Tensor<2, Int>) -> Tensor<2>) -> Tensor<2> {
        let mut parts: Vec<_> = self.shards.iter().map(|shard| f(shard.val())).collect();
        if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, dim) }
    }

    fn select(&self, ids: Tensor<1, Int>, cols: usize) -> Tensor<2> {
        let decode = |rows: Tensor<2, Int>| ops::decode_rows(rows, self.format, cols);
        let [first, rest @ ..] = &*self.shards else { panic!("a matrix has rows") };
        if rest.is_empty() {
            return decode(first.val().select(0, ids));
        }
        // Every shard gives a row for every id; the one that has the id is taken.
        let mut from = 0;
        let mut found: Option<Tensor<2>> = None;
        for shard in &self.shards {
            let rows = shard.dims()[0];
            let own = ids.clone().sub_scalar(from as i64);
            let inside = own.clone().clamp(0, rows as i64 - 1);
            let elsewhere = own.not_equal(inside.clone()).unsqueeze_dim::<2>(1);
            let values = decode(shard.val().select(0, inside));
            found = Some(match found {
                Some(found) => values.mask_where(elsewhere.repeat_dim(1, cols), found),
                None => values,
            });
            from += rows;
        }
        found.expect("a matrix has rows")
    }
}

/// How rows become words.
struct RowWords {
    format: RowFormat,
    /// Words of a row.
    words: usize,
    cols: usize,
    /// Of blocks that become codes.
    codes: Option<(BlockFormat, CodeRows)>,
    /// As the file has them.
    stored: RowFormat,
}

impl RowWords {
    fn new(dtype: StorageType, stored: RowFormat, cols: usize, lanes: usize, small_codes: usize) -> Self {
        let blocks = dtype.block_format().and_then(|block| Some((block, block.code_group()?)));
        let codes = blocks.map(|(block, group)| {
            let groups = cols / group;
            let lanes = (0..=lanes.ilog2()).rev().map(|bits| 1 << bits).find(|lanes| groups.is_multiple_of(*lanes));
            let bits = block.code_bits().max(small_codes);
            (block, CodeRows { group, lanes: lanes.unwrap_or(1), bits })
        });
        let (format, words) = match (codes, stored) {
            (Some((_, rows)), _) => (RowFormat::Codes(rows), rows.words(cols)),
            (None, RowFormat::F16 | RowFormat::Bf16) if cols.is_multiple_of(2) => (stored, cols / 2),
            _ => (RowFormat::F32, cols),
        };
        Self { format, words, cols, codes, stored }
    }

    /// Rows of `of_row` bytes as words.
    fn encode(&self, bytes: &[u8], of_row: usize) -> TensorData {
        let rows = bytes.len() / of_row;
        let mut words = vec![0u32; rows * self.words];
        words.par_chunks_exact_mut(self.words).zip(bytes.par_chunks_exact(of_row)).for_each(|(words, bytes)| {
            match (self.codes, self.format) {
                (Some((block, layout)), _) => {
                    let (mut codes, mut scales) = (vec![0; self.cols], vec![0.0; self.cols / layout.group]);
                    block.codes_row(bytes, &mut codes, &mut scales).expect(WHOLE);
                    layout.encode(&codes, &scales, words);
                }
                (None, RowFormat::F16 | RowFormat::Bf16) => {
                    let pairs = bytes.as_chunks::<4>().0;
                    words.iter_mut().zip(pairs).for_each(|(word, pair)| *word = u32::from_le_bytes(*pair));
                }
                _ => {
                    let mut values = vec![0.0; self.cols];
                    self.stored.decode(bytes, &mut values);
                    words.iter_mut().zip(&values).for_each(|(word, value)| *word = value.to_bits());
                }
            }
        });
        TensorData::new(words, [rows, self.words])
    }
}

impl TrainedRows {
    fn rounded(&self) -> Tensor<2> {
        match self.storage {
            FloatDType::F32 => self.weight.val(),
            storage => ops::training::round_to(self.weight.val(), storage),
        }
    }
}

const WHOLE: &str = "a row is whole blocks: the reader has checked it";

pub(crate) fn row_format(dtype: StorageType) -> Option<RowFormat> {
    match dtype {
        StorageType::F32 => Some(RowFormat::F32),
        StorageType::F16 => Some(RowFormat::F16),
        StorageType::BF16 => Some(RowFormat::Bf16),
        StorageType::Ternary(Packing::Q2_0 { group: 64 }) => {
            Some(RowFormat::Other(|bytes, row| q2_0::dequantize_row(bytes, 64, row)))
        }
        StorageType::Ternary(Packing::Q2_0 { group: 128 }) => {
            Some(RowFormat::Other(|bytes, row| q2_0::dequantize_row(bytes, 128, row)))
        }
        other => Some(match other.block_format()? {
            BlockFormat::Q8_0 => {
                RowFormat::Other(|bytes, row| BlockFormat::Q8_0.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q6_K => {
                RowFormat::Other(|bytes, row| BlockFormat::Q6_K.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q4_0 => {
                RowFormat::Other(|bytes, row| BlockFormat::Q4_0.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q5_0 => {
                RowFormat::Other(|bytes, row| BlockFormat::Q5_0.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q3_K => {
                RowFormat::Other(|bytes, row| BlockFormat::Q3_K.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::Q4_K => {
                RowFormat::Other(|bytes, row| BlockFormat::Q4_K.dequantize_row(bytes, row).expect(WHOLE))
            }
            BlockFormat::IQ4_NL => {
                RowFormat::Other(|bytes, row| BlockFormat::IQ4_NL.dequantize_row(bytes, row).expect(WHOLE))
            }
        }),
    }
}
