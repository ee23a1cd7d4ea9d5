//! What the tensors of a model are called in a burnpack file: the paths of the parameters in `bitnet_model::Transformer`, so that
//! Burn loads the file into that module.

/// Hugging Face's name of a part of a layer, and the module's.
type Pair = (&'static str, &'static str);

const PARTS: [Pair; 5] = [
    ("input_layernorm.weight", "attention_norm.weight"),
    ("self_attn.attn_sub_norm.weight", "attention.sub_norm.weight"),
    ("self_attn.q_norm.weight", "attention.q_norm.weight"),
    ("self_attn.k_norm.weight", "attention.k_norm.weight"),
    ("mlp.ffn_sub_norm.weight", "mlp.sub_norm.weight"),
];
const ONE_SIDED: [Pair; 1] = [("post_attention_layernorm.weight", "mlp_norm.weight")];
/// With norms after attention and MLP, the name of the norm before the MLP is another one's.
const TWO_SIDED: [Pair; 3] = [
    ("post_attention_layernorm.weight", "attention_post_norm.weight"),
    ("pre_feedforward_layernorm.weight", "mlp_norm.weight"),
    ("post_feedforward_layernorm.weight", "mlp_post_norm.weight"),
];
const LINEARS: [Pair; 7] = [
    ("self_attn.q_proj", "attention.q_proj"),
    ("self_attn.k_proj", "attention.k_proj"),
    ("self_attn.v_proj", "attention.v_proj"),
    ("self_attn.o_proj", "attention.o_proj"),
    ("mlp.gate_proj", "mlp.gate_proj"),
    ("mlp.up_proj", "mlp.up_proj"),
    ("mlp.down_proj", "mlp.down_proj"),
];
/// Parameters of a linear.
const OF_LINEAR: [Pair; 3] =
    [(".weight", WORDS), (".weight_scale", ".weight.Packed.scale"), (".norm.weight", ".norm.weight")];
const OUTER: [Pair; 3] = [
    ("model.embed_tokens.weight", "embedding.values.Stored.shards.0"),
    ("lm_head.weight", "head.values.Stored.shards.0"),
    ("model.norm.weight", "norm.weight"),
];

/// How the path of a linear's code words ends.
pub(crate) const WORDS: &str = ".weight.Packed.words";

/// The path of a tensor with a canonical name.
pub(crate) fn path_of(name: &str, two_sided: bool) -> Option<String> {
    if let Some((_, path)) = OUTER.iter().find(|(outer, _)| *outer == name) {
        return Some(path.to_string());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = translated(part, two_sided, |(name, path)| (name, path))?;
    Some(format!("blocks.{layer}.{part}"))
}

/// The canonical name of a tensor with a path.
pub(crate) fn name_of(path: &str, two_sided: bool) -> Option<String> {
    if let Some((name, _)) = OUTER.iter().find(|(_, outer)| *outer == path) {
        return Some(name.to_string());
    }
    let (layer, part) = path.strip_prefix("blocks.")?.split_once('.')?;
    let part = translated(part, two_sided, |(name, path)| (path, name))?;
    Some(format!("model.layers.{layer}.{part}"))
}

/// Whether these are the paths of a model with norms after attention and MLP.
pub(crate) fn is_two_sided<'a>(mut paths: impl Iterator<Item = &'a str>) -> bool {
    paths.any(|path| path.ends_with(".mlp_post_norm.weight"))
}

fn translated(part: &str, two_sided: bool, turned: impl Fn(Pair) -> Pair) -> Option<String> {
    let sides: &[Pair] = if two_sided { &TWO_SIDED } else { &ONE_SIDED };
    let norm = PARTS.iter().chain(sides).map(|pair| turned(*pair)).find(|(from, _)| *from == part);
    if let Some((_, to)) = norm {
        return Some(to.to_string());
    }
    LINEARS.iter().map(|pair| turned(*pair)).find_map(|(from, to)| {
        let rest = part.strip_prefix(from)?;
        let (_, rest) = OF_LINEAR.iter().map(|pair| turned(*pair)).find(|(from, _)| *from == rest)?;
        Some(format!("{to}{rest}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_path_and_comes_back() {
        for two_sided in [false, true] {
            let sides: &[Pair] = if two_sided { &TWO_SIDED } else { &ONE_SIDED };
            let norms = PARTS.iter().chain(sides).map(|(name, _)| name.to_string());
            let linears = LINEARS.iter().flat_map(|(linear, _)| OF_LINEAR.map(|(end, _)| format!("{linear}{end}")));
            let layer = norms.chain(linears).map(|part| format!("model.layers.7.{part}"));
            let mut paths = Vec::new();
            for name in layer.chain(OUTER.map(|(name, _)| name.to_string())) {
                let path = path_of(&name, two_sided).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(name_of(&path, two_sided).as_ref(), Some(&name), "{path}");
                paths.push(path);
            }
            assert_eq!(is_two_sided(paths.iter().map(String::as_str)), two_sided);
            paths.sort();
            paths.dedup();
            assert_eq!(paths.len(), PARTS.len() + sides.len() + 21 + 3);
        }
        assert_eq!(
            path_of("model.layers.0.self_attn.q_proj.weight", false).unwrap(),
            "blocks.0.attention.q_proj.weight.Packed.words"
        );
        for name in ["model.layers.0.self_attn.q_proj.bias", "rope_freqs.weight", "model.layers.0", "x"] {
            assert_eq!(path_of(name, false), None, "{name}");
        }
    }
}
