//! Products with float matrices in stored form, and rows of them, on tensors.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::dense::{self, Words};
use super::launch::empty;
use super::plan::{UNITS, lanes, tile};
use super::target::Target;
use crate::cpu::code_rows::CodeRows;
use crate::cpu::dense::RowFormat;

/// Sums of a token that a processor has at once.
const CHAINS: usize = 4;

/// How the words of rows in this format are read, and how many in a vector; `None` where no kernel reads it.
fn words_of(target: &Target, format: RowFormat, words: usize) -> Option<(Words, usize)> {
    let plain = |format| Some((format, target.vector_of(words)));
    match format {
        RowFormat::F32 => plain(Words::F32),
        RowFormat::F16 => plain(Words::F16),
        RowFormat::Bf16 => plain(Words::Bf16),
        RowFormat::Codes(CodeRows { group, lanes, bits: 6 }) => Some((Words::SixBits { units: group / 16 }, lanes)),
        RowFormat::Codes(CodeRows { group, lanes, .. }) => Some((Words::Codes { units: group / 4 }, lanes)),
        RowFormat::Other(_) => None,
    }
}

/// `x wᵀ` for rows in stored form, `None` where no kernel reads it: the rows must be U32 words.
pub(crate) fn rows_linear(x: CubeTensor, rows: &CubeTensor, format: RowFormat) -> Option<CubeTensor> {
    let target = Target::of(&x.client);
    let [count, words] = rows.shape().dims();
    let (format, vector) = words_of(&target, format, words).filter(|_| rows.dtype == DType::U32)?;
    let (x, rows) = (into_contiguous(x), into_contiguous(rows.clone()));
    let client = x.client.clone();
    let [tokens, cols] = x.shape().dims();
    let arranged = empty(&x, [tokens, cols], DType::F32);
    let (cubes, dim) = target.tasks(tokens * cols / format.values());
    let to = arranged.clone().into_buffer_arg();
    dense::arrange::launch(&client, cubes, dim, x.into_buffer_arg(), to, cols, vector, format);
    let out = empty(&rows, [tokens, count], DType::F32);
    let steps = cols / format.of_step(vector);
    let tile = tile(tokens);
    let chains = if target.is_cpu() && tile == 1 { format.values().min(CHAINS) } else { 1 };
    let (lanes, cubes, dim) = lanes(&target, count * tokens.div_ceil(tile), target.lanes);
    let (rows, x, y) = (rows.into_buffer_arg(), arranged.into_buffer_arg(), out.clone().into_buffer_arg());
    assert_eq!(words, format.stored(vector, cols), "words of a row");
    // SAFETY: rows and tokens are clamped to what there is, and the size of a row was just checked.
    unsafe {
        dense::product::launch_unchecked(
            &client, cubes, dim, vector, rows, x, y, count, tokens, steps, format, tile, chains, lanes, UNITS,
        );
    }
    Some(out)
}

/// The values of rows in stored form, `[rows, cols]`, `None` where no kernel reads it.
pub(crate) fn decode_rows(rows: &CubeTensor, format: RowFormat, cols: usize) -> Option<CubeTensor> {
    let target = Target::of(&rows.client);
    let [count, words] = rows.shape().dims();
    let (format, vector) = words_of(&target, format, words).filter(|_| rows.dtype == DType::U32)?;
    let rows = into_contiguous(rows.clone());
    let client = rows.client.clone();
    let out = empty(&rows, [count, cols], DType::F32);
    let steps = cols / format.of_step(vector);
    let (cubes, dim) = target.tasks(count * steps);
    let (rows, y) = (rows.into_buffer_arg(), out.clone().into_buffer_arg());
    dense::decode::launch(&client, cubes, dim, vector, rows, y, cols, steps, format);
    Some(out)
}
