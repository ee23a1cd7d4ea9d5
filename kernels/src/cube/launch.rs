//! Norms, quantizers and ternary products on tensors.

use burn::backend::{DType, TensorMetadata};
use burn::tensor::Shape;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::target::{Products, Target};
use super::{gate, matvec, norm, quantize as codes};
use crate::cpu::gate::Gate;
use crate::ops::{Activations, TernarySpec, Weight};

/// A new tensor on the device of `like`.
pub(super) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// A tensor that may be changed in place: `x` where nothing else holds it.
pub(super) fn own(x: CubeTensor) -> CubeTensor {
    if x.can_mut() && x.is_contiguous() { x } else { into_contiguous(x).copy() }
}

/// Units that share a row of weights on a GPU, and units of a cube.
const LANES: usize = 8;
pub(super) const UNITS: usize = 128;

/// Lanes and units of a product of `tasks` rows and tiles.
pub(super) fn lanes(target: &Target, tasks: usize) -> (usize, CubeCount, CubeDim) {
    if target.is_cpu() {
        let (count, dim) = target.tasks(tasks);
        return (1, count, dim);
    }
    let (count, _) = target.rows(tasks.div_ceil(UNITS / LANES));
    (LANES, count, CubeDim::new_1d(UNITS as u32))
}

/// Sums of rows and tokens that a unit of a processor keeps in registers, and the most rows among them.
const SUMS: usize = 16;
const BLOCK_ROWS: usize = 4;

/// Tokens that meet a row of weights at once.
pub(super) fn tile(tokens: usize) -> usize {
    tokens.next_power_of_two().min(8)
}

/// Activations as the matrix kernels read them.
pub(crate) struct Quantized {
    codes: CubeTensor,
    /// `[tokens, 2]`: multiplier and sum of codes.
    meta: CubeTensor,
    tokens: usize,
    cols: usize,
    /// Words in a vector.
    vector: usize,
    products: Products,
    rounded: bool,
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
    let products = if group.is_none() && rounded { target.products } else { Products::Floats };
    let meta = empty(&x, [tokens, 2], DType::F32);
    let floats = products == Products::Floats;
    let dtype = if floats { DType::F32 } else { DType::U32 };
    let packed = empty(&x, [tokens, codes::WORD / products.per_word() * words], dtype);
    let width = target.vector_of(cols);
    let units = target.units_of_a_row();
    let (count, dim) = target.rows(tokens);
    let (weight, eps) = match norm {
        Some((weight, eps)) => (Some(into_contiguous(weight).into_buffer_arg()), eps as f32),
        None => (None, 0.0),
    };
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
    Quantized { codes: packed, meta, tokens, cols, vector, products, rounded }
}

/// `[tokens, rows]`, for words in canonical order.
pub(crate) fn quantized_linear(x: &Quantized, weight: Weight<burn_cubecl::CubeBackend>) -> CubeTensor {
    let Weight { words, scale, spec: TernarySpec { cols, group, .. } } = weight;
    assert_eq!(x.cols, cols, "columns of the weights");
    let (words, scale) = (into_contiguous(words), into_contiguous(scale));
    let (client, target) = (words.client.clone(), Target::of(&words.client));
    let [rows, of_row] = words.shape().dims();
    let out = empty(&words, [x.tokens, rows], DType::F32);
    let width = of_row / x.vector;
    let scales = scale.shape().num_elements();
    let scale_of_row = scales > 1;
    assert_eq!(of_row, cols.div_ceil(codes::WORD), "words of a row");
    assert!(group.is_some() || scales == 1 || scales == rows, "{scales} scales for {rows} rows");
    let (words, scale) = (words.into_buffer_arg(), scale.into_buffer_arg());
    let (codes, meta, y) =
        (x.codes.clone().into_buffer_arg(), x.meta.clone().into_buffer_arg(), out.clone().into_buffer_arg());
    if group.is_some() || !x.rounded {
        let group = group.filter(|group| *group < cols).map_or(width, |group| group / codes::WORD / x.vector);
        let (count, dim) = target.tasks(rows * x.tokens);
        matvec::groups::launch(
            &client,
            count,
            dim,
            x.vector,
            words,
            codes,
            meta,
            scale,
            y,
            rows,
            width,
            group,
            !scale_of_row,
        );
        return out;
    }
    let tile = tile(x.tokens);
    if x.products == Products::Halves {
        let block = (SUMS / tile).min(BLOCK_ROWS);
        let (count, dim) = target.tasks(rows.div_ceil(block));
        // SAFETY: as below.
        unsafe {
            matvec::halves::launch_unchecked(
                &client,
                count,
                dim,
                x.vector,
                2 * x.vector,
                words,
                codes,
                meta,
                scale,
                y,
                rows,
                width,
                scale_of_row,
                tile,
                block,
            );
        }
        return out;
    }
    let (lanes, count, dim) = lanes(&target, rows * x.tokens.div_ceil(tile));
    let launch =
        if x.products == Products::Bytes { matvec::bytes::launch_unchecked } else { matvec::floats::launch_unchecked };
    // SAFETY: rows and tokens are clamped to what there is, and the sizes of words, codes and scales were just checked.
    unsafe {
        launch(
            &client,
            count,
            dim,
            x.vector,
            words,
            codes,
            meta,
            scale,
            y,
            rows,
            width,
            scale_of_row,
            tile,
            lanes,
            UNITS,
        );
    }
    out
}

/// Sleeps until what makes `y` is done, on a processor: a caller that runs ahead of the queue spins when it is full, on a
/// core that the kernels then do without. Errors come with the values.
pub(crate) fn rest(y: &CubeTensor) {
    if Target::of(&y.client).is_cpu() {
        let _ = cubecl::future::block_on(y.client.sync());
    }
}

/// RMSNorm of each row of `x`.
pub(crate) fn rms_norm(x: CubeTensor, weight: CubeTensor, eps: f64) -> CubeTensor {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let (client, target) = (x.client.clone(), Target::of(&x.client));
    let [rows, cols] = x.shape().dims();
    let out = empty(&x, [rows, cols], DType::F32);
    let (count, dim) = target.rows(rows);
    let (x, weight, y) = (x.into_buffer_arg(), weight.into_buffer_arg(), out.clone().into_buffer_arg());
    norm::rms_norm::launch(
        &client,
        count,
        dim,
        target.vector_of(cols),
        x,
        weight,
        y,
        rows,
        eps as f32,
        target.units_of_a_row(),
    );
    out
}

/// `act(gate) * up`.
pub(crate) fn gated(gate: CubeTensor, up: CubeTensor, kind: Gate) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (client, target, shape) = (gate.client.clone(), Target::of(&gate.client), gate.shape());
    let out = empty_device_dtype(client.clone(), gate.device.clone(), shape.clone(), DType::F32);
    let vector = target.vector_of(shape.num_elements());
    let (count, dim) = target.tasks(shape.num_elements() / vector);
    let (gate, up, y) = (gate.into_buffer_arg(), up.into_buffer_arg(), out.clone().into_buffer_arg());
    gate::gated::launch(&client, count, dim, vector, gate, up, y, kind);
    out
}
