//! Every ternary family as it is published: what is read of its configuration, and that a GGUF file has the weights of the
//! folder it was made of.

use bitnet_fixtures::{FAMILIES, GGUF_FAMILIES, family};
use bitnet_format::{Activation, Checkpoint, ModelConfig, Pooling, RopeScaling, ScaleDirection, SlidingWindow, open};
use bitnet_ternary::Granularity;

fn folder(name: &str) -> Checkpoint {
    open(family(name)).unwrap()
}

fn gguf(name: &str) -> Checkpoint {
    open(family(name).join("model.gguf")).unwrap()
}

/// The linears of a model, with rows and columns.
fn linears(config: &ModelConfig) -> Vec<(String, usize, usize)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let parts = [
        ("self_attn.q_proj", q, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, q),
        ("mlp.gate_proj", inner, hidden),
        ("mlp.up_proj", inner, hidden),
        ("mlp.down_proj", hidden, inner),
    ];
    let layers = (0..config.num_layers)
        .flat_map(|layer| parts.map(|(part, rows, cols)| (format!("model.layers.{layer}.{part}"), rows, cols)));
    layers.collect()
}

#[test]
fn every_linear_is_ternary_with_the_scales_of_its_family() {
    let both = FAMILIES.into_iter().map(|name| (name, folder(name)));
    for (name, checkpoint) in both.chain(GGUF_FAMILIES.into_iter().map(|name| (name, gguf(name)))) {
        for (linear, rows, cols) in linears(checkpoint.config()) {
            let matrix = checkpoint.ternary(&linear, rows, cols).unwrap();
            let halves_of_rows = name == "trilm" && linear.contains("self_attn");
            let expected = match name {
                "bonsai-unpacked" => Granularity::Group(32),
                "bonsai-g64" if cols > 64 => Granularity::Group(64),
                // One group is the whole row.
                "bonsai-g64" | "bonsai-g128" => Granularity::Group(cols),
                _ if halves_of_rows => Granularity::Row,
                _ => Granularity::Tensor,
            };
            assert_eq!(matrix.granularity(), expected, "{name}, {linear}");
        }
    }
}

#[test]
fn a_gguf_has_the_weights_of_its_folder() {
    for name in GGUF_FAMILIES.into_iter().filter(|name| FAMILIES.contains(name)) {
        let (folder, gguf) = (folder(name), gguf(name));
        for (linear, rows, cols) in linears(folder.config()) {
            let (a, b) = (folder.ternary(&linear, rows, cols).unwrap(), gguf.ternary(&linear, rows, cols).unwrap());
            assert_eq!(a, b, "{name}, {linear}");
        }
        let floats = |c: &Checkpoint| c.tensors().filter(|t| !t.name.contains("_proj.weight")).count();
        assert_eq!(floats(&folder), floats(&gguf), "{name}");
        for tensor in folder.tensors().filter(|tensor| !tensor.name.contains("_proj.weight")) {
            // What the converter adds to Gemma's own norms.
            let offset = if tensor.shape.len() == 1 && !tensor.name.contains("_proj.norm") {
                folder.config().norm_offset as f32
            } else {
                0.0
            };
            let meant: Vec<f32> = folder.floats(&tensor.name).unwrap().iter().map(|x| x + offset).collect();
            assert_eq!(gguf.floats(&tensor.name).unwrap(), meant, "{name}, {}", tensor.name);
        }
        let (a, b) = (folder.config(), gguf.config());
        let expected = ModelConfig {
            architecture: b.architecture.clone(),
            // F32 in GGUF.
            rms_norm_eps: b.rms_norm_eps,
            linear_norm_eps: b.linear_norm_eps,
            attention_scale: b.attention_scale,
            // Added to the weights, and to the scales.
            norm_offset: 0.0,
            weight_scale: ScaleDirection::Multiply,
            tie_word_embeddings: b.tie_word_embeddings,
            ..a.clone()
        };
        assert_eq!(b, &expected, "{name}");
        let same = |a: f64, b: f64| a as f32 == b as f32;
        assert!(same(a.rms_norm_eps, b.rms_norm_eps) && same(a.attention_scale, b.attention_scale), "{name}");
    }
}

#[test]
fn configurations_say_what_is_the_familys_own() {
    let config = |name: &str| folder(name).config().clone();
    let bitnet = config("bitnet-2b-4t");
    assert_eq!((bitnet.activation, bitnet.weight_scale), (Activation::Relu2, ScaleDirection::Multiply));
    assert_eq!((bitnet.rope_theta, bitnet.tie_word_embeddings), (500_000.0, Some(true)));
    assert_eq!(config("llama-bitlinear").weight_scale, ScaleDirection::Divide);
    let falcon = config("falcon-e");
    assert_eq!((falcon.head_dim, falcon.hidden_size / falcon.num_heads), (32, 16));
    assert_eq!(falcon.activation_bits, Some(8));
    let norms = config("linear-norms");
    assert_eq!((norms.rms_norm_eps, norms.linear_norm_eps), (1e-5, 1e-6));
    assert!(matches!(norms.rope_scaling, RopeScaling::Llama3 { original_context: 64, .. }));
    for name in ["trilm", "bonsai-unpacked"] {
        assert_eq!(config(name).activation_bits, None, "{name}");
    }
    for name in ["bonsai-g64", "bonsai-g128"] {
        assert_eq!(gguf(name).config().activation_bits, None, "{name}");
    }
    let gemma = config("embedding-gemma3");
    assert_eq!((gemma.activation, gemma.activation_bits), (Activation::GeluTanh, Some(8)));
    assert_eq!((gemma.embedding_scale, gemma.norm_offset), (32f64.sqrt(), 1.0));
    assert_eq!(gemma.attention_scale, 1.0 / 24f64.sqrt());
    let window = SlidingWindow { size: 8, layers: vec![true, true, false], rope_theta: 10_000.0 };
    assert_eq!((gemma.sliding_window, gemma.rope_theta), (Some(window), 1_000_000.0));
}

#[test]
fn embedding_models_say_how_they_pool() {
    for (name, end) in [("embedding-qwen3", 0), ("embedding-gemma3", 1)] {
        let folder = folder(name).embedding().unwrap().unwrap();
        assert_eq!((folder.pooling, folder.normalize, folder.end), (Pooling::Last, true, Some(end)), "{name}");
        assert_eq!(folder.prompts, [("document".into(), "".into()), ("query".into(), "so: ".into())]);
        assert!(!folder.is_guess);
        let gguf = gguf(name).embedding().unwrap().unwrap();
        assert_eq!((gguf.pooling, gguf.normalize, gguf.end), (Pooling::Last, true, Some(end)), "{name}");
    }
    assert_eq!(folder("falcon-e").embedding().unwrap(), None);
    assert_eq!(gguf("falcon-e").embedding().unwrap(), None);
}

/// The embedding folder with one of its files replaced, or without it.
fn changed(file: &str, content: Option<&str>) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let source = family("embedding-qwen3");
    std::fs::create_dir(place.path().join("1_Pooling")).unwrap();
    for name in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"] {
        std::fs::copy(source.join(name), place.path().join(name)).unwrap();
    }
    match content {
        Some(content) => std::fs::write(place.path().join(file), content).unwrap(),
        None => std::fs::remove_file(place.path().join(file)).unwrap(),
    }
    place
}

#[test]
fn other_poolings_are_read_or_refused_by_name() {
    let pooling = |json: &str| {
        let place = changed("1_Pooling/config.json", Some(json));
        open(place.path()).unwrap().embedding().map(|embedding| embedding.unwrap().pooling).map_err(|e| e.to_string())
    };
    assert_eq!(pooling(r#"{"pooling_mode_mean_tokens": true}"#), Ok(Pooling::Mean));
    assert_eq!(pooling(r#"{"pooling_mode": "lasttoken"}"#), Ok(Pooling::Last));
    for (json, part) in [
        (r#"{"pooling_mode_cls_token": true}"#, "cls_token"),
        (r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#, "max_tokens"),
        (r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#, "include_prompt"),
        ("{}", "pooling"),
    ] {
        let error = pooling(json).unwrap_err();
        assert!(error.contains(part) && error.contains("1_Pooling/config.json"), "{error}");
    }

    let modules = |json: &str| open(changed("modules.json", Some(json)).path());
    let dense = r#"[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"},
        {"type": "a.Dense", "path": "2_Dense"}]"#;
    let error = modules(dense).unwrap().embedding().unwrap_err().to_string();
    assert!(error.contains("Dense"), "{error}");
    let error = modules("[]").unwrap().embedding().unwrap_err().to_string();
    assert!(error.contains("without a pooling module"), "{error}");
    let without = r#"[{"type": "a.Pooling", "path": "1_Pooling"}]"#;
    assert!(!modules(without).unwrap().embedding().unwrap().unwrap().normalize, "no module says so");
    for path in ["..", "/etc", "a/b", ""] {
        let json = format!(r#"[{{"type": "a.Pooling", "path": "{path}"}}]"#);
        let error = modules(&json).unwrap_err().to_string();
        assert!(error.contains("modules.json"), "{path}: {error}");
    }

    let place = changed("modules.json", None);
    let guess = open(place.path()).unwrap().embedding().unwrap().unwrap();
    assert!(guess.is_guess && guess.pooling == Pooling::Last, "a class without a head is no language model");
}
