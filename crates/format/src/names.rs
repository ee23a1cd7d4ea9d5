//! The one table between GGUF tensor names and Hugging Face tensor names.
//!
//! Inside this project a tensor has one name, the Hugging Face one of BitNet (`model.layers.0.self_attn.q_proj.weight`).
//! Other spellings of the same thing are translated here and nowhere else.

/// Tensors outside the layers: (GGUF, Hugging Face).
const GLOBAL: [(&str, &str); 4] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
    ("rope_freqs.weight", ROPE_FREQS),
];

/// Divisors of the rotary angles, a GGUF tensor without a Hugging Face counterpart.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Parts of a layer: (GGUF after `blk.N.`, Hugging Face after `model.layers.N.`).
const LAYER: [(&str, &str); 20] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_sub_norm", "self_attn.attn_sub_norm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_sub_norm", "mlp.ffn_sub_norm"),
    ("attn_q_norm_in", "self_attn.q_proj.norm"),
    ("attn_k_norm_in", "self_attn.k_proj.norm"),
    ("attn_v_norm_in", "self_attn.v_proj.norm"),
    ("attn_output_norm_in", "self_attn.o_proj.norm"),
    ("ffn_gate_norm_in", "mlp.gate_proj.norm"),
    ("ffn_up_norm_in", "mlp.up_proj.norm"),
    ("ffn_down_norm_in", "mlp.down_proj.norm"),
];

/// Parts that go by other names in a layer with norms on both sides of attention and MLP, as Gemma 3 has them.
const TWO_SIDED: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// What follows a layer's part: its weights, its bias, the extra multiplier of some GGUF linears, the scale of a packed
/// Hugging Face linear.
const PARAMETERS: [&str; 4] = ["weight", "bias", "scale", "weight_scale"];

/// Other spellings on the Hugging Face side, as (other, ours), of a layer's part.
const SPELLINGS: [(&str, &str); 2] =
    [("self_attn.inner_attn_ln", "self_attn.attn_sub_norm"), ("mlp.ffn_layernorm", "mlp.ffn_sub_norm")];

/// The Hugging Face name of a GGUF tensor, or `None` for a name outside the table.
pub fn gguf_to_hf(name: &str) -> Option<String> {
    from_gguf(name, &[])
}

/// [`gguf_to_hf`] for a model whose layers have norms on both sides of attention and MLP.
pub fn two_sided_gguf_to_hf(name: &str) -> Option<String> {
    from_gguf(name, &TWO_SIDED)
}

/// Whether a GGUF tensor is one that only layers with norms on both sides have.
pub(crate) fn is_two_sided(name: &str) -> bool {
    name.ends_with(".post_ffw_norm.weight")
}

fn from_gguf(name: &str, first: &[(&str, &str)]) -> Option<String> {
    if let Some((_, hf)) = GLOBAL.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*hf).to_string());
    }
    let (layer, rest) = split_layer(name.strip_prefix("blk.")?)?;
    let (part, parameter) = split_parameter(rest)?;
    let (_, hf) = first.iter().chain(&LAYER).find(|(gguf, _)| *gguf == part)?;
    Some(format!("model.layers.{layer}.{hf}.{parameter}"))
}

/// The GGUF name of a tensor under its (canonical) Hugging Face name, or `None` for a name outside the table.
pub fn hf_to_gguf(name: &str) -> Option<String> {
    to_gguf(name, &[])
}

/// [`hf_to_gguf`] for a model whose layers have norms on both sides of attention and MLP.
pub fn hf_to_two_sided_gguf(name: &str) -> Option<String> {
    to_gguf(name, &TWO_SIDED)
}

fn to_gguf(name: &str, first: &[(&str, &str)]) -> Option<String> {
    if let Some((gguf, _)) = GLOBAL.iter().find(|(_, hf)| *hf == name) {
        return Some((*gguf).to_string());
    }
    let (layer, rest) = split_layer(name.strip_prefix("model.layers.")?)?;
    let (part, parameter) = split_parameter(rest)?;
    let (gguf, _) = first.iter().chain(&LAYER).find(|(_, hf)| *hf == part)?;
    Some(format!("blk.{layer}.{gguf}.{parameter}"))
}

/// The canonical form of a Hugging Face name.
///
/// - `inner_attn_ln` and `ffn_layernorm` (1bitLLM) are the sub-norms;
/// - `<linear>.rms_norm.weight` (transformers) is `<linear>.norm.weight`, the norm before one linear;
/// - a model saved without its head has no `model.` prefix.
///
/// Names outside the table come back unchanged.
pub fn canonical_hf(name: &str) -> String {
    let body = name.strip_prefix("model.").unwrap_or(name);
    match body {
        "embed_tokens.weight" | "norm.weight" => return format!("model.{body}"),
        _ => {}
    }
    let Some((layer, rest)) = body.strip_prefix("layers.").and_then(split_layer) else {
        return name.to_string();
    };
    let Some((part, parameter)) = split_parameter(rest) else {
        return format!("model.layers.{layer}.{rest}");
    };
    let part = SPELLINGS.iter().find(|(other, _)| *other == part).map_or(part, |(_, ours)| *ours);
    match part.strip_suffix(".rms_norm") {
        Some(linear) => format!("model.layers.{layer}.{linear}.norm.{parameter}"),
        None => format!("model.layers.{layer}.{part}.{parameter}"),
    }
}

/// `12.rest` as (`12`, `rest`); the layer number must be one that prints back the same.
fn split_layer(text: &str) -> Option<(u32, &str)> {
    let (number, rest) = text.split_once('.')?;
    let layer: u32 = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, rest))
}

fn split_parameter(text: &str) -> Option<(&str, &str)> {
    let (part, parameter) = text.rsplit_once('.')?;
    PARAMETERS.contains(&parameter).then_some((part, parameter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gguf_name_goes_to_hugging_face_and_back() {
        let pairs = [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("output.weight", "lm_head.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
            ("blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight"),
            ("blk.7.attn_k.weight", "model.layers.7.self_attn.k_proj.weight"),
            ("blk.7.attn_v.weight", "model.layers.7.self_attn.v_proj.weight"),
            ("blk.29.attn_output.weight", "model.layers.29.self_attn.o_proj.weight"),
            ("blk.1.attn_sub_norm.weight", "model.layers.1.self_attn.attn_sub_norm.weight"),
            ("blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight"),
            ("blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
            ("blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
            ("blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight"),
            ("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"),
            ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
            ("blk.1.ffn_sub_norm.weight", "model.layers.1.mlp.ffn_sub_norm.weight"),
            ("blk.1.attn_q.scale", "model.layers.1.self_attn.q_proj.scale"),
            ("blk.1.ffn_down.scale", "model.layers.1.mlp.down_proj.scale"),
            ("blk.1.attn_q.bias", "model.layers.1.self_attn.q_proj.bias"),
            ("blk.2.attn_q_norm_in.weight", "model.layers.2.self_attn.q_proj.norm.weight"),
            ("blk.2.attn_k_norm_in.weight", "model.layers.2.self_attn.k_proj.norm.weight"),
            ("blk.2.attn_v_norm_in.weight", "model.layers.2.self_attn.v_proj.norm.weight"),
            ("blk.2.attn_output_norm_in.weight", "model.layers.2.self_attn.o_proj.norm.weight"),
            ("blk.2.ffn_gate_norm_in.weight", "model.layers.2.mlp.gate_proj.norm.weight"),
            ("blk.2.ffn_up_norm_in.weight", "model.layers.2.mlp.up_proj.norm.weight"),
            ("blk.2.ffn_down_norm_in.weight", "model.layers.2.mlp.down_proj.norm.weight"),
        ];
        for (gguf, hf) in pairs {
            assert_eq!(gguf_to_hf(gguf).as_deref(), Some(hf));
            assert_eq!(hf_to_gguf(hf).as_deref(), Some(gguf));
            assert_eq!(canonical_hf(hf), hf);
        }
    }

    #[test]
    fn norms_on_both_sides_have_the_names_of_gemma() {
        let pairs = [
            ("blk.1.attn_norm.weight", "model.layers.1.input_layernorm.weight"),
            ("blk.1.post_attention_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
            ("blk.1.ffn_norm.weight", "model.layers.1.pre_feedforward_layernorm.weight"),
            ("blk.1.post_ffw_norm.weight", "model.layers.1.post_feedforward_layernorm.weight"),
            ("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"),
        ];
        for (gguf, hf) in pairs {
            assert_eq!(two_sided_gguf_to_hf(gguf).as_deref(), Some(hf));
            assert_eq!(hf_to_two_sided_gguf(hf).as_deref(), Some(gguf));
        }
        assert_eq!(gguf_to_hf("blk.1.post_ffw_norm.weight"), None);
    }

    #[test]
    fn other_spellings_become_the_canonical_one() {
        let pairs = [
            ("model.layers.3.self_attn.inner_attn_ln.weight", "model.layers.3.self_attn.attn_sub_norm.weight"),
            ("model.layers.3.mlp.ffn_layernorm.weight", "model.layers.3.mlp.ffn_sub_norm.weight"),
            ("model.layers.3.mlp.up_proj.rms_norm.weight", "model.layers.3.mlp.up_proj.norm.weight"),
            ("layers.3.mlp.up_proj.norm.weight", "model.layers.3.mlp.up_proj.norm.weight"),
            ("layers.3.input_layernorm.weight", "model.layers.3.input_layernorm.weight"),
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            ("norm.weight", "model.norm.weight"),
        ];
        for (other, ours) in pairs {
            assert_eq!(canonical_hf(other), ours);
        }
    }

    #[test]
    fn names_outside_the_table_stay_themselves() {
        for name in
            ["blk.0.attn_qkv.weight", "blk.x.attn_q.weight", "blk.01.attn_q.weight", "blk.0", "", "v.patch_embd"]
        {
            assert_eq!(gguf_to_hf(name), None, "{name}");
        }
        for name in ["model.layers.0.mlp.experts.3.up_proj.weight", "lm_head.bias", "vision.norm.weight"] {
            assert_eq!(hf_to_gguf(name), None, "{name}");
            assert_eq!(canonical_hf(name), name);
        }
    }
}
