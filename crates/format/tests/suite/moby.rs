//! The models other programs wrote: one set of trits in eight files.

use bitnet_fixtures::{FOLDERS, GGUFS, moby};
use bitnet_format::{Activation, Checkpoint, Container, RopeScaling, ScaleDirection, TokenizerSource, open};
use bitnet_ternary::TernaryMatrix;

/// The linears of a model with their shapes.
fn linears(model: &Checkpoint) -> Vec<(String, usize, usize)> {
    let config = model.config();
    let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let parts = [
        ("self_attn.q_proj", q, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, q),
        ("mlp.gate_proj", mlp, hidden),
        ("mlp.up_proj", mlp, hidden),
        ("mlp.down_proj", hidden, mlp),
    ];
    (0..config.num_layers)
        .flat_map(|i| parts.map(|(part, rows, cols)| (format!("model.layers.{i}.{part}"), rows, cols)))
        .collect()
}

fn scales(matrix: &TernaryMatrix) -> Vec<f32> {
    matrix.scale().values().to_vec()
}

#[test]
fn all_files_hold_the_trits_of_the_master() {
    let master = open(moby("master")).unwrap();
    let expected: Vec<_> = linears(&master)
        .into_iter()
        .map(|(linear, rows, cols)| (master.ternary(&linear, rows, cols).unwrap(), linear, rows, cols))
        .collect();
    for name in FOLDERS.iter().chain(&GGUFS) {
        let model = open(moby(name)).unwrap();
        let mut worst = 0f32;
        for (expected, linear, rows, cols) in &expected {
            let matrix = model.ternary(linear, *rows, *cols).unwrap();
            assert_eq!(matrix.words(), expected.words(), "{name}: {linear}");
            let scale = scales(expected)[0];
            for found in scales(&matrix) {
                worst = worst.max((found / scale - 1.0).abs());
            }
        }
        // Scales are kept in f32, in f16 (TQ) or in bf16 (packed folders).
        assert!(worst < 1.0 / 256.0, "{name}: scales differ by {worst}");
    }
}

#[test]
fn all_files_have_the_same_embedding_and_norms() {
    let master = open(moby("master")).unwrap();
    let embedding = master.floats("model.embed_tokens.weight").unwrap();
    for name in FOLDERS.iter().chain(&GGUFS) {
        let model = open(moby(name)).unwrap();
        let other = model.floats("model.embed_tokens.weight").unwrap();
        let worst = embedding.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        let largest = embedding.iter().fold(0f32, |a, x| a.max(x.abs()));
        let allowed = if *name == "i2_s-q6_k.gguf" { largest / 32.0 } else { largest / 1024.0 };
        assert!(worst <= allowed, "{name}: {worst} of {largest}");
        for info in master.tensors().filter(|t| t.name.contains("norm")) {
            assert_eq!(model.floats(&info.name).unwrap(), master.floats(&info.name).unwrap(), "{name}: {}", info.name);
        }
    }
}

#[test]
fn all_files_have_the_same_configuration() {
    for name in FOLDERS.iter().chain(&GGUFS) {
        let model = open(moby(name)).unwrap();
        let config = model.config();
        assert_eq!((config.hidden_size, config.intermediate_size, config.num_layers), (256, 768, 4), "{name}");
        assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim, config.rope_dim), (4, 2, 64, 64), "{name}");
        assert_eq!((config.vocab_size, config.context_length), (4096, 1024), "{name}");
        assert_eq!((config.rope_theta, &config.rope_scaling), (500_000.0, &RopeScaling::None), "{name}");
        assert!((config.rms_norm_eps - 1e-5).abs() < 1e-11, "{name}");
        assert_eq!(config.activation, Activation::Relu2, "{name}");
        assert_eq!(config.tie_word_embeddings, Some(true), "{name}");
        assert_eq!((&config.bos_token_ids[..], &config.eos_token_ids[..]), (&[4093][..], &[4094][..]), "{name}");
        assert_eq!(config.activation_bits, Some(8), "{name}");
        let divides = *name == "packed-bitlinear";
        assert_eq!(config.weight_scale == ScaleDirection::Divide, divides, "{name}");
        assert!(model.notes().is_empty(), "{name}: {:?}", model.notes());
    }
}

#[test]
fn tokenizers_come_along() {
    for name in FOLDERS {
        let model = open(moby(name)).unwrap();
        assert_eq!(model.source().container, Container::Safetensors);
        let TokenizerSource::Hf { tokenizer_json, tokenizer_config, chat_template, .. } =
            model.tokenizer_files().unwrap()
        else {
            panic!("{name} is a Hugging Face folder");
        };
        assert!(tokenizer_json.len() > 200_000 && tokenizer_config.is_some());
        let on_disk = std::fs::read_to_string(moby(name).join("chat_template.jinja")).unwrap();
        assert_eq!(chat_template, Some(on_disk));
    }
    for name in GGUFS {
        let model = open(moby(name)).unwrap();
        assert_eq!(model.source().container, Container::Gguf);
        let TokenizerSource::Gguf(tokenizer) = model.tokenizer_files().unwrap() else {
            panic!("{name} is a GGUF file");
        };
        assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("llama-bpe")));
        assert_eq!((tokenizer.tokens.len(), tokenizer.token_types.len(), tokenizer.merges.len()), (4096, 4096, 3837));
        assert_eq!((tokenizer.bos, tokenizer.eos, tokenizer.add_bos), (Some(4093), Some(4094), Some(true)));
        assert_eq!((tokenizer.tokens[0].as_str(), tokenizer.merges[0].as_str()), ("!", "Ġ t"));
    }
}

#[test]
fn embedded_models_are_those_on_disk() {
    let file = |folder: &str, name: &str| &*std::fs::read(moby(folder).join(name)).unwrap().leak();
    let embedded = Checkpoint::from_memory(&[
        ("config.json", file("packed-autobitlinear", "config.json")),
        ("model.safetensors", file("packed-autobitlinear", "model.safetensors")),
        ("tokenizer.json", file("packed-autobitlinear", "tokenizer.json")),
    ])
    .unwrap();
    let on_disk = open(moby("packed-autobitlinear")).unwrap();
    assert_eq!(embedded.config(), on_disk.config());
    for info in on_disk.tensors() {
        assert_eq!(embedded.info(&info.name), Some(info));
        assert_eq!(embedded.bytes(&info.name).unwrap(), on_disk.bytes(&info.name).unwrap());
    }
    assert!(matches!(embedded.tokenizer_files().unwrap(), TokenizerSource::Hf { .. }));
}
