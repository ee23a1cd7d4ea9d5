//! One layer of the decoder.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::transformer::Context;
use crate::{Attention, GatedMlp, RmsNorm};

/// `h += attention(norm(h)); h += mlp(norm(h))`, where the model has them with norms after attention and MLP.
#[derive(Module, Debug)]
pub struct Block {
    pub(crate) attention_norm: RmsNorm,
    pub(crate) attention: Attention,
    /// On what attention adds (Gemma 3).
    pub(crate) attention_post_norm: Option<RmsNorm>,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) mlp: GatedMlp,
    /// On what the MLP adds.
    pub(crate) mlp_post_norm: Option<RmsNorm>,
}

impl Block {
    /// `h` and the result are `[tokens, hidden]`.
    pub(crate) fn forward(&self, h: Tensor<2>, context: Context<'_>) -> Tensor<2> {
        let h = self.attended(h, context);
        match &self.mlp_post_norm {
            Some(norm) => h.clone() + norm.forward(self.mlp.forward(h, &self.mlp_norm, false)),
            None => self.mlp.forward(h, &self.mlp_norm, true),
        }
    }

    /// `h` and what attention adds to it.
    pub(crate) fn attended(&self, h: Tensor<2>, context: Context<'_>) -> Tensor<2> {
        match &self.attention_post_norm {
            Some(norm) => h.clone() + norm.forward(self.attention.forward(h, &self.attention_norm, context, None)),
            None => self.attention.forward(h.clone(), &self.attention_norm, context, Some(h)),
        }
    }

    /// The norms outside attention and MLP, with the names that Hugging Face gives them: those of Gemma 3 where there are
    /// norms on both sides.
    pub(crate) fn norms(&self) -> impl Iterator<Item = (&'static str, &RmsNorm)> {
        let before_mlp =
            if self.mlp_post_norm.is_some() { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let after = [
            ("post_attention_layernorm", &self.attention_post_norm),
            ("post_feedforward_layernorm", &self.mlp_post_norm),
        ];
        let before = [("input_layernorm", &self.attention_norm), (before_mlp, &self.mlp_norm)];
        before.into_iter().chain(after.into_iter().filter_map(|(name, norm)| Some((name, norm.as_ref()?))))
    }
}
