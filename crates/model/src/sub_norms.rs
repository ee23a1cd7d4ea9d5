//! Norms before the projections back to the residual stream, put into a model that has none.

use burn::tensor::{Int, Tensor};

use crate::transformer::Context;
use crate::{RmsNorm, Sequences, Transformer};

impl Transformer {
    /// Whether there is a norm before `o_proj` and one before `down_proj`.
    pub fn has_sub_norms(&self) -> bool {
        self.blocks.iter().all(|block| block.attention.sub_norm.is_some() && block.mlp.sub_norm.is_some())
    }

    /// The model with a norm before each `o_proj` and each `down_proj`, in place of those it may have. All weights of a norm
    /// are one number: the first of a block's `scales` before `o_proj`, the second before `down_proj`.
    ///
    /// # Panics
    /// When there are not as many scales as blocks.
    #[must_use]
    pub fn with_sub_norms(mut self, scales: &[[f32; 2]]) -> Self {
        assert_eq!(scales.len(), self.blocks.len(), "scales for each block");
        let (eps, device) = (self.config().rms_norm_eps, self.device().clone());
        for (block, [attention, mlp]) in self.blocks.iter_mut().zip(scales) {
            let widths = [block.attention.o_proj.d_input(), block.mlp.down_proj.d_input()];
            let norm = |width: usize, scale: f32| Some(RmsNorm::new(vec![scale; width], eps, &device));
            block.attention.sub_norm = norm(widths[0], *attention);
            block.mlp.sub_norm = norm(widths[1], *mlp);
        }
        self
    }

    /// For each block, the means over some tokens of the root mean squares of what its `o_proj` and its `down_proj` are given,
    /// before norms that they may have. Of all norms whose weights are one number, those with these for weights keep the
    /// input of the projections nearest to what it is without: `w = mean(rms(x))` minimizes the mean of
    /// `|x - w x / rms(x)|²`.
    ///
    /// # Panics
    /// When a token has no row in the embedding.
    pub fn projected_scales(&self, tokens: Tensor<1, Int>, sequences: &Sequences) -> Vec<[f32; 2]> {
        let (positions, lengths) = sequences.parts();
        let scale = |x: Tensor<2>| x.powf_scalar(2.0).mean_dim(1).sqrt().mean().into_scalar::<f32>();
        let mut h = self.embed(tokens);
        let mut scales = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let context = || Context::Sequences { positions, lengths };
            let mixed = block.attention.mixed(h.clone(), &block.attention_norm, context());
            let between = block.attended(h.clone(), context());
            let inner = block.mlp.inner(between, &block.mlp_norm);
            scales.push([scale(mixed), scale(inner)]);
            h = block.forward(h, context());
        }
        scales
    }
}
