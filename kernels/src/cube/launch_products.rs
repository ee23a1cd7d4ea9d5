//! Quantizers and ternary products on tensors.

use burn::backend::{DType, TensorMetadata};
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use half::{bf16, f16};

use super::launch::empty;
use super::plan::{BLOCK, UNITS, block, lanes, tile, tiling};
use super::target::{Operand, Products, Target};
use super::tune::{self, Variant};
use super::{groups, halves, matmul, matvec, quantize as codes, training};
use crate::cpu::gate::Gate;
use crate::ops::{Activations, TernarySpec, Weight};

/// Tokens up to which the threads of a processor quantize the activations of a product each for itself.
const INSIDE: usize = 1;

/// Activations as the matrix kernels read them.
#[derive(Clone)]
pub(crate) struct Quantized {
    pub(super) codes: CubeTensor,
    /// `[tokens, 2]`: multiplier and sum of codes.
    meta: CubeTensor,
    pub(super) tokens: usize,
    pub(super) cols: usize,
    /// Words in a vector.
    vector: usize,
    pub(super) products: Products,
    rounded: bool,
    /// What the products quantize themselves, where that is the faster way: `codes` and `meta` are their notes then.
    values: Option<Values>,
}

/// Activations that are not quantized yet.
#[derive(Clone)]
struct Values {
    x: CubeTensor,
    norm: Option<CubeTensor>,
    eps: f32,
    /// Elements of a vector.
    vector: usize,
}

/// Quantizes `x` (`[tokens, cols]`), after an RMSNorm if there is one, for weights that look like `spec`. Activations that
/// are to stay floats are only put in order.
pub(crate) fn quantize(x: CubeTensor, norm: Option<(CubeTensor, f64)>, spec: &TernarySpec) -> Quantized {
    let (group, rounded) = (spec.group, spec.activations == Activations::Int8);
    let x = into_contiguous(x);
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let [tokens, cols] = x.shape().dims();
    let words = cols.div_ceil(codes::WORD);
    let in_group = group.map_or(words, |group| if group < cols { group / codes::WORD } else { words });
    let vector = target.vector_of(words).min(target.vector_of(in_group));
    let products = if group.is_none() && rounded { target.products(tokens) } else { Products::Floats };
    let inside = products == Products::Halves && tokens <= INSIDE;
    let rows = if inside { target.units() * tokens } else { tokens };
    let meta = empty(&x, [rows, 2], DType::F32);
    let floats = products == Products::Floats;
    let dtype = if floats { DType::F32 } else { DType::U32 };
    let packed = empty(&x, [rows, codes::WORD / products.per_word() * words], dtype);
    let width = target.vector_of(cols);
    let (weight, eps) = match norm {
        Some((weight, eps)) => (Some(into_contiguous(weight)), eps as f32),
        None => (None, 0.0),
    };
    if inside {
        let values = Some(Values { x, norm: weight, eps, vector: width });
        return Quantized { codes: packed, meta, tokens, cols, vector, products, rounded, values };
    }
    let units = target.units_of_a_row();
    let (count, dim) = target.rows(tokens);
    let weight = weight.map(CubeTensor::into_buffer_arg);
    let (to, about) = (packed.clone().into_buffer_arg(), meta.clone().into_buffer_arg());
    let x = x.into_buffer_arg();
    let vectors = cols / width;
    if !floats {
        codes::quantize_packed::launch(
            &client,
            count,
            dim,
            width,
            x,
            weight.into(),
            to,
            about,
            vectors,
            words,
            eps,
            vector,
            units,
            products.per_word(),
        );
    } else {
        codes::quantize::launch(
            &client,
            count,
            dim,
            width,
            x,
            weight.into(),
            to,
            about,
            vectors,
            words,
            eps,
            vector,
            units,
            rounded,
        );
    }
    Quantized { codes: packed, meta, tokens, cols, vector, products, rounded, values: None }
}

/// The same for int8 codes that training has kept, `[tokens, ceil(cols / 4)]` words, and their multipliers.
pub(crate) fn quantized_codes(kept: CubeTensor, multiplier: CubeTensor, cols: usize) -> Quantized {
    let (kept, multiplier) = (into_contiguous(kept), into_contiguous(multiplier));
    let (client, target) = (kept.client.clone(), Target::of(&kept.client));
    let [tokens, own] = kept.shape().dims();
    assert_eq!(own, cols.div_ceil(training::CODES), "words of a row of codes");
    let words = cols.div_ceil(codes::WORD);
    let (vector, products) = (target.vector_of(words), target.products(tokens));
    let meta = empty(&kept, [tokens, 2], DType::F32);
    let arranged = empty(&kept, [tokens, codes::WORD / products.per_word() * words], DType::U32);
    let (count, dim) = target.rows(tokens);
    training::arrange::launch(
        &client,
        count,
        dim,
        kept.into_buffer_arg(),
        multiplier.into_buffer_arg(),
        arranged.clone().into_buffer_arg(),
        meta.clone().into_buffer_arg(),
        own,
        words,
        vector,
        products.per_word(),
        target.units_of_a_row(),
    );
    Quantized { codes: arranged, meta, tokens, cols, vector, products, rounded: true, values: None }
}

/// A matrix as a launch takes it.
#[derive(Clone)]
pub(super) struct Matrix {
    words: CubeTensor,
    scale: CubeTensor,
    pub(super) rows: usize,
    scale_of_row: bool,
}

impl Matrix {
    fn of(weight: Weight<CubeBackend>, x: &Quantized) -> Self {
        let Weight { words, scale, spec: TernarySpec { cols, group, .. } } = weight;
        let (words, scale) = (into_contiguous(words), into_contiguous(scale));
        let [rows, of_row] = words.shape().dims();
        let scales = scale.shape().num_elements();
        assert_eq!(x.cols, cols, "columns of the weights");
        assert_eq!(of_row, cols.div_ceil(codes::WORD), "words of a row");
        assert!(group.is_some() || scales == 1 || scales == rows, "{scales} scales for {rows} rows");
        Self { words, scale, rows, scale_of_row: scales > 1 }
    }
}

/// The output of a matrix in canonical order, `[tokens, rows]`, and `added` to it, which has this shape; `None` where that
/// takes more than one launch.
pub(crate) fn quantized_linear_onto(
    x: &Quantized,
    weight: &Weight<CubeBackend>,
    added: CubeTensor,
) -> Option<CubeTensor> {
    if weight.spec.group.is_some() || !x.rounded || x.products == Products::Tiles {
        return None;
    }
    Some(product(x, vec![Matrix::of(weight.clone(), x)], None, Some(into_contiguous(added))))
}

/// Outputs, `[tokens, rows]` each, of one to three matrices in canonical order.
pub(crate) fn quantized_linears(x: &Quantized, weights: Vec<Weight<CubeBackend>>) -> Vec<CubeTensor> {
    let in_groups = weights.iter().any(|weight| weight.spec.group.is_some()) || !x.rounded;
    let group = weights.first().and_then(|weight| weight.spec.group);
    let matrices: Vec<Matrix> = weights.into_iter().map(|weight| Matrix::of(weight, x)).collect();
    let one = |matrix: &Matrix| match x.products {
        _ if in_groups => grouped(x, matrix, group),
        _ => product(x, vec![matrix.clone()], None, None),
    };
    let target = Target::of(&x.codes.client);
    // Buffers: words and scale of each, codes, meta, output, and what the launch says of them.
    let together = matrices.len() > 1
        && !in_groups
        && x.products != Products::Tiles
        && 2 * matrices.len() + 4 <= target.max_bindings
        && matrices.iter().all(|matrix| (x.tokens * matrix.rows * size_of::<f32>()).is_multiple_of(target.alignment));
    if !together {
        return matrices.iter().map(one).collect();
    }
    let out = product(x, matrices.clone(), None, None);
    let mut from = 0;
    let parts = matrices.iter().map(|matrix| {
        let len = x.tokens * matrix.rows;
        let mut part = out.clone();
        let all = out.shape().num_elements();
        part.handle = part.handle.offset_start((from * size_of::<f32>()) as u64);
        part.handle = part.handle.offset_end(((all - from - len) * size_of::<f32>()) as u64);
        from += len;
        let shape = Shape::from([x.tokens, matrix.rows]);
        CubeTensor::new_contiguous(part.client, part.device, shape, part.handle, DType::F32)
    });
    parts.collect()
}

/// `act(gate) * up` of the outputs of two matrices in canonical order, `[tokens, rows]`; `None` where that takes more than
/// one launch.
pub(crate) fn quantized_gate(
    x: &Quantized,
    gate: &Weight<CubeBackend>,
    up: &Weight<CubeBackend>,
    kind: Gate,
) -> Option<CubeTensor> {
    let in_groups = gate.spec.group.is_some() || up.spec.group.is_some() || !x.rounded;
    if in_groups || x.products == Products::Tiles {
        return None;
    }
    let matrices = [gate.clone(), up.clone()].map(|weight| Matrix::of(weight, x));
    Some(product(x, matrices.to_vec(), Some(kind), None))
}

/// What one launch computes: one to three matrices times the activations, the outputs one behind the other in `out`.
#[derive(Clone)]
pub(super) struct Product {
    pub x: Quantized,
    pub matrices: Vec<Matrix>,
    pub gate: Option<Gate>,
    /// What the outputs of one matrix are added to.
    pub added: Option<CubeTensor>,
    pub out: CubeTensor,
}

fn product(x: &Quantized, matrices: Vec<Matrix>, gate: Option<Gate>, added: Option<CubeTensor>) -> CubeTensor {
    let rows = if gate.is_some() { matrices[0].rows } else { matrices.iter().map(|matrix| matrix.rows).sum() };
    let out = empty(&x.codes, [x.tokens, rows], DType::F32);
    tune::fastest(Product { x: x.clone(), matrices, gate, added, out: out.clone() });
    out
}

/// Launches a product in one of the ways there are.
pub(super) fn launch(product: &Product, variant: Variant) {
    match (product.x.products, variant) {
        (Products::Halves, _) => halves(product),
        (_, Variant::Rows { lanes, block }) => few(product, lanes, block),
        (_, Variant::Tiles { smaller }) => tiled(product, smaller),
    }
}

/// The arguments that products of a few tokens have in common.
struct Arguments {
    words: [Option<BufferArg>; 3],
    scale: [Option<BufferArg>; 3],
    scale_of_row: [bool; 3],
    rows: [usize; 3],
    codes: BufferArg,
    meta: BufferArg,
    added: Option<BufferArg>,
    out: BufferArg,
    width: usize,
}

impl Arguments {
    fn of(Product { x, matrices, added, out, .. }: &Product) -> Self {
        let each = |i: usize| matrices.get(i);
        Self {
            words: std::array::from_fn(|i| each(i).map(|matrix| matrix.words.clone().into_buffer_arg())),
            scale: std::array::from_fn(|i| each(i).map(|matrix| matrix.scale.clone().into_buffer_arg())),
            scale_of_row: std::array::from_fn(|i| each(i).is_some_and(|matrix| matrix.scale_of_row)),
            rows: std::array::from_fn(|i| each(i).map_or(0, |matrix| matrix.rows)),
            codes: x.codes.clone().into_buffer_arg(),
            meta: x.meta.clone().into_buffer_arg(),
            added: added.clone().map(CubeTensor::into_buffer_arg),
            out: out.clone().into_buffer_arg(),
            width: x.cols.div_ceil(codes::WORD) / x.vector,
        }
    }
}

/// A few tokens, or many, on the threads of a processor.
fn halves(product: &Product) {
    let Arguments { words, scale, scale_of_row, rows, codes, meta, added, out, width } = Arguments::of(product);
    let Product { x, matrices, gate, .. } = product;
    let (client, target, tile) = (x.codes.client.clone(), Target::of(&x.codes.client), tile(x.tokens));
    let block = block(BLOCK, tile, gate.is_some());
    let quantizes = x.values.is_some();
    let how = halves::How { tile, block, matrices: matrices.len(), scale_of_row, gate: *gate, quantizes };
    let (values, norm, vector, eps) = match x.values.clone() {
        Some(Values { x, norm, eps, vector }) => {
            (Some(x.into_buffer_arg()), norm.map(CubeTensor::into_buffer_arg), vector, eps)
        }
        None => (None, None, 1, 0.0),
    };
    let (count, dim) = target.tasks(rows[0].div_ceil(block));
    let ([Some(words_a), words_b, words_c], [Some(scale_a), scale_b, scale_c]) = (words, scale) else {
        unreachable!("a product has a matrix")
    };
    // SAFETY: rows and tokens are clamped to what there is, and the sizes of words, codes and scales were checked.
    unsafe {
        halves::halves::launch_unchecked(
            &client,
            count,
            dim,
            vector,
            x.vector,
            2 * x.vector,
            words_a,
            scale_a,
            words_b.into(),
            scale_b.into(),
            words_c.into(),
            scale_c.into(),
            values.into(),
            norm.into(),
            codes,
            meta,
            added.into(),
            out,
            x.tokens,
            rows[0],
            rows[1],
            rows[2],
            width,
            x.cols / vector,
            eps,
            how,
        );
    }
}

/// A few tokens on a GPU.
fn few(product: &Product, wanted: usize, rows_at_once: usize) {
    let Arguments { words, scale, scale_of_row, rows, codes, meta, added, out, width } = Arguments::of(product);
    let Product { x, matrices, gate, .. } = product;
    let (client, target, tile) = (x.codes.client.clone(), Target::of(&x.codes.client), tile(x.tokens));
    let block = block(rows_at_once, tile, gate.is_some());
    let blocks: usize = rows.iter().take(if gate.is_some() { 1 } else { 3 }).map(|rows| rows.div_ceil(block)).sum();
    let (lanes, count, dim) = lanes(&target, blocks * x.tokens.div_ceil(tile), wanted);
    let how = matvec::How {
        bytes: x.products != Products::Floats,
        tile,
        block,
        lanes,
        units: UNITS,
        in_plane: lanes <= target.plane,
        matrices: matrices.len(),
        scale_of_row,
        gate: *gate,
    };
    let ([Some(words_a), words_b, words_c], [Some(scale_a), scale_b, scale_c]) = (words, scale) else {
        unreachable!("a product has a matrix")
    };
    // SAFETY: as above.
    unsafe {
        matvec::matvec::launch_unchecked(
            &client,
            count,
            dim,
            x.vector,
            words_a,
            scale_a,
            words_b.into(),
            scale_b.into(),
            words_c.into(),
            scale_c.into(),
            codes,
            meta,
            added.into(),
            out,
            rows[0],
            rows[1],
            rows[2],
            width,
            how,
        );
    }
}

/// A matrix with a scale for each group, or that float activations meet.
fn grouped(x: &Quantized, matrix: &Matrix, group: Option<usize>) -> CubeTensor {
    let (client, target) = (x.codes.client.clone(), Target::of(&x.codes.client));
    let out = empty(&x.codes, [x.tokens, matrix.rows], DType::F32);
    let width = x.cols.div_ceil(codes::WORD) / x.vector;
    let group = group.filter(|group| *group < x.cols).map_or(width, |group| group / codes::WORD / x.vector);
    let (count, dim) = target.tasks(matrix.rows * x.tokens);
    groups::groups::launch(
        &client,
        count,
        dim,
        x.vector,
        matrix.words.clone().into_buffer_arg(),
        x.codes.clone().into_buffer_arg(),
        x.meta.clone().into_buffer_arg(),
        matrix.scale.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        matrix.rows,
        width,
        group,
        !matrix.scale_of_row,
    );
    out
}

/// A matrix times many tokens.
fn tiled(Product { x, matrices, out, .. }: &Product, smaller: bool) {
    let (client, target, matrix) = (x.codes.client.clone(), Target::of(&x.codes.client), &matrices[0]);
    let (operand, tiling) = tiling(&target, x.tokens, smaller);
    let tiles = x.tokens.div_ceil(tiling.tokens) * matrix.rows.div_ceil(tiling.rows);
    let launch = match operand {
        Operand::Int8 => matmul::tiles::launch_unchecked::<i8, i32>,
        Operand::F16 => matmul::tiles::launch_unchecked::<f16, f32>,
        Operand::Bf16 => matmul::tiles::launch_unchecked::<bf16, f32>,
        Operand::F32 => matmul::tiles::launch_unchecked::<f32, f32>,
    };
    // SAFETY: what is outside of the matrices is neither read nor written, and their sizes were checked.
    unsafe {
        launch(
            &client,
            CubeCount::new_1d(target.cubes(tiles)),
            CubeDim::new_1d(tiling.units as u32),
            x.vector,
            matrix.words.clone().into_buffer_arg(),
            x.codes.clone().into_buffer_arg(),
            x.meta.clone().into_buffer_arg(),
            matrix.scale.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            matrix.rows,
            x.cols.div_ceil(codes::WORD) / x.vector,
            matrix.scale_of_row,
            operand == Operand::Int8,
            tiling,
        );
    }
}
