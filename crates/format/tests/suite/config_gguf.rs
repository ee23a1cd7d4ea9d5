//! GGUF keys, one by one.

use bitnet_format::gguf::Value;
use bitnet_format::{
    Activation, Checkpoint, FormatError, ModelConfig, OpenOptions, Pooling, RopeScaling, SlidingWindow, StorageType,
    open_with,
};
use bitnet_ternary::Packing;

use crate::common::{GgufTensor, assert_says, f32_bytes, gguf_bytes, gguf_keys, open_gguf, write_gguf};

fn open(
    architecture: &str,
    changes: &[(&str, Option<Value>)],
    tensors: &[GgufTensor<'_>],
) -> Result<Checkpoint, FormatError> {
    let mut keys = gguf_keys(architecture);
    for (key, value) in changes {
        let key = key.replace("A.", &format!("{architecture}."));
        keys.retain(|(known, _)| *known != key);
        keys.extend(value.clone().map(|value| (key, value)));
    }
    open_gguf(gguf_bytes(&keys, tensors))
}

fn config(architecture: &str, changes: &[(&str, Option<Value>)]) -> Result<ModelConfig, FormatError> {
    open(architecture, changes, &[]).map(|model| model.config().clone())
}

#[test]
fn the_activation_of_every_architecture() {
    use Activation::{GeluTanh, Relu2, Silu};
    let of = |architecture, model: Option<&str>, hidden: Option<&str>| {
        let changes =
            [("tokenizer.ggml.model", model.map(Value::from)), ("A.hidden_activation", hidden.map(Value::from))];
        config(architecture, &changes).map(|c| c.activation)
    };
    for (architecture, model, hidden, expected) in [
        ("bitnet", None, None, Silu),
        ("bitnet", Some("gpt2"), None, Silu),
        ("bitnet", Some("gpt2"), Some("relu2"), Relu2),
        ("bitnet-25", Some("gpt2"), None, Relu2),
        ("bitnet-b1.58", Some("gpt2"), None, Relu2),
        ("bitnet-b1.58", None, None, Relu2),
        ("bitnet-b1.58", Some("llama"), None, Silu),
        ("bitnet-25", Some("llama"), None, Silu),
        ("bitnet-b1.58", Some("llama"), Some("relu2"), Relu2),
        ("bitnet-b1.58", Some("gpt2"), Some("silu"), Silu),
        ("llama", Some("llama"), None, Silu),
        ("qwen3", Some("gpt2"), None, Silu),
        ("qwen3", Some("gpt2"), Some("gelu_pytorch_tanh"), GeluTanh),
    ] {
        assert_eq!(of(architecture, model, hidden).unwrap(), expected, "{architecture} {model:?} {hidden:?}");
    }
    assert_says(of("bitnet", None, Some("mish")), &["model.gguf", "mish"]);
}

#[test]
fn layers_of_gemma_that_see_a_window() {
    let window = |changes: &[(&str, Option<Value>)]| {
        let layers = [("A.block_count", Some(7u32.into())), ("A.attention.sliding_window", Some(16u32.into()))];
        config("gemma3", &[&layers, changes].concat()).map(|config| config.sliding_window)
    };
    let of = |layers: &[bool], rope_theta| Some(SlidingWindow { size: 16, layers: layers.to_vec(), rope_theta });
    let pattern = |value: Value| window(&[("A.attention.sliding_window_pattern", Some(value))]);
    let (s, f) = (true, false);
    assert_eq!(window(&[]).unwrap(), of(&[s, s, s, s, s, f, s], 10_000.0));
    assert_eq!(pattern(2u32.into()).unwrap(), of(&[s, f, s, f, s, f, s], 10_000.0));
    assert_eq!(pattern(vec![f, f, s, f, f, f, f].into()).unwrap(), of(&[f, f, s, f, f, f, f], 10_000.0));
    assert_eq!(pattern(1u32.into()).unwrap(), None, "every layer sees everything");
    assert_eq!(window(&[("A.rope.freq_base_swa", Some(500f32.into()))]).unwrap().unwrap().rope_theta, 500.0);
    assert_eq!(window(&[("A.attention.sliding_window", Some(0u32.into()))]).unwrap(), None);
    assert_says(pattern(vec![s, f].into()), &["sliding_window_pattern", "2 entries for 7 layers"]);
    assert_says(window(&[("A.final_logit_softcapping", Some(30f32.into()))]), &["final_logit_softcapping"]);

    let plain = config("gemma3", &[]).unwrap();
    assert_eq!((plain.activation, plain.embedding_scale, plain.norm_offset), (Activation::GeluTanh, 16.0, 0.0));
    assert_eq!(config("gemma3", &[("A.attention.scale", Some(0.5f32.into()))]).unwrap().attention_scale, 0.5);
    let error = config("llama", &[("A.attention.sliding_window", Some(16u32.into()))]);
    assert_says(error, &["llama.attention.sliding_window"]);
}

#[test]
fn poolings() {
    let pooling = |value: u32| open("qwen3", &[("A.pooling_type", Some(value.into()))], &[]).unwrap().embedding();
    assert_eq!(pooling(0).unwrap(), None);
    assert_eq!(pooling(1).unwrap().unwrap().pooling, Pooling::Mean);
    assert_eq!(pooling(3).unwrap().unwrap().pooling, Pooling::Last);
    assert_says(pooling(2), &["model.gguf", "qwen3.pooling_type", "2"]);
    let noted = |tensors: &[GgufTensor<'_>]| {
        let model = open("qwen3", &[("A.pooling_type", Some(1u32.into()))], tensors).unwrap();
        model.notes().iter().any(|note| note.contains("qwen3.pooling_type"))
    };
    let norm = ("blk.0.attn_q_norm_in.weight", StorageType::F32, vec![256], f32_bytes(&[1.0; 256]));
    assert!(noted(&[norm]) && !noted(&[]));
    let end = |adds: Option<bool>| {
        let keys = [
            ("A.pooling_type", Some(3u32.into())),
            ("tokenizer.ggml.eos_token_id", Some(5u32.into())),
            ("tokenizer.ggml.add_eos_token", adds.map(Value::from)),
        ];
        open("qwen3", &keys, &[]).unwrap().embedding().unwrap().unwrap().end
    };
    assert_eq!((end(None), end(Some(true)), end(Some(false))), (Some(5), Some(5), None));
}

#[test]
fn what_sentence_transformers_knows_of_an_embedding_model() {
    let embedding = |more: &[(&str, Option<Value>)]| {
        let keys = [&[("A.pooling_type", Some(3u32.into()))], more].concat();
        open("gemma3", &keys, &[]).unwrap().embedding()
    };
    let plain = embedding(&[]).unwrap().unwrap();
    assert_eq!((plain.normalize, plain.prompts, plain.default_prompt), (true, Vec::new(), None));
    let full = embedding(&[
        ("sentence_transformers.normalize", Some(false.into())),
        ("sentence_transformers.prompts.query", Some("find: ".into())),
        ("sentence_transformers.prompts.a.b", Some("".into())),
        ("sentence_transformers.default_prompt_name", Some("query".into())),
    ]);
    let full = full.unwrap().unwrap();
    assert_eq!((full.normalize, full.default_prompt.as_deref()), (false, Some("query")));
    assert_eq!(full.prompts, [("query".into(), "find: ".into()), ("a.b".into(), "".into())]);
    for key in ["normalize", "prompts.query", "default_prompt_name"].map(|key| format!("sentence_transformers.{key}")) {
        assert_says(embedding(&[(&key, Some(3u32.into()))]), &["model.gguf", &key]);
    }
}

#[test]
fn norms_before_linears_may_have_an_epsilon_of_their_own() {
    let eps = |more: &[(&str, Option<Value>)]| config("bitnet-b1.58", more).unwrap().linear_norm_eps;
    assert_eq!(eps(&[]), f64::from(1e-5f32));
    assert_eq!(eps(&[("A.linear_norm_rms_epsilon", Some(1e-3f32.into()))]), f64::from(1e-3f32));
    let zero = [("A.linear_norm_rms_epsilon", Some(0f32.into()))];
    assert_says(config("bitnet-b1.58", &zero), &["epsilon", "between 0 and 1"]);
}

#[test]
fn a_user_may_know_the_activation_better() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write_gguf(&path, &gguf_keys("bitnet"), &[]);
    let options = OpenOptions { activation: Some(Activation::Relu2), ..OpenOptions::default() };
    assert_eq!(open_with(&path, &options).unwrap().config().activation, Activation::Relu2);
}

#[test]
fn architectures() {
    for architecture in ["bitnet", "bitnet-25", "bitnet-b1.58", "llama", "qwen3"] {
        assert_eq!(config(architecture, &[]).unwrap().architecture, architecture);
    }
    assert_says(config("falcon", &[]), &["model.gguf", "`falcon`"]);
    assert_says(config("bitnet", &[("general.architecture", None)]), &["general.architecture", "missing"]);
    assert_says(config("bitnet", &[("general.architecture", Some(3u32.into()))]), &["general.architecture", "string"]);
}

#[test]
fn a_missing_key_is_named() {
    for key in [
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "context_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
        "vocab_size",
    ] {
        let missing = config("bitnet-25", &[(&format!("A.{key}"), None)]);
        assert_says(missing, &["model.gguf", &format!("`bitnet-25.{key}`"), "missing"]);
    }
}

#[test]
fn numbers_no_model_has() {
    for key in [
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "context_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "rope.dimension_count",
        "vocab_size",
    ] {
        for value in [0u64.into(), u64::MAX.into(), (1u64 << 40).into(), (-1i32).into(), "8".into()] {
            let value: Value = value;
            assert_says(config("bitnet", &[(&format!("A.{key}"), Some(value))]), &["model.gguf", "key `bitnet."]);
        }
    }
    for (key, value) in [
        ("A.rope.freq_base", f32::NAN),
        ("A.rope.freq_base", 0.0),
        ("A.attention.layer_norm_rms_epsilon", 0.0),
        ("A.attention.layer_norm_rms_epsilon", f32::NAN),
        ("A.rope.scale_linear", f32::INFINITY),
    ] {
        assert_says(config("bitnet", &[(key, Some(value.into()))]), &["model.gguf", "key `"]);
    }
    assert_says(config("bitnet", &[("A.attention.head_count_kv", Some(3u32.into()))]), &["head_count_kv", "divide"]);
    assert_says(config("bitnet", &[("A.rope.dimension_count", Some(66u32.into()))]), &["dimension_count"]);
    assert_says(config("bitnet", &[("A.rope.freq_base", Some("x".into()))]), &["freq_base", "number"]);
}

#[test]
fn one_number_for_each_layer() {
    let kv = |list: Vec<u32>| config("llama", &[("A.attention.head_count_kv", Some(list.into()))]);
    assert_eq!(kv(vec![2, 2, 2]).unwrap().num_kv_heads, 2);
    assert_says(kv(vec![2, 4]), &["head_count_kv"]);
    assert_says(kv(vec![]), &["head_count_kv"]);
}

#[test]
fn defaults() {
    let changes = [
        ("A.attention.head_count_kv", None),
        ("A.vocab_size", None),
        ("tokenizer.ggml.model", Some("gpt2".into())),
        ("tokenizer.ggml.tokens", Some(vec!["a".to_string(); 5].into())),
        ("tokenizer.ggml.eos_token_id", Some(2u32.into())),
        ("tokenizer.ggml.eot_token_id", Some(4u32.into())),
        ("tokenizer.ggml.bos_token_id", Some(u32::MAX.into())),
    ];
    let config = config("llama", &changes).unwrap();
    assert_eq!((config.num_kv_heads, config.head_dim, config.rope_dim, config.vocab_size), (4, 64, 64, 5));
    assert_eq!((config.rope_theta, config.tie_word_embeddings), (10_000.0, Some(true)));
    assert_eq!((config.bos_token_ids, config.eos_token_ids), (vec![], vec![2, 4]));
    let embedding = ("token_embd.weight", StorageType::F32, vec![3, 2], f32_bytes(&[0.0; 6]));
    let head = ("output.weight", StorageType::F32, vec![3, 2], f32_bytes(&[0.0; 6]));
    let model = open("llama", &[("A.vocab_size", None)], &[embedding, head]).unwrap();
    assert_eq!((model.config().vocab_size, model.config().tie_word_embeddings), (3, Some(false)));
}

#[test]
fn rotary_scaling() {
    let linear = [("A.rope.scaling.type", Some("linear".into())), ("A.rope.scaling.factor", Some(4f32.into()))];
    assert_eq!(config("llama", &linear).unwrap().rope_scaling, RopeScaling::Linear { factor: 4.0 });
    let old = [("A.rope.scale_linear", Some(2f32.into()))];
    assert_eq!(config("llama", &old).unwrap().rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let none = [("A.rope.scaling.type", Some("none".into()))];
    assert_eq!(config("llama", &none).unwrap().rope_scaling, RopeScaling::None);
    assert_says(config("llama", &[("A.rope.scaling.type", Some("yarn".into()))]), &["yarn"]);
    assert_says(config("llama", &linear[..1]), &["rope.scaling.factor", "missing"]);

    let factors = |values: &[f32]| ("rope_freqs.weight", StorageType::F32, vec![values.len()], f32_bytes(values));
    let model = open("llama", &[], &[factors(&[2.0; 32])]).unwrap();
    assert_eq!(model.config().rope_scaling, RopeScaling::Factors(vec![2.0; 32]));
    assert_says(open("llama", &[], &[factors(&[2.0; 31])]), &["31 factors for 32"]);
    assert_says(open("llama", &[], &[factors(&[0.0; 32])]), &["factor 0"]);
    assert_says(open("llama", &linear, &[factors(&[2.0; 32])]), &["rope_freqs"]);
    let halves = ("rope_freqs.weight", StorageType::F16, vec![32], vec![0; 64]);
    assert_says(open("llama", &[], &[halves]), &["rope_freqs.weight", "F16"]);
}

#[test]
fn features_the_decoder_lacks() {
    for (key, value) in [
        ("A.expert_count", Value::from(8u32)),
        ("A.attention.sliding_window", 512u32.into()),
        ("A.attention.value_length", 32u32.into()),
        ("prism.hadamard.version", 1u32.into()),
    ] {
        let name = key.trim_start_matches("A.");
        assert_says(config("qwen3", &[(key, Some(value))]), &["model.gguf", name]);
    }
    assert!(config("qwen3", &[("A.expert_count", Some(0u32.into()))]).is_ok());
}

#[test]
fn weight_only_files_keep_their_activations() {
    let q2 = StorageType::Ternary(Packing::Q2_0 { group: 64 });
    let linear = || ("blk.0.attn_v.weight", q2, vec![1, 64], vec![0; 18]);
    let norm = || ("blk.0.attn_v_norm_in.weight", StorageType::F32, vec![64], f32_bytes(&[1.0; 64]));
    let bits = |tensors: &[GgufTensor<'_>]| open("qwen3", &[], tensors).unwrap().config().activation_bits;
    assert_eq!(bits(&[linear()]), None);
    assert_eq!(bits(&[linear(), norm()]), Some(8));
    assert_eq!(bits(&[]), Some(8));
}

#[test]
fn a_file_type_that_no_tensor_has_is_noted() {
    let notes =
        |architecture| open(architecture, &[("general.file_type", Some(40u32.into()))], &[]).unwrap().notes().len();
    assert_eq!(notes("bitnet"), 1);
}
