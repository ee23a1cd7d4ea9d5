//! Several texts at once are each what they are alone.

use std::fs;

use bitnet_engine::model::ops::Top;
use bitnet_engine::{
    CacheFormat, EngineError, FinishReason, GenerationConfig, KvCache, LanguageModel, SessionOptions, format, model,
};
use bitnet_fixtures::moby;

fn load() -> LanguageModel {
    let name = std::env::var("BITNET_DEVICE").unwrap_or_else(|_| model::DeviceKind::default_name().to_string());
    let checkpoint = format::open(moby("packed-autobitlinear")).unwrap();
    LanguageModel::load(&checkpoint, &model::device(&name).unwrap(), None).unwrap()
}

/// Prompts of 1 to 400 tokens.
fn prompts(model: &LanguageModel) -> Vec<Vec<u32>> {
    let text = fs::read_to_string(moby("heldout.txt")).unwrap();
    let ids = model.tokenizer().encode(&text, true).unwrap();
    [1, 7, 400, 16, 33, 17, 2]
        .iter()
        .scan(0, |from, len| {
            *from += len;
            Some(ids[*from - len..*from].to_vec())
        })
        .collect()
}

fn settings(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig { temperature: 0.0, max_new_tokens, ignore_eos: true, logprobs: true, ..Default::default() }
}

fn alone(model: &LanguageModel, prompt: &[u32], config: &GenerationConfig, options: SessionOptions) -> Vec<u32> {
    let mut generation = model.session(options).into_generation(prompt, config).unwrap();
    generation.by_ref().for_each(|step| assert!(step.unwrap().logprob.unwrap() <= 0.0));
    generation.ids().to_vec()
}

/// The same tokens; where devices round floats in another order, up to a place where the two best logits are close.
fn same(model: &LanguageModel, prompt: &[u32], batched: &[u32], alone: &[u32]) {
    let native = model::row_storage(model.transformer().device()) == model::RowStorage::Bytes;
    let Some(at) = batched.iter().zip(alone).position(|(a, b)| a != b).filter(|_| !native) else {
        return assert_eq!(batched, alone);
    };
    let seen = [prompt, &alone[..at]].concat();
    let transformer = model.transformer();
    let hidden = transformer.hidden(&seen, &mut transformer.cache(seen.len(), CacheFormat::F16)).unwrap();
    let last = hidden.slice_dim(0, seen.len() - 1..seen.len());
    let logits: Vec<f32> = transformer.logits(last).into_data().try_to_vec().unwrap();
    let gap = (logits[batched[at] as usize] - logits[alone[at] as usize]).abs();
    println!("differs at token {at}, where the gap is {gap}");
    assert!(gap < 0.05, "differs at token {at}, where the gap is {gap}");
}

#[test]
fn unequal_texts_in_one_batch_are_what_they_are_alone() {
    let model = load();
    for cache in [CacheFormat::F16, CacheFormat::Int8] {
        let options = SessionOptions { cache, ..Default::default() };
        let prompts = prompts(&model);
        let mut batch = model.batch(prompts.len(), options);
        for (i, prompt) in prompts.iter().enumerate() {
            // Each ends at another step.
            assert_eq!(batch.add(prompt, &settings(20 + i)).unwrap(), i);
        }
        assert!(matches!(batch.add(&[1], &settings(1)), Err(EngineError::BatchFull(7))));
        while batch.is_writing() {
            for (_, step) in batch.step().unwrap() {
                assert!(step.unwrap().logprob.unwrap() <= 0.0);
            }
        }
        assert!(batch.step().unwrap().is_empty());
        for (i, prompt) in prompts.iter().enumerate() {
            let alone = alone(&model, prompt, &settings(20 + i), options);
            same(&model, prompt, batch.ids(i).unwrap(), &alone);
        }
    }
}

#[test]
fn a_place_is_used_again_and_drawing_is_each_texts_own() {
    let model = load();
    let prompts = prompts(&model);
    let warm = |seed| GenerationConfig { temperature: 0.8, seed: Some(seed), ..settings(12) };
    let mut batch = model.batch(2, Some(512));
    batch.add(&prompts[2], &warm(1)).unwrap();
    batch.add(&prompts[1], &settings(30)).unwrap();
    for _ in 0..12 {
        batch.step().unwrap().into_iter().for_each(|(_, step)| drop(step.unwrap()));
    }
    let first = batch.remove(0).unwrap();
    assert_eq!(first.len(), 12);
    assert_eq!(batch.add(&prompts[3], &warm(2)).unwrap(), 0);
    let mut ends = Vec::new();
    while batch.is_writing() {
        let steps = batch.step().unwrap().into_iter();
        ends.extend(steps.filter_map(|(place, step)| Some((place, step.unwrap().finish?))));
    }
    assert_eq!(ends, [(0, FinishReason::Length), (1, FinishReason::Length)]);
    if model::row_storage(model.transformer().device()) == model::RowStorage::Bytes {
        assert_eq!(first, alone(&model, &prompts[2], &warm(1), Some(512).into()));
        assert_eq!(batch.ids(0).unwrap(), alone(&model, &prompts[3], &warm(2), Some(512).into()));
    }
    same(&model, &prompts[1], batch.ids(1).unwrap(), &alone(&model, &prompts[1], &settings(30), Some(512).into()));
}

/// The logits after `token`, from a step that is not recorded.
fn plain(model: &LanguageModel, token: u32, cache: &mut KvCache) -> Vec<f32> {
    let transformer = model.transformer();
    transformer.logits(transformer.hidden(&[token], cache).unwrap()).into_data().try_to_vec().unwrap()
}

#[test]
fn steps_that_are_recorded_give_what_steps_give() {
    let model = load();
    let transformer = model.transformer();
    let text = fs::read_to_string(moby("heldout.txt")).unwrap();
    let ids = &model.tokenizer().encode(&text, true).unwrap()[..150];
    let (mut steps, mut expected) =
        (transformer.cache(200, CacheFormat::F16), transformer.cache(200, CacheFormat::F16));
    for cache in [&mut steps, &mut expected] {
        transformer.hidden(&ids[..20], cache).unwrap();
    }
    let check = |token: u32, steps: &mut KvCache, expected: &mut KvCache| {
        let next = transformer.next(&[(0, token)], steps, 3).unwrap();
        let top = Top::read(next.top.as_ref().unwrap());
        let logits: Vec<f32> = next.logits.into_data().try_to_vec().unwrap();
        assert_eq!(top[0].best[0].0, model::argmax(&logits).unwrap());
        let plain = plain(&model, token, expected);
        let worst = logits.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-4, "{worst} at {}", steps.len());
    };
    // The caches grow at 64 and at 128 tokens, after which a step is recorded anew.
    for token in &ids[20..100] {
        check(*token, &mut steps, &mut expected);
    }
    assert_eq!(steps.is_recorded(), model::can_replay(transformer.device()));
    // A fork shares its tensors with a cache whose step is recorded; each goes on by itself.
    let (mut fork, mut fork_expected) = (steps.clone(), expected.clone());
    for (token, other) in ids[100..].iter().zip(&ids[20..]) {
        check(*token, &mut steps, &mut expected);
        check(*other, &mut fork, &mut fork_expected);
    }
    assert_eq!(fork.is_recorded(), model::can_replay(transformer.device()));
    // What is not a recorded step goes on in the same tensors, which the recorded one then sees.
    for cache in [&mut steps, &mut expected] {
        transformer.hidden(&ids[..7], cache).unwrap();
    }
    check(ids[7], &mut steps, &mut expected);
    check(ids[8], &mut steps, &mut expected);
}

#[test]
fn more_texts_than_a_device_can_hold_are_refused_before_they_take_memory() {
    let model = load();
    let transformer = model.transformer();
    if model::row_storage(transformer.device()) == model::RowStorage::Bytes {
        return; // No limit is known of what a processor has.
    }
    let mut cache = transformer.cache_of(1 << 22, 1024, CacheFormat::F16);
    let error = transformer.hidden_of_slots(&[(3, &[1, 2])], &mut cache).unwrap_err();
    assert!(matches!(error, model::ModelError::CacheTensor { tokens: 1024, .. }), "{error}");
    assert!(cache.is_empty() && cache.bytes() == 0);
}
