//! Ternary weights in any Burn module, by way of Burn's reparameterization of parameters.

use bitnet_kernels::ops::training;
use bitnet_ternary::Granularity;
use burn::module::{Module, Param, ParamGroup, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;

/// Which dimension of a weight counts the output features: the one that the rows of [`Granularity`] are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[d_input, d_output]`, as in `burn::nn::Linear` (whichever way it stores them); transposed convolutions are
    /// `[channels_in, channels_out, ..]`.
    #[default]
    InputOutput,
    /// `[d_output, d_input]`, as in PyTorch's linear layer and in [`BitLinear`](crate::BitLinear); convolutions are
    /// `[channels_out, channels_in, ..]`.
    OutputInput,
}

/// Makes the weights of any Burn module ternary in training, without a change to the module.
///
/// Each weight of the group is kept as a latent float weight, which is what the optimizer moves and a record holds; whoever
/// asks for its value gets trits times their scale, quantized anew by absmean. The gradient is that of the straight-through
/// estimator of b1.58: it passes unchanged, and the scale is a constant. Parameters of one dimension (biases, the weights of
/// norms) stay as they are, whatever the group says.
///
/// Only weights are to be had this way: the input of a layer is nobody's parameter, so activations stay floats. For int8
/// activations, and for products of integers, put a [`BitLinear`](crate::BitLinear) into the module.
///
/// `module.valid().materialize()` puts the ternary values in the place of the latent ones, and
/// [`BitLinear::from_ternary_weights`](crate::BitLinear::from_ternary_weights) packs them.
///
/// ```
/// use bitnet_model::Ternary;
/// use burn::module::{Module, ParamGroup};
/// use burn::nn::LinearConfig;
/// use burn::tensor::Device;
///
/// let device = Device::flex().autodiff();
/// let linear = LinearConfig::new(64, 16).init(&device);
/// let linear = linear.apply_reparameterization(Ternary::new(ParamGroup::all()));
/// let values: Vec<f32> = linear.weight.val().into_data().iter().collect();
/// let scale = values.iter().fold(0f32, |max, value| max.max(*value));
/// assert!(values.iter().all(|value| [-scale, 0.0, scale].contains(value)));
/// ```
#[derive(Clone, Debug)]
pub struct Ternary {
    group: ParamGroup,
    how: TernaryWeight,
}

impl Ternary {
    /// For the weights of `group`: one scale for each, laid out as in `burn::nn::Linear`.
    pub fn new(group: ParamGroup) -> Self {
        let how = TernaryWeight { granularity: Granularity::Tensor, layout: WeightLayout::default() };
        Self { group, how }
    }

    /// With one scale for so many weights.
    ///
    /// # Panics
    /// When `granularity` has groups that are not a multiple of 16 columns.
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        if let Granularity::Group(size) = granularity {
            assert!(size > 0 && size.is_multiple_of(16), "groups are of a multiple of 16 columns, not {size}");
        }
        self.how.granularity = granularity;
        self
    }

    /// For weights that are laid out so.
    pub fn layout(mut self, layout: WeightLayout) -> Self {
        self.how.layout = layout;
        self
    }
}

impl Reparameterizer for Ternary {
    type Reparam = TernaryWeight;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<TernaryWeight>) {
        let is_wanted = D >= 2 && self.group.matches(&param.id, Some(path));
        (param, is_wanted.then(|| self.how.clone()))
    }
}

/// What [`Ternary`] has made of a parameter.
#[derive(Module, Debug)]
pub struct TernaryWeight {
    #[module(skip)]
    granularity: Granularity,
    #[module(skip)]
    layout: WeightLayout,
}

impl TernaryWeight {
    /// The weights that share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Which dimension counts the output features.
    pub fn layout(&self) -> WeightLayout {
        self.layout
    }
}

impl Reparameterization for TernaryWeight {
    const NAME: &'static str = "ternary";

    fn apply<const D: usize>(&self, latent: Tensor<D>) -> Tensor<D> {
        let turn = |weight: Tensor<D>| match self.layout {
            WeightLayout::InputOutput => weight.swap_dims(0, 1),
            WeightLayout::OutputInput => weight,
        };
        let latent = turn(latent);
        let shape = latent.shape();
        // A kernel of a convolution is a row with all that it reads.
        let matrix = latent.flatten::<2>(1, D - 1);
        turn(training::ternary_fake_quant(matrix, self.granularity).reshape(shape))
    }
}
