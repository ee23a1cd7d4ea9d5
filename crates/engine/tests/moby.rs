//! The small model of `bitnet-fixtures` against what other people's programs computed from the same files.

use std::fs;

use bitnet_engine::{
    CacheFormat, Checkpoint, GenerationConfig, LanguageModel, OpenOptions, WindowStart, Windows, format,
    log_probabilities, model, score, tokenizer_of,
};
use bitnet_fixtures::{FOLDERS, GGUFS, moby};
use serde_json::Value;

fn open(name: &str) -> Checkpoint {
    format::open_with(moby(name), &OpenOptions::default()).unwrap()
}

/// The device that these tests run on, `BITNET_DEVICE` or the default.
fn device_name() -> String {
    std::env::var("BITNET_DEVICE").unwrap_or_else(|_| model::DeviceKind::default_name().to_string())
}

fn load(name: &str) -> LanguageModel {
    LanguageModel::load(&open(name), &model::device(&device_name()).unwrap(), None).unwrap()
}

fn reference(folder: &str) -> Value {
    serde_json::from_slice(&fs::read(moby(folder).join("reference.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn greedy(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { temperature: 0.0, max_new_tokens, ignore_eos: true, ..Default::default() }
}

#[test]
fn logits_are_those_of_transformers() {
    for folder in FOLDERS {
        let language_model = load(folder);
        let file = fs::read(moby(folder).join("reference.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let (mut worst, mut sum, mut count) = (0f32, 0f64, 0usize);
        for (i, prompt) in reference(folder)["prompts"].as_array().unwrap().iter().enumerate() {
            let transformer = language_model.transformer();
            let hidden =
                transformer.hidden(&ids(&prompt["ids"]), &mut transformer.cache(64, CacheFormat::F32)).unwrap();
            let logits: Vec<f32> = transformer.logits(hidden).into_data().try_to_vec().unwrap();
            let expected = tensors.tensor(&format!("logits.{i}")).unwrap();
            assert_eq!(logits.len() * 4, expected.data().len());
            for (logit, bytes) in logits.iter().zip(expected.data().as_chunks::<4>().0) {
                let difference = (logit - f32::from_le_bytes(*bytes)).abs();
                worst = worst.max(difference);
                sum += f64::from(difference);
                count += 1;
            }
        }
        let mean = sum / count as f64;
        println!("{folder}: largest logit difference {worst:.5}, mean {mean:.6}");
        assert!(worst <= 0.1 && mean <= 5e-3, "{folder}: {worst} {mean}");
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for folder in FOLDERS {
        let language_model = load(folder);
        let tokenizer = language_model.tokenizer();
        for prompt in reference(folder)["prompts"].as_array().unwrap() {
            let prompt_ids = tokenizer.encode(prompt["text"].as_str().unwrap(), true).unwrap();
            assert_eq!(prompt_ids, ids(&prompt["ids"]), "{folder}: {}", prompt["text"]);

            let expected = ids(&prompt["greedy"]);
            let mut session = language_model.session(None);
            let mut generation = session.generate(&prompt_ids, &greedy(expected.len())).unwrap();
            let text: String = generation.by_ref().map(|step| step.unwrap().text).collect();
            match generation.ids().iter().zip(&expected).position(|(a, b)| a != b) {
                None => assert_eq!(text, prompt["greedy_text"].as_str().unwrap(), "{folder}"),
                Some(at) => {
                    let gap = prompt["gaps"][at].as_f64().unwrap();
                    println!("{folder}: {} differs at token {at}, where the gap is {gap}", prompt["text"]);
                    assert!(gap < 0.05, "{folder}: {} differs at token {at}, gap {gap}", prompt["text"]);
                }
            }
        }
    }
}

#[test]
fn tokenizers_of_ggufs_are_those_of_the_folders() {
    let text = fs::read_to_string(moby("heldout.txt")).unwrap();
    let of_folder = tokenizer_of(&open("master"), None).unwrap();
    for file in GGUFS {
        let tokenizer = tokenizer_of(&open(file), None).unwrap();
        assert_eq!(tokenizer.encode(&text, true).unwrap(), of_folder.encode(&text, true).unwrap(), "{file}");
        let ids: Vec<u32> = (0..4096).collect();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), of_folder.decode(&ids, false).unwrap(), "{file}");
    }
}

fn loss(language_model: &LanguageModel, window: usize) -> f64 {
    let text = fs::read_to_string(moby("heldout.txt")).unwrap();
    let ids = language_model.tokenizer().encode_plain(&text, false).unwrap();
    let windows = Windows { size: window, skip: 0, start: WindowStart::Text };
    score(language_model, &ids, windows, |_, _| {}).unwrap().loss()
}

#[test]
fn the_loss_is_that_of_transformers() {
    for folder in FOLDERS {
        let reference = reference(folder);
        let (expected, window) = (reference["val_loss"].as_f64().unwrap(), reference["ctx"].as_u64().unwrap());
        let loss = loss(&load(folder), window as usize);
        println!("{folder}: loss {loss:.6}, transformers {expected:.6}, difference {:+.2e}", loss - expected);
        assert!((loss - expected).abs() <= 2e-4, "{folder}: {loss} {expected}");
    }
}

#[test]
fn files_of_other_quantizers_have_the_same_loss_and_perplexity() {
    let master = reference("master");
    let (expected, window) = (master["val_loss"].as_f64().unwrap(), master["ctx"].as_u64().unwrap());
    let engines: Value = serde_json::from_slice(&fs::read(moby("engines.json")).unwrap()).unwrap();
    let text = fs::read_to_string(moby("heldout.txt")).unwrap();
    for file in GGUFS {
        let language_model = load(file);
        let loss = loss(&language_model, window as usize);
        let allowed = if ["i2_s.gguf", "iq2_bn.gguf"].contains(&file) { 1e-3 } else { 5e-3 };
        println!("{file}: loss {loss:.6}, master {expected:.6}, difference {:+.2e}", loss - expected);
        assert!((loss - expected).abs() <= allowed, "{file}: {loss} {expected}");

        let key = format!("bitnet.cpp, gguf/{file}");
        if let Some(expected) = engines["perplexity"][key.as_str()].as_f64() {
            let perplexity = llama_cpp_perplexity(&language_model, &text, &engines);
            println!("{file}: perplexity {perplexity:.4}, bitnet.cpp {expected:.4}");
            assert!((perplexity / expected - 1.0).abs() <= 5e-4, "{file}: {perplexity} {expected}");
        }
    }
    let perplexity = llama_cpp_perplexity(&load("packed-autobitlinear"), &text, &engines);
    let expected = engines["perplexity"]["transformers, packed-autobitlinear, f32"].as_f64().unwrap();
    println!("packed-autobitlinear: perplexity {perplexity:.4}, transformers {expected:.4}");
    assert!((perplexity / expected - 1.0).abs() <= 5e-4, "{perplexity} {expected}");
}

/// Perplexity as `engines.json` defines it.
fn llama_cpp_perplexity(language_model: &LanguageModel, text: &str, engines: &Value) -> f64 {
    let ids = language_model.tokenizer().encode(text, true).unwrap();
    assert_eq!(ids.len() as u64, engines["tokens"].as_u64().unwrap());
    let start = WindowStart::Bos(language_model.tokenizer().bos().unwrap());
    let score = score(language_model, &ids, Windows { size: 256, skip: 128, start }, |_, _| {}).unwrap();
    assert_eq!(score.tokens as u64, engines["scored"].as_u64().unwrap());
    score.perplexity()
}

#[test]
fn a_session_that_goes_back_gives_what_a_new_one_gives() {
    let language_model = load("packed-autobitlinear");
    let prompt = language_model.tokenizer().encode("The whale", true).unwrap();
    let other = language_model.tokenizer().encode("The whale and the ship", true).unwrap();
    let run = |session: &mut bitnet_engine::Session<'_>, prompt: &[u32]| -> Vec<u32> {
        let mut generation = session.generate(prompt, &GenerationConfig { logprobs: true, ..greedy(20) }).unwrap();
        generation.by_ref().for_each(|step| assert!(step.unwrap().logprob.unwrap() <= 0.0));
        generation.ids().to_vec()
    };
    let fresh = run(&mut language_model.session(None), &prompt);
    let mut session = language_model.session(None);
    assert_eq!(run(&mut session, &prompt), fresh);
    // The cache holds the reply: only the shared beginning may be kept.
    let mut fork = session.clone();
    let second = run(&mut session, &other);
    assert_eq!(second, run(&mut language_model.session(None), &other));
    assert_eq!(run(&mut fork, &prompt), fresh, "a fork is not touched by what the other does");
    assert_eq!(run(&mut session, &prompt), fresh);
}

/// Logits of the same tokens in another form: the same bits on the native kernels. Elsewhere a compiler may fuse products
/// and sums of one form and not of the other.
fn same(a: &[f32], b: &[f32]) {
    if model::row_storage(&model::device(&device_name()).unwrap()) == model::RowStorage::Bytes {
        return assert_eq!(a, b);
    }
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 0.1, "{worst}");
}

#[test]
fn token_by_token_is_the_same_as_all_at_once() {
    let language_model = load("packed-autobitlinear");
    let ids = language_model.tokenizer().encode("Call me Ishmael. Some years ago, never mind how long", true).unwrap();
    let transformer = language_model.transformer();
    let all = transformer.hidden(&ids, &mut transformer.cache(100, CacheFormat::F32)).unwrap();
    let all: Vec<f32> = transformer.logits(all).into_data().try_to_vec().unwrap();
    let mut cache = transformer.cache(100, CacheFormat::F32);
    let mut single = Vec::new();
    for id in &ids {
        let hidden = transformer.hidden(&[*id], &mut cache).unwrap();
        single.extend(transformer.logits(hidden).into_data().try_to_vec::<f32>().unwrap());
    }
    same(&single, &all);

    let batch: Vec<i64> = ids.iter().chain(&ids).map(|id| i64::from(*id)).collect();
    let data = burn::tensor::TensorData::new(batch, [2, ids.len()]);
    let device = model::device(&device_name()).unwrap();
    let batch = transformer.forward(burn::tensor::Tensor::from_data(data, &device));
    let both: Vec<f32> = batch.into_data().try_to_vec().unwrap();
    same(&both, &[all.clone(), all].concat());
}

#[test]
fn generation_ends_for_the_reason_that_it_gives() {
    use bitnet_engine::FinishReason::{Context, Length, StopString, StopToken};
    let language_model = load("packed-autobitlinear");
    let prompt = language_model.tokenizer().encode("Call me Ishmael. Some years ago", true).unwrap();
    // The greedy text is ", and\nthe whale, and the Pequod’s ..".
    let finish = |config: &GenerationConfig, context: Option<usize>| {
        let steps = language_model.session(context).into_generation(&prompt, config).unwrap();
        let steps: Vec<_> = steps.map(Result::unwrap).collect();
        let text: String = steps.iter().map(|step| step.text.as_str()).collect();
        assert!(steps[..steps.len() - 1].iter().all(|step| step.finish.is_none()));
        (steps.len(), text, steps.last().unwrap().finish.clone().unwrap())
    };
    assert_eq!(finish(&greedy(3), None), (3, ", and\n".to_string(), Length));
    let stop = GenerationConfig { stop_strings: vec!["whale, and".to_string()], ..greedy(64) };
    assert_eq!(finish(&stop, None), (7, ", and\nthe ".to_string(), StopString("whale, and".to_string())));
    let stop = GenerationConfig { stop_tokens: vec![389], ..greedy(64) };
    assert_eq!(finish(&stop, None), (5, ", and\nthe".to_string(), StopToken(389)));
    let (steps, _, reason) = finish(&greedy(64), Some(prompt.len() + 4));
    assert_eq!((steps, reason), (5, Context), "the last token needs no room of its own");
    assert_eq!(language_model.session(None).generate(&prompt, &greedy(0)).unwrap().count(), 0);
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let language_model = load("packed-autobitlinear");
    let refuse =
        |prompt: &[u32], context: Option<usize>| match language_model.session(context).generate(prompt, &greedy(4)) {
            Err(error) => error.to_string(),
            Ok(mut generation) => generation.find_map(Result::err).expect("an error").to_string(),
        };
    assert_eq!(refuse(&[], None), "the prompt is empty");
    assert_eq!(refuse(&[1; 9], Some(8)), "the prompt has 9 tokens, the context is 8");
    assert_eq!(refuse(&vec![1; 2000], None), "the prompt has 2000 tokens, the context is 1024");
    assert_eq!(refuse(&[1, 5000], None), "token 5000 is outside the vocabulary of 4096");
    let unknown = GenerationConfig { logit_bias: vec![(5000, 1.0)], ..greedy(4) };
    let error = language_model.session(None).into_generation(&[1], &unknown).err().unwrap();
    assert_eq!(error.to_string(), "token 5000 is outside the vocabulary of 4096");
    let windows = Windows { size: 16, skip: 0, start: WindowStart::Text };
    let error = score(&language_model, &[1; 16], windows, |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the text has 16 tokens, one window needs 17");
}

#[test]
fn log_probabilities_are_those_of_the_scored_window() {
    let language_model = load("packed-autobitlinear");
    let ids = language_model.tokenizer().encode("Call me Ishmael. Some years ago", false).unwrap();
    let each = log_probabilities(&language_model, &ids).unwrap();
    assert_eq!(each.len(), ids.len() - 1);
    let windows = Windows { size: ids.len() - 1, skip: 0, start: WindowStart::Text };
    let total = score(&language_model, &ids, windows, |_, _| {}).unwrap();
    assert!((total.nll + each.iter().map(|p| f64::from(*p)).sum::<f64>()).abs() < 1e-4);
}
