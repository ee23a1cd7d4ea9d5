//! The ternary linear layer.

use bitnet_kernels::ops::{self, Activations, TernarySpec};
use bitnet_ternary::{CODES_PER_WORD, Granularity, Scale, TernaryMatrix, quantize};
use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};

use crate::{ModelError, RmsNorm};

/// Shape of a [`BitLinear`] with fresh random weights.
#[derive(Config, Debug)]
pub struct BitLinearConfig {
    /// Input features.
    pub d_input: usize,
    /// Output features.
    pub d_output: usize,
}

impl BitLinearConfig {
    /// A layer whose float weights, uniform in `±1 / sqrt(d_input)` as in `burn::nn::Linear`, were quantized by absmean.
    ///
    /// # Panics
    /// When a size is zero.
    pub fn init(&self, device: &Device) -> BitLinear {
        let bound = 1.0 / (self.d_input as f64).sqrt();
        let shape = [self.d_output, self.d_input];
        let weights = Tensor::<2>::random(shape, Distribution::Uniform(-bound, bound), (device, DType::F32));
        BitLinear::from_weights(weights, Granularity::Tensor).expect("a layer has at least one input and one output")
    }
}

/// A linear layer with packed ternary weights: `y = (xq · trits) * (scale / sx)`.
///
/// The input is quantized per token to int8 (`sx = 127 / max(max|x|, 1e-5)`, `xq = round(x * sx)`, ties to even), the
/// product is an exact integer, and the scales are applied once at the end.
///
/// Source: Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764), section 2.
///
/// The weights are frozen: they are integers and have no gradient. The gradient with respect to the input is that of
/// the straight-through estimator, so layers before a `BitLinear` can be trained.
///
/// # Fields
/// * `words`: U32 `[d_output, ceil(d_input / 16)]`, 16 two-bit codes `trit + 1` a word, lowest bits first.
/// * `scale`: F32 `[1, 1]` for the matrix, `[d_output, 1]` for each row, or `[d_output, groups]`.
/// * `norm`: an RMSNorm of the layer's own before the quantizer, where the model has one.
#[derive(Module, Debug)]
pub struct BitLinear {
    words: Param<Tensor<2, Int>>,
    scale: Param<Tensor<2>>,
    norm: Option<RmsNorm>,
    d_input: usize,
    group: Option<usize>,
    #[module(skip)]
    activations: Activations,
}

impl BitLinear {
    /// From trits and their scale, without a copy of the words on the CPU.
    ///
    /// # Errors
    /// When the scale groups are not a multiple of 16 columns.
    pub fn from_ternary(matrix: TernaryMatrix, device: &Device) -> Result<Self, ModelError> {
        let (rows, cols, words, scale) = matrix.into_parts();
        let (values, columns, group) = match scale {
            Scale::Tensor(scale) => (vec![scale], 1, None),
            Scale::Row(values) => (values, 1, None),
            Scale::Group { size, values } => (values, cols.div_ceil(size), Some(size)),
        };
        if let Some(size) = group.filter(|size| !size.is_multiple_of(CODES_PER_WORD)) {
            let what = format!("a ternary matrix with one scale for each {size} columns (a multiple of 16 is needed)");
            return Err(ModelError::Unsupported { what });
        }
        let scale_shape = [values.len() / columns, columns];
        let words = TensorData::new(words, [rows, cols.div_ceil(CODES_PER_WORD)]);
        let words = Tensor::<2, Int>::from_data(words, (device, DType::U32));
        let scale = Tensor::<2>::from_data(TensorData::new(values, scale_shape), (device, DType::F32));
        Ok(Self {
            words: Param::initialized(ParamId::new(), words),
            scale: Param::from_tensor(scale).set_require_grad(false),
            norm: None,
            d_input: cols,
            group,
            activations: Activations::Int8,
        })
    }

    /// From float weights `[d_output, d_input]`, quantized by absmean.
    ///
    /// # Errors
    /// When a weight is NaN or infinite, or the groups of `granularity` are not a multiple of 16 columns.
    pub fn from_weights(weights: Tensor<2>, granularity: Granularity) -> Result<Self, ModelError> {
        let ([rows, cols], device) = (weights.dims(), weights.device());
        let values: Vec<f32> = weights.into_data().iter().collect();
        Self::from_ternary(quantize::absmean(&values, rows, cols, granularity)?, &device)
    }

    /// The layer with an RMSNorm before its quantizer.
    pub fn with_norm(mut self, norm: Option<RmsNorm>) -> Self {
        self.norm = norm;
        self
    }

    /// The layer with its input as int8 codes or as it comes.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// Applies the layer to the last dimension.
    ///
    /// # Shapes
    /// * `x`: `[.., d_input]`, F32
    /// * output: `[.., d_output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let tokens = shape[..D - 1].iter().product();
        let x = x.reshape([tokens, self.d_input]);
        let x = match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let y = ops::ternary_linear(x, self.words.val(), self.scale.val(), self.spec());
        shape[D - 1] = self.d_output();
        y.reshape(shape)
    }

    /// The weights as floats, `[d_output, d_input]`.
    pub fn weights(&self) -> Tensor<2> {
        ops::dequantize(self.words.val(), self.scale.val(), self.spec())
    }

    /// Input features.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Output features.
    pub fn d_output(&self) -> usize {
        self.words.dims()[0]
    }

    fn spec(&self) -> TernarySpec {
        TernarySpec { cols: self.d_input, group: self.group, activations: self.activations }
    }
}
