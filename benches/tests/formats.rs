//! Generated models, read back by the rooms that read real ones.

use std::path::{Path, PathBuf};

use bitnet_benches::generate::{
    self, Architecture, Embedding, Format, GenerateError, RandomModel, Role, Shape, Storage, Vocabulary,
};
use bitnet_format::{Activation, Checkpoint, GgufTokenizer, Metadata, StorageType, TokenizerSource};
use bitnet_ternary::Packing;
use bitnet_text::{GgufVocabulary, HfTokenizer, Message, Role as Speaker, TemplateOrigin, Tokenizer};

const TEXT: &str = "Call me Ishmael. Some years ago--never mind how long precisely--having 12,345 \
    little or no money in my purse,\n\n\tand nothing particular; it's #1 at 100% (x <= y) {z} ~`^_|\\@!?";

fn tiny(vocabulary: Vocabulary) -> RandomModel {
    RandomModel { shape: Shape::TINY, vocabulary, seed: 7 }
}

/// Writes a model into `folder` and gives its path.
fn write(model: &RandomModel, storage: Storage, folder: &Path) -> PathBuf {
    let is_folder = matches!(storage.format, Format::HfPacked | Format::HfMaster);
    let path = folder.join(if is_folder { "model" } else { "model.gguf" });
    let mut written = 0;
    generate::write_model(model, storage, &path, false, &mut |weights| written += weights).unwrap();
    assert_eq!(written, model.parameters());
    path
}

fn open(model: &RandomModel, storage: impl Into<Storage>) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    bitnet_format::open(write(model, storage.into(), folder.path())).unwrap()
}

fn gguf_keys(checkpoint: &Checkpoint) -> Vec<String> {
    let Metadata::Gguf(metadata) = checkpoint.metadata() else { panic!("not a GGUF file") };
    metadata.iter().map(|(key, _)| key.to_string()).collect()
}

fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    let config = checkpoint.config();
    match checkpoint.tokenizer_files().unwrap() {
        TokenizerSource::Gguf(files) => Tokenizer::from_gguf(vocabulary(files, &config.architecture)).unwrap(),
        TokenizerSource::Hf { tokenizer_json, tokenizer_config, chat_template, .. } => {
            Tokenizer::from_hf(HfTokenizer {
                tokenizer_json: &tokenizer_json,
                tokenizer_config: tokenizer_config.as_ref(),
                chat_template: chat_template.as_deref(),
                generation_config: None,
                config_eos: &config.eos_token_ids,
                config_bos: config.bos_token_ids.first().copied(),
            })
            .unwrap()
        }
        TokenizerSource::Missing => panic!("there is no tokenizer"),
    }
}

fn vocabulary(files: GgufTokenizer, architecture: &str) -> GgufVocabulary {
    GgufVocabulary {
        model: files.model,
        pre: files.pre,
        tokens: files.tokens,
        scores: files.scores,
        token_types: files.token_types,
        merges: files.merges,
        bos: files.bos,
        eos: files.eos,
        eot: files.eot,
        pad: files.pad,
        unk: files.unknown,
        add_bos: files.add_bos,
        add_space_prefix: files.add_space_prefix,
        chat_template: files.chat_template,
        architecture: architecture.to_string(),
    }
}

#[test]
fn every_storage_holds_the_generated_model() {
    let model = tiny(Vocabulary::small());
    let mut embeddings = Vec::new();
    for format in [Format::I2s, Format::Tq2_0, Format::Iq2Bn, Format::Iq2BnR4, Format::HfPacked] {
        for embedding in [Embedding::F16, Embedding::Bf16] {
            let checkpoint = open(&model, Storage { embedding, ..format.into() });
            for tensor in model.tensors() {
                let (name, what) = (tensor.name(), format!("{} as {format:?}", tensor.module));
                match tensor.role {
                    Role::Linear => {
                        let read = checkpoint.ternary(&tensor.module, tensor.rows, tensor.cols).unwrap();
                        assert_eq!(read, model.linear(&tensor).unwrap(), "{what}");
                    }
                    Role::Norm => assert_eq!(checkpoint.floats(&name).unwrap(), vec![1.0; tensor.cols], "{what}"),
                    Role::Embedding => {
                        assert_eq!(checkpoint.info(&name).unwrap().shape, [tensor.rows, tensor.cols]);
                        embeddings.push(checkpoint.floats(&name).unwrap());
                    }
                }
            }
            assert!(checkpoint.notes().is_empty(), "{:?}", checkpoint.notes());
        }
    }
    assert!(embeddings.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn linears_are_stored_as_asked() {
    let model = tiny(Vocabulary::small());
    let name = "model.layers.1.mlp.down_proj.weight";
    let dtype = |format: Format| open(&model, format).info(name).unwrap().dtype;
    assert_eq!(dtype(Format::I2s), StorageType::Ternary(Packing::I2S));
    assert_eq!(dtype(Format::Tq2_0), StorageType::Ternary(Packing::Tq2_0));
    assert_eq!(dtype(Format::Iq2Bn), StorageType::Ternary(Packing::Iq2Bn));
    assert_eq!(dtype(Format::Iq2BnR4), StorageType::Ternary(Packing::Iq2BnR4));
    assert_eq!(dtype(Format::HfPacked), StorageType::U8);
    let master = open(&model, Format::HfMaster);
    assert_eq!(master.info(name).unwrap().dtype, StorageType::BF16);
    assert!(master.ternary(name.trim_end_matches(".weight"), 256, 512).unwrap().zero_fraction() < 0.5);
}

#[test]
fn a_q6_k_embedding_is_the_same_one_rounded() {
    let model = tiny(Vocabulary::small());
    let name = "model.embed_tokens.weight";
    let [exact, rounded] = [Embedding::F16, Embedding::Q6K]
        .map(|embedding| open(&model, Storage { embedding, ..Format::I2s.into() }))
        .map(|checkpoint| (checkpoint.info(name).unwrap().dtype, checkpoint.floats(name).unwrap()));
    assert_eq!((exact.0, rounded.0), (StorageType::F16, StorageType::Q6_K));
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let error = squares(&mut exact.1.iter().zip(&rounded.1).map(|(a, b)| a - b));
    let relative = (error / squares(&mut exact.1.iter().copied())).sqrt();
    assert!((0.005..0.03).contains(&relative), "{relative}");
}

#[test]
fn a_folder_has_neither_blocks_nor_another_architecture() {
    let model = tiny(Vocabulary::small());
    let folder = tempfile::tempdir().unwrap();
    let usual = Storage::from(Format::HfPacked);
    for (storage, word) in [
        (Storage { embedding: Embedding::Q6K, ..usual }, "Q6_K"),
        (Storage { architecture: Architecture::Bitnet, ..usual }, "architecture"),
    ] {
        let written = generate::write_model(&model, storage, &folder.path().join("model"), false, &mut |_| ());
        let error = written.unwrap_err();
        assert!(matches!(error, GenerateError::NotInFolder { .. }) && error.to_string().contains(word), "{error}");
    }
}

/// The name that llama.cpp knows stands for another activation, unless there is a key that says which.
#[test]
fn the_older_architecture_is_the_same_model() {
    let model = tiny(Vocabulary::small());
    let storage = Storage { architecture: Architecture::Bitnet, ..Format::Tq2_0.into() };
    let [old, new] = [storage, Format::Tq2_0.into()].map(|storage| open(&model, storage).config().clone());
    assert_eq!((old.architecture.as_str(), new.architecture.as_str()), ("bitnet", "bitnet-b1.58"));
    assert_eq!(old.activation, Activation::Relu2);
    assert_eq!((old.hidden_size, old.num_layers, old.rope_theta), (new.hidden_size, new.num_layers, new.rope_theta));
}

#[test]
fn configurations_are_those_of_2b_4t() {
    let model = RandomModel {
        shape: Shape { layers: 1, hidden: 512, ffn: 768, heads: 4, kv_heads: 1, ..Shape::TINY },
        vocabulary: Vocabulary::small(),
        seed: 0,
    };
    let [gguf, hf] = [Format::I2s, Format::HfPacked].map(|format| open(&model, format).config().clone());
    for config in [&gguf, &hf] {
        assert_eq!((config.hidden_size, config.intermediate_size, config.num_layers), (512, 768, 1));
        assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (4, 1, 128));
        assert_eq!((config.vocab_size, config.context_length), (2048, 256));
        assert_eq!((config.rope_theta, config.rope_dim), (500_000.0, 128));
        assert!((config.rms_norm_eps - 1e-5).abs() < 1e-12);
        assert_eq!((config.activation, config.tie_word_embeddings), (Activation::Relu2, Some(true)));
        assert_eq!((&config.bos_token_ids[..], &config.eos_token_ids[..]), (&[1792][..], &[1793][..]));
        assert_eq!(config.activation_bits, Some(8));
    }
    assert_eq!((gguf.architecture.as_str(), hf.architecture.as_str()), ("bitnet-b1.58", "BitNetForCausalLM"));
}

/// As 2B-4T's official file in everything but the sizes of the layers.
#[test]
fn keys_and_tokenizer_of_the_real_size() {
    let shape = Shape { name: "thin", layers: 1, hidden: 64, ffn: 64, heads: 1, kv_heads: 1, context: 4096 };
    let model = RandomModel { shape, vocabulary: Vocabulary::real_size(), seed: 0 };
    let checkpoint = open(&model, Format::I2s);
    let tokenizer = tokenizer(&checkpoint);
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos()), (128_256, Some(128_000)));
    assert_eq!(tokenizer.id("<|eot_id|>"), Some(128_009));
    let ids = tokenizer.encode(TEXT, true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), TEXT);
    assert!(ids.len() < TEXT.len() * 3 / 4, "{} tokens for {} bytes", ids.len(), TEXT.len());

    let official = [
        "general.architecture",
        "general.name",
        "bitnet-b1.58.vocab_size",
        "bitnet-b1.58.context_length",
        "bitnet-b1.58.embedding_length",
        "bitnet-b1.58.block_count",
        "bitnet-b1.58.feed_forward_length",
        "bitnet-b1.58.rope.dimension_count",
        "bitnet-b1.58.attention.head_count",
        "bitnet-b1.58.attention.head_count_kv",
        "tokenizer.ggml.add_bos_token",
        "bitnet-b1.58.attention.layer_norm_rms_epsilon",
        "bitnet-b1.58.rope.freq_base",
        "general.file_type",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.chat_template",
        "general.quantization_version",
    ];
    // There is no `tokenizer.ggml.pre`, and there need not be.
    assert_eq!(gguf_keys(&checkpoint), official);
}

#[test]
fn a_small_vocabulary_names_its_pre_tokenizer() {
    let keys = gguf_keys(&open(&tiny(Vocabulary::small()), Format::Tq2_0));
    assert_eq!(keys.len(), 25);
    assert_eq!(keys[15], "tokenizer.ggml.pre");
}

#[test]
fn tokenizers_of_both_containers_agree_and_round_trip() {
    let model = tiny(Vocabulary::small());
    let [gguf, hf] = [Format::I2s, Format::HfPacked].map(|format| tokenizer(&open(&model, format)));
    let every_ascii: String = (0..128).map(char::from).collect();
    for text in [TEXT, &every_ascii, "naïve 日本語 🚀"] {
        let ids = gguf.encode(text, true).unwrap();
        assert_eq!(ids[0], 1792);
        assert_eq!(hf.encode(text, true).unwrap(), ids);
        for tokenizer in [&gguf, &hf] {
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        }
    }
    for tokenizer in [&gguf, &hf] {
        assert_eq!(tokenizer.vocab_size(), 2048);
        let mut stops = tokenizer.stop_tokens().to_vec();
        stops.sort_unstable();
        assert_eq!(stops, [1793, 1801]);
    }
}

#[test]
fn chat_templates_are_the_placeholder_in_gguf_and_the_real_one_beside_safetensors() {
    let model = tiny(Vocabulary::small());
    let messages = [Message::new(Speaker::User, " How are you? ")];
    for format in [Format::I2s, Format::HfPacked] {
        let tokenizer = tokenizer(&open(&model, format));
        let template = tokenizer.chat_template().unwrap();
        let text = template.render(&messages, true).unwrap();
        assert_eq!(text, "User: How are you?<|eot_id|>Assistant: ");
        assert_eq!(template.origin() == TemplateOrigin::BuiltIn, format == Format::I2s);
    }
}

#[test]
fn merging_reaches_every_word() {
    let vocabulary = Vocabulary::small();
    let words = vocabulary.words().to_vec();
    // A pre-tokenizer under which a word is merged even though it is a token.
    let tokenizer = Tokenizer::from_gguf(GgufVocabulary {
        model: "gpt2".to_string(),
        pre: Some("gpt-2".to_string()),
        tokens: words.clone(),
        merges: vocabulary.merges().to_vec(),
        ..GgufVocabulary::default()
    })
    .unwrap();
    for (word, id) in words.iter().zip(0..).skip(256) {
        assert_eq!(tokenizer.encode(&word.replace('Ġ', " "), false).unwrap(), [id], "{word}");
    }
}
