//! Float weights that are on their way to trits.

use bitnet_kernels::WeightOrder;
use bitnet_kernels::ops::training::{self, Precision, Quantization};
use bitnet_kernels::ops::{self, Activations, TernarySpec};
use bitnet_ternary::{Granularity, Scale, TernaryMatrix};
use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::ModelError;

/// Latent float weights `[d_output, d_input]`, quantized anew in each forward pass.
///
/// Optimizers move the latent weights by steps much smaller than a trit; a trit turns when its weight has crossed half
/// of the mean magnitude. So they stay in F32, and nothing but them is saved in a checkpoint.
#[derive(Module, Debug)]
pub struct LatentWeight {
    latent: Param<Tensor<2>>,
    #[module(skip)]
    how: Quantization,
    #[module(skip)]
    precision: Precision,
}

impl LatentWeight {
    pub(super) fn new(latent: Param<Tensor<2>>, how: Quantization) -> Self {
        Self { latent, how, precision: Precision::F32 }
    }

    /// The latent weights themselves.
    pub fn value(&self) -> Tensor<2> {
        self.latent.val()
    }

    /// The parameter that holds them.
    pub fn param(&self) -> &Param<Tensor<2>> {
        &self.latent
    }

    /// `[d_output, d_input]`.
    pub fn dims(&self) -> [usize; 2] {
        self.latent.dims()
    }

    /// How the layer computes.
    pub fn quantization(&self) -> Quantization {
        self.how
    }

    /// What the layer's float products take their operands in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Changes what the layer's float products, those of the backward pass among them, take their operands in. Burn panics
    /// where the device does not have such numbers, and other kernels do so as well: see [`crate::has_precision`].
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Changes how far the layer is quantized; nothing happens to a float layer.
    pub fn set_lambda(&mut self, value: f32) {
        if let Quantization::Ternary { lambda, .. } = &mut self.how {
            *lambda = value;
        }
    }

    pub(super) fn set_activations(&mut self, wanted: Activations) {
        if let Quantization::Ternary { activations, .. } = &mut self.how {
            *activations = wanted;
        }
    }

    /// Whether the layer has trits at all.
    pub fn is_quantized(&self) -> bool {
        self.granularity().is_some()
    }

    /// Whether the layer computes with nothing but trits, as it will when it is packed.
    pub fn is_fully_quantized(&self) -> bool {
        matches!(self.how, Quantization::Ternary { lambda: 1.0, .. })
    }

    fn granularity(&self) -> Option<Granularity> {
        match self.how {
            Quantization::None => None,
            Quantization::Ternary { granularity, .. } => Some(granularity),
        }
    }

    /// Trits and scale, as the forward pass has them.
    pub(super) fn ternary(&self) -> Result<TernaryMatrix, ModelError> {
        let what = "trits of a layer that is trained as a float layer".to_string();
        let granularity = self.granularity().ok_or(ModelError::Unsupported { what })?;
        let [rows, cols] = self.dims();
        let (words, scale) = training::absmean_quantize(self.value().inner(), granularity);
        let values: Vec<f32> = scale.into_data().iter().collect();
        if !values.iter().all(|scale| scale.is_finite()) {
            return Err(ModelError::NotFinite);
        }
        let scale = match granularity {
            Granularity::Tensor => Scale::Tensor(values[0]),
            Granularity::Row => Scale::Row(values),
            Granularity::Group(size) => Scale::Group { size, values },
        };
        Ok(TernaryMatrix::from_words(rows, cols, words.into_data().iter().collect(), scale)?)
    }

    /// The weights as a packed layer has them.
    pub(super) fn quantized(&self) -> Tensor<2> {
        let Some(granularity) = self.granularity() else { return self.value() };
        let [_, cols] = self.dims();
        let group = match granularity {
            Granularity::Group(size) => Some(size),
            Granularity::Tensor | Granularity::Row => None,
        };
        let (words, scale) = training::absmean_quantize(self.value(), granularity);
        let spec = TernarySpec { cols, group, activations: Activations::Int8, order: WeightOrder::Rows };
        ops::dequantize(words, scale, spec)
    }
}
