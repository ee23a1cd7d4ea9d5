//! Every ternary family against what transformers computes from the same weights in f32.
//!
//! The models are random, and chosen so that no int8 code is near a rounding tie: another order of additions turns none,
//! and logits can be held to the last places of f32.

use bitnet_engine::format::convert::{Conversion, Target};
use bitnet_engine::format::export::{GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model};
use bitnet_engine::format::{Packing, StorageType, TokenizerSource};
use bitnet_engine::model::{self, CacheFormat, Transformer};
use bitnet_engine::{EmbeddingOptions, GenerationConfig, LanguageModel, Pooling, Prompt, format};
use bitnet_fixtures::{FAMILIES, GGUF_FAMILIES, Reference, difference, families_tokenizer, family};
use burn::tensor::{Int, Tensor, TensorData};

/// Largest difference of a value over the largest one: 25 times the distance between neighbouring f32 numbers, for programs
/// that add up the same products in another order. One int8 code more or less changes a thousand times as much.
const LOGITS: f32 = 3e-6;

/// Of a loss of 5 to 11 nats.
const LOSS: f64 = 5e-6;

/// Every file of every family.
fn files() -> impl Iterator<Item = (&'static str, std::path::PathBuf)> {
    let folders = FAMILIES.into_iter().map(|name| (name, family(name)));
    folders.chain(GGUF_FAMILIES.into_iter().map(|name| (name, family(name).join("model.gguf"))))
}

fn load(path: &std::path::Path) -> LanguageModel {
    let device = model::device(model::DeviceKind::default_name()).unwrap();
    let checkpoint = format::open(path).unwrap();
    let has_none = matches!(checkpoint.tokenizer_files().unwrap(), TokenizerSource::Missing);
    let tokenizer = has_none.then(families_tokenizer);
    let model = LanguageModel::load(&checkpoint, &device, tokenizer.as_deref()).unwrap();
    let unused: Vec<_> = model.warnings().iter().filter(|line| line.contains("no layer uses")).collect();
    assert!(unused.is_empty(), "{}: {unused:?}", path.display());
    model
}

/// Logits of a text, without a cache: the only way for texts longer than a sliding window.
fn logits(transformer: &Transformer, ids: &[u32]) -> Vec<f32> {
    let data = TensorData::new(ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>(), [1, ids.len()]);
    let logits = transformer.forward(Tensor::<2, Int>::from_data(data, transformer.device()));
    logits.into_data().try_to_vec().unwrap()
}

#[test]
fn logits_and_losses_are_those_of_transformers() {
    for (name, path) in files() {
        let (model, reference) = (load(&path), Reference::of(name));
        let found = logits(model.transformer(), &reference.ids);
        let expected = reference.logits();
        let worst = difference(&found[found.len() - expected.len()..], &expected);
        let vocab = found.len() / reference.ids.len();
        let nats = found.chunks_exact(vocab).zip(&reference.ids[1..]).map(|(logits, next)| {
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            sum.ln() - f64::from(logits[*next as usize])
        });
        let loss = nats.sum::<f64>() / (reference.ids.len() - 1) as f64;
        println!("{}: logits {worst:.1e}, loss {:+.1e}", path.display(), loss - reference.loss);
        assert!(worst <= LOGITS, "{}: {worst}", path.display());
        assert!((loss - reference.loss).abs() <= LOSS, "{}: {loss} {}", path.display(), reference.loss);
    }
}

/// A family's file in another form, without a tokenizer where it has none.
fn converted(path: &std::path::Path, target: Target, place: &std::path::Path) -> LanguageModel {
    let source = format::open(path).unwrap();
    let model = Model::of(&source, "family").unwrap();
    Conversion { source: &source, model, target }.run(place, false, &|_| {}).unwrap();
    load(place)
}

#[test]
fn a_converted_family_computes_the_same() {
    let place = tempfile::tempdir().unwrap();
    let gguf = |packing| Target::Gguf(GgufOptions { packing, floats: StorageType::F32, ..GgufOptions::default() });
    let folder = |form| Target::HuggingFace(HuggingFaceOptions { form, dtype: StorageType::F32 });
    let floats = GgufOptions { floats: StorageType::F32, ..GgufOptions::default() };
    let packed = HuggingFaceForm::PackedAutoBitLinear;
    let forms = [
        ("bitnet-2b-4t", gguf(Packing::I2S)),
        ("bitnet-2b-4t", folder(HuggingFaceForm::Master)),
        ("llama-bitlinear", gguf(Packing::I2S)),
        ("falcon-e", folder(packed)),
        ("1bitllm", gguf(Packing::I2S)),
        ("1bitllm", Target::GgufFloats(floats)),
        ("linear-norms", gguf(Packing::I2S)),
        ("trilm", folder(HuggingFaceForm::Master)),
        ("bonsai-g128", gguf(Packing::Q2_0 { group: 64 })),
        ("embedding-qwen3", gguf(Packing::I2S)),
        ("embedding-gemma3", gguf(Packing::I2S)),
        ("embedding-gemma3", folder(packed)),
    ];
    for (index, (name, target)) in forms.into_iter().enumerate() {
        let path = if FAMILIES.contains(&name) { family(name) } else { family(name).join("model.gguf") };
        let out = place.path().join(format!("{index}.gguf"));
        let (source, found) = (load(&path), converted(&path, target.clone(), &out));
        let ids = Reference::of(name).ids;
        // The same bits of logits: the same loss and the same tokens. But LLaMA 3's rotation becomes divisors, which are F32,
        // and float activations are added up group by group.
        let worst = difference(&logits(found.transformer(), &ids), &logits(source.transformer(), &ids));
        let most = if ["linear-norms", "bonsai-g128"].contains(&name) { LOGITS } else { 0.0 };
        assert!(worst <= most, "{name} as {target:?} computes something else: {worst}");
        if name.starts_with("embedding") {
            let texts: Vec<String> = Reference::of(name).texts.into_iter().map(|(text, _)| text).collect();
            let vectors = |model: &LanguageModel| {
                let options = EmbeddingOptions { prompt: Prompt::Named("query".to_string()), ..Default::default() };
                model.embedder(&options).unwrap().embed(&texts).unwrap()
            };
            assert_eq!(vectors(&source), vectors(&found), "{name} as {target:?}");
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for (name, path) in files() {
        let (model, reference) = (load(&path), Reference::of(name));
        let prompt = &reference.ids[..reference.ids.len() / 2];
        let count = reference.greedy.len().min(model.transformer().cache_limit().saturating_sub(prompt.len()));
        if count > 0 {
            let config =
                GenerationConfig { temperature: 0.0, max_new_tokens: count, ignore_eos: true, ..Default::default() };
            let mut generation = model.session(None).into_generation(prompt, &config).unwrap();
            generation.by_ref().for_each(|step| drop(step.unwrap()));
            assert_eq!(generation.ids(), &reference.greedy[..count], "{}", path.display());
        }
        // And without a cache, one token after the other.
        let mut text = prompt.to_vec();
        for expected in &reference.greedy {
            let all = logits(model.transformer(), &text);
            let last = &all[all.len() - all.len() / text.len()..];
            let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
            assert_eq!(best as u32, *expected, "{} after {} tokens", path.display(), text.len());
            text.push(*expected);
        }
    }
}

#[test]
fn a_cache_gives_what_whole_sequences_give() {
    for (name, path) in files() {
        let (model, reference) = (load(&path), Reference::of(name));
        let transformer = model.transformer();
        let ids = &reference.ids[..reference.ids.len().min(transformer.cache_limit())];
        let mut cache = transformer.cache(usize::MAX, CacheFormat::F32);
        let mut found = Vec::new();
        for part in ids.chunks(5) {
            let hidden = transformer.hidden(part, &mut cache).unwrap();
            found.extend(transformer.logits(hidden).into_data().iter::<f32>());
        }
        assert_eq!(found, logits(transformer, ids), "{}", path.display());
    }
}

#[test]
fn vectors_are_those_of_transformers() {
    for name in ["embedding-qwen3", "embedding-gemma3"] {
        let reference = Reference::of(name);
        let texts: Vec<&str> = reference.texts.iter().map(|(text, _)| text.as_str()).collect();
        for path in [family(name), family(name).join("model.gguf")] {
            let model = load(&path);
            for pooling in [None, Some(Pooling::Last), Some(Pooling::Mean)] {
                let options = EmbeddingOptions { pooling, ..Default::default() };
                let embedder = model.embedder(&options).unwrap();
                let ids: Vec<Vec<u32>> = reference.texts.iter().map(|(_, ids)| ids.clone()).collect();
                let vectors = match pooling {
                    // As the checkpoint says, from the texts themselves.
                    None => {
                        for (index, (text, ids)) in reference.texts.iter().enumerate() {
                            assert_eq!(embedder.tokens(index, text).unwrap(), *ids, "{}: {text}", path.display());
                        }
                        embedder.embed(&texts).unwrap()
                    }
                    Some(_) => embedder.embed_ids(&ids, |_, _| {}).unwrap(),
                };
                let found: Vec<f32> = vectors.iter().flat_map(|vector| vector.values.clone()).collect();
                let expected = reference.vectors(&embedder.pooling().to_string());
                let worst = difference(&found, &expected);
                println!("{}, {}: {worst:.1e}", path.display(), embedder.pooling());
                assert!(worst <= LOGITS, "{}, {}: {worst}", path.display(), embedder.pooling());
            }
        }
    }
}

#[test]
fn a_batch_changes_no_bit_of_a_vector() {
    for name in ["embedding-qwen3", "embedding-gemma3"] {
        let model = load(&family(name));
        let embedder = model.embedder(&EmbeddingOptions::default()).unwrap();
        // Short ones, ones beyond a window of eight tokens, and one that is a batch by itself.
        let long = "the white whale ".repeat(14);
        let texts = ["", "a", "the whale and the sea", "so", &long, "the ship, the ship and the whale", "a"];
        let together = embedder.embed(&texts).unwrap();
        for (text, vector) in texts.iter().zip(&together) {
            assert_eq!(&embedder.embed(&[text]).unwrap()[0], vector, "{name}: {text:?}");
        }
        assert_eq!(together[1], together[6]);
        let length = together[2].values.iter().map(|x| x * x).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
}

#[test]
fn prompts_and_limits() {
    let model = load(&family("embedding-qwen3"));
    let with = |prompt: Prompt| model.embedder(&EmbeddingOptions { prompt, ..Default::default() });
    let vector = |prompt: Prompt, text: &str| with(prompt).unwrap().embed(&[text]).unwrap();
    let query = vector(Prompt::Named("query".to_string()), "the whale");
    assert_eq!(query, vector(Prompt::Default, "so: the whale"));
    assert_eq!(query, vector(Prompt::Text("so: ".to_string()), "the whale"));
    let error = with(Prompt::Named("title".to_string())).err().unwrap().to_string();
    assert!(error.contains("\"title\"") && error.contains("query"), "{error}");

    let context = model.transformer().config().context_length;
    let long = "a".repeat(context);
    let error = with(Prompt::Default).unwrap().embed(&["a", &long]).unwrap_err().to_string();
    assert_eq!(error, format!("text 1 has {} tokens, the context is {context}", context + 1));
    let options = EmbeddingOptions { truncate: true, ..Default::default() };
    let cut = model.embedder(&options).unwrap().embed(&[&long]).unwrap();
    assert_eq!(cut, vector(Prompt::Default, &long[..context - 1]), "the token that ends a text is kept");

    let plain = EmbeddingOptions { normalize: Some(false), ..Default::default() };
    let plain = &model.embedder(&plain).unwrap().embed(&["the whale"]).unwrap()[0];
    assert!((plain.values.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() > 0.1);
}

#[test]
fn a_language_model_is_made_one_for_embeddings_only_when_told() {
    let model = load(&family("falcon-e"));
    let error = model.embedder(&EmbeddingOptions::default()).err().unwrap().to_string();
    assert!(error.contains("not a model for embeddings"), "{error}");
    for pooling in [Pooling::Last, Pooling::Mean] {
        let embedder = model.embedder(&EmbeddingOptions { pooling: Some(pooling), ..Default::default() }).unwrap();
        let vectors = embedder.embed(&["the whale", "the ship"]).unwrap();
        assert!(vectors[0].values.len() == 64 && vectors[0] != vectors[1]);
        let error = embedder.embed(&["the whale", ""]).unwrap_err().to_string();
        assert_eq!(error, "text 1 is empty", "this tokenizer puts nothing around a text");
    }
}

#[test]
fn a_text_that_its_tokenizer_ends_is_not_ended_twice() {
    let (place, source) = (tempfile::tempdir().unwrap(), family("embedding-qwen3"));
    for file in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        std::fs::copy(source.join(file), place.path().join(file)).unwrap();
    }
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(source.join("tokenizer.json")).unwrap()).unwrap();
    let end = serde_json::json!({"SpecialToken": {"id": "<|im_end|>", "type_id": 0}});
    tokenizer["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, end], "pair": [],
        "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [1], "tokens": ["<|im_end|>"]}},
    });
    std::fs::write(place.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let (own, changed) = (load(&source), load(place.path()));
    let ids = |model: &LanguageModel, text: &str| {
        let options = EmbeddingOptions { truncate: true, ..Default::default() };
        model.embedder(&options).unwrap().tokens(0, text).unwrap()
    };
    let long = "a".repeat(1000);
    for text in ["the whale", "", &long] {
        let (own, changed) = (ids(&own, text), ids(&changed, text));
        let ends = [own.last(), changed.last()].map(|id| *id.unwrap());
        assert_eq!((ends, own.len()), ([0, 1], changed.len()));
        assert_eq!(own[..own.len() - 1], changed[..own.len() - 1]);
    }
    // Nothing in that folder says how to pool, and its class has no head.
    assert!(changed.embedder(&EmbeddingOptions::default()).unwrap().is_guess());
    assert!(!own.embedder(&EmbeddingOptions::default()).unwrap().is_guess());
}
