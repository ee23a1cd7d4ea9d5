//! `config.json`, key by key.

use bitnet_format::{Activation, Checkpoint, FormatError, ModelConfig, RopeScaling, ScaleDirection, SlidingWindow};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::common::{assert_says, f32_bytes, hf_config, leak, open_hf, safetensors_bytes};

/// The configuration with some keys replaced; `null` takes a key away.
fn with(changes: Value) -> Result<ModelConfig, FormatError> {
    open_hf(&changed(changes), &[]).map(|model| model.config().clone())
}

fn changed(changes: Value) -> Value {
    let mut config = hf_config();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => config.as_object_mut().unwrap().remove(key),
            value => config.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    config
}

#[test]
fn architectures_and_their_defaults() {
    for (name, activation, theta, bits) in [
        ("BitNetForCausalLM", Activation::Relu2, 500_000.0, Some(8)),
        ("BitnetForCausalLM", Activation::Silu, 10_000.0, Some(8)),
        ("LlamaForCausalLM", Activation::Silu, 10_000.0, Some(8)),
        ("Qwen3ForCausalLM", Activation::Silu, 10_000.0, Some(8)),
        ("Qwen3Model", Activation::Silu, 10_000.0, Some(8)),
    ] {
        let config = with(json!({ "architectures": [name] })).unwrap();
        assert_eq!(config.architecture, name);
        assert_eq!((config.activation, config.rope_theta, config.activation_bits), (activation, theta, bits), "{name}");
    }
    assert_says(with(json!({ "architectures": ["MiniCPMForCausalLM"] })), &["config.json", "MiniCPMForCausalLM"]);
    assert_says(with(json!({ "architectures": [] })), &["config.json", "`architectures`"]);
    assert_says(with(json!({ "architectures": null })), &["`architectures`", "missing"]);
}

#[test]
fn a_missing_key_is_named() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
    ] {
        assert_says(with(json!({ key: null })), &["config.json", &format!("`{key}`"), "missing"]);
    }
}

#[test]
fn numbers_no_model_has() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for value in [json!(0), json!(-1), json!(1.5), json!("8"), json!(u64::MAX), json!(1u64 << 40), json!([8])] {
            assert_says(with(json!({ key: value })), &["config.json", "key `"]);
        }
    }
    for (key, value) in [
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!(1.0)),
        ("rms_norm_eps", json!("1e-5")),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(-5)),
        ("rope_theta", json!({})),
        ("partial_rotary_factor", json!(0)),
        ("partial_rotary_factor", json!(1.5)),
        ("partial_rotary_factor", json!(-1)),
        ("num_key_value_heads", json!(3)),
        ("num_attention_heads", json!(3)),
        ("head_dim", json!(7)),
    ] {
        assert_says(with(json!({ key: value })), &["config.json", "key `"]);
    }
}

#[test]
fn heads() {
    let config = with(json!({ "num_key_value_heads": null })).unwrap();
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (4, 4, 64));
    let config = with(json!({ "head_dim": 128, "partial_rotary_factor": 0.5 })).unwrap();
    assert_eq!((config.head_dim, config.rope_dim), (128, 64));
}

#[test]
fn rotary_embedding_in_both_spellings() {
    assert_eq!(with(json!({ "rope_theta": 1e6 })).unwrap().rope_theta, 1e6);
    let nested = json!({ "rope_parameters": { "rope_theta": 7e5, "rope_type": "default" } });
    assert_eq!(with(nested).unwrap().rope_theta, 7e5);
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    for key in ["rope_scaling", "rope_parameters"] {
        assert_eq!(with(json!({ key: llama3.clone() })).unwrap().rope_scaling, expected);
    }
    let linear = with(json!({ "rope_scaling": { "type": "linear", "factor": 2 } })).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(with(json!({ "rope_scaling": { "type": "default" } })).unwrap().rope_scaling, RopeScaling::None);
    assert_says(with(json!({ "rope_scaling": { "type": "yarn", "factor": 2 } })), &["yarn"]);
    assert_says(with(json!({ "rope_scaling": { "type": "linear" } })), &["rope_scaling.factor", "missing"]);
    assert_says(with(json!({ "rope_scaling": { "type": "linear", "factor": -2 } })), &["rope scaling", "-2"]);
    assert_says(with(json!({ "rope_scaling": { "type": "linear", "factor": 0 } })), &["rope scaling"]);
}

#[test]
fn gemma_in_older_and_newer_keys() {
    let gemma = |changes: Value| {
        let mut all = json!({
            "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7, "quantization_config": null, "sliding_window": 32,
            "hidden_activation": "gelu_pytorch_tanh",
        });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        with(all)
    };
    let older = json!({ "rope_theta": 2e6, "rope_local_base_freq": 5000, "sliding_window_pattern": 3 });
    let config = gemma(older.clone()).unwrap();
    let layers = vec![true, true, false, true, true, false, true];
    assert_eq!(config.sliding_window, Some(SlidingWindow { size: 32, layers: layers.clone(), rope_theta: 5000.0 }));
    assert_eq!((config.rope_theta, config.embedding_scale, config.norm_offset), (2e6, 16.0, 1.0));
    assert_eq!(config.attention_scale, 0.125);
    let kinds: Vec<&str> =
        layers.iter().map(|sliding| if *sliding { "sliding_attention" } else { "full_attention" }).collect();
    let newer = json!({ "layer_types": kinds, "rope_parameters": {
        "full_attention": { "rope_type": "default", "rope_theta": 2e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 5000 },
    } });
    assert_eq!(gemma(newer).unwrap(), config);
    // Every sixth sees everything, with bases of its own for both kinds, where nothing is said.
    let plain = gemma(json!({})).unwrap();
    let window = plain.sliding_window.unwrap();
    assert_eq!((window.layers, window.rope_theta), (vec![true, true, true, true, true, false, true], 10_000.0));
    assert_eq!((plain.rope_theta, plain.activation), (1e6, Activation::GeluTanh));
    assert_eq!(gemma(json!({ "sliding_window": null })).unwrap().sliding_window, None);
    assert_eq!(gemma(json!({ "query_pre_attn_scalar": 100 })).unwrap().attention_scale, 0.1);

    assert_says(gemma(json!({ "layer_types": ["full_attention"] })), &["layer_types", "1 entries for 7 layers"]);
    assert_says(gemma(json!({ "sliding_window": 0 })), &["sliding_window"]);
    assert_says(gemma(json!({ "query_pre_attn_scalar": 0 })), &["attention scale"]);
    assert_says(gemma(json!({ "rope_local_base_freq": 0 })), &["rope_theta"]);
    assert_says(gemma(json!({ "final_logit_softcapping": 30 })), &["final_logit_softcapping"]);
    assert_says(gemma(json!({ "use_bidirectional_attention": true })), &["use_bidirectional_attention"]);
    let scaled = json!({ "rope_parameters": { "sliding_attention": { "rope_type": "linear", "factor": 2 } } });
    assert_says(gemma(scaled), &["scaled rotary angles"]);
}

#[test]
fn activations() {
    for (name, activation) in [
        ("relu2", Activation::Relu2),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
    ] {
        assert_eq!(with(json!({ "hidden_act": name })).unwrap().activation, activation);
    }
    assert_says(with(json!({ "hidden_act": "mish" })), &["mish"]);
}

#[test]
fn the_direction_of_scales() {
    let class = |value: Value| with(json!({ "quantization_config": value })).map(|c| c.weight_scale);
    assert_eq!(class(json!({ "quant_method": "bitnet" })).unwrap(), ScaleDirection::Divide);
    let named = |name: &str| class(json!({ "quant_method": "bitnet", "linear_class": name }));
    assert_eq!(named("bitlinear").unwrap(), ScaleDirection::Divide);
    assert_eq!(named("autobitlinear").unwrap(), ScaleDirection::Multiply);
    assert_says(named("other"), &["quantization_config.linear_class", "other"]);
    assert_says(class(json!({ "quant_method": "gptq" })), &["gptq"]);
    assert_says(class(json!({})), &["quantization method"]);
    assert_eq!(class(json!(null)).unwrap(), ScaleDirection::Divide);
}

#[test]
fn linears_that_are_left_dense_are_refused_by_name() {
    let keeping = |names: Value| {
        with(json!({ "quantization_config": { "quant_method": "bitnet", "modules_to_not_convert": names } }))
    };
    keeping(json!(["lm_head", "model.embed_tokens"])).unwrap();
    keeping(json!(null)).unwrap();
    assert_says(
        keeping(json!(["lm_head", "model.layers.1.mlp.down_proj"])),
        &["layers.1.mlp.down_proj", "not ternary"],
    );
    assert_says(keeping(json!(["v_proj"])), &["v_proj"]);
}

#[test]
fn norms_before_linears_have_an_epsilon_of_their_own() {
    let quantized = |eps: Value| json!({ "quantization_config": { "quant_method": "bitnet", "rms_norm_eps": eps } });
    assert_eq!(with(quantized(json!(null))).unwrap().linear_norm_eps, 1e-6);
    assert_eq!(with(quantized(json!(1e-4))).unwrap().linear_norm_eps, 1e-4);
    assert_eq!(with(json!({ "quantization_config": null })).unwrap().linear_norm_eps, 1e-5);
    assert_says(with(quantized(json!(0))), &["rms_norm_eps"]);
}

#[test]
fn ids_that_begin_and_end_a_text() {
    let config = leak(changed(json!({ "bos_token_id": 1, "eos_token_id": [2, 3] })).to_string().into_bytes());
    let tensors = leak(safetensors_bytes(&[]));
    let open = |generation: Value| {
        let generation = leak(generation.to_string().into_bytes());
        let files = [("config.json", config), ("model.safetensors", tensors), ("generation_config.json", generation)];
        Checkpoint::from_memory(&files).map(|model| model.config().clone())
    };
    let both = open(json!({ "bos_token_id": 1, "eos_token_id": [3, 7] })).unwrap();
    assert_eq!((both.bos_token_ids, both.eos_token_ids), (vec![1], vec![2, 3, 7]));
    assert_says(open(json!({ "eos_token_id": "x" })), &["generation_config.json", "eos_token_id"]);
    assert_says(with(json!({ "eos_token_id": -1 })), &["config.json", "eos_token_id"]);
    assert_says(with(json!({ "eos_token_id": [1, 1u64 << 40] })), &["eos_token_id"]);
}

#[test]
fn features_the_decoder_lacks() {
    for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        assert!(with(json!({ key: false })).is_ok());
        assert_says(with(json!({ key: true })), &["config.json", key]);
    }
    assert!(with(json!({ "layer_types": ["full_attention"] })).is_ok());
    assert_says(with(json!({ "layer_types": ["full_attention", "sliding_attention"] })), &["sliding_attention"]);
    assert_says(with(json!({ "input_bits": 4 })), &["input_bits"]);
}

#[test]
fn unknown_keys_are_ignored_and_others_need_not_be_there() {
    let config = with(json!({ "auto_map": {}, "dtype": "bfloat16", "torch_dtype": "bfloat16", "x": null })).unwrap();
    assert_eq!(config.tie_word_embeddings, None);
    assert_eq!(with(json!({ "tie_word_embeddings": false })).unwrap().tie_word_embeddings, Some(false));
    assert_says(with(json!({ "tie_word_embeddings": "no" })), &["tie_word_embeddings"]);
}

#[test]
fn files_that_are_no_configuration() {
    let open = |text: &'static [u8]| {
        Checkpoint::from_memory(&[("config.json", text), ("model.safetensors", leak(safetensors_bytes(&[])))])
    };
    assert_says(open(b""), &["config.json", "JSON"]);
    assert_says(open(b"{"), &["config.json", "JSON"]);
    assert_says(open(b"[1]"), &["config.json", "object"]);
    assert_says(open(&[0xff; 4]), &["config.json", "JSON"]);
    let deep = leak(b"[".repeat(1_000_000));
    assert_says(open(deep), &["config.json", "JSON"]);
}

#[test]
fn activations_stay_floats_only_with_evidence() {
    let linear = "model.layers.0.self_attn.k_proj.weight";
    let ternary: Vec<f32> = crate::common::trits(64).iter().map(|t| 0.25 * f32::from(*t)).collect();
    let plain: Vec<f32> = (0..64).map(|i| i as f32 / 64.0 - 0.4).collect();
    let open = |changes: Value, weights: &[f32], extra: Option<&'static str>| {
        let mut tensors = vec![(linear, Dtype::F32, vec![8, 8], f32_bytes(weights))];
        tensors.extend(extra.map(|name| (name, Dtype::F32, vec![8], f32_bytes(&[1.0; 8]))));
        let model = open_hf(&changed(changes), &tensors).unwrap();
        (model.config().activation_bits, model.notes().len())
    };
    let silent = json!({ "architectures": ["LlamaForCausalLM"], "quantization_config": null });
    let marked =
        json!({ "architectures": ["LlamaForCausalLM"], "quantization_config": null, "is_bitnet_config": true });
    assert_eq!(open(silent.clone(), &ternary, None), (None, 1), "TriLM, Bonsai");
    assert_eq!(open(silent.clone(), &plain, None), (Some(8), 1), "a master that does not say so");
    assert_eq!(open(marked, &ternary, None), (Some(8), 0), "Falcon-E, dequantized");
    let norm = Some("model.layers.0.self_attn.k_proj.norm.weight");
    assert_eq!(open(silent, &ternary, norm), (Some(8), 0), "BitNet embedding models");
    assert_eq!(open(json!({}), &ternary, None), (Some(8), 0), "a BitNet architecture");
}
