//! Tokens are the same whether all of the head is read for them or a part of it.

use std::sync::Arc;

use bitnet_engine::model::{Share, TopLogits, Wanted, device, pool::Pool};
use bitnet_engine::{GenerationConfig, HeadReading, LanguageModel, OpenOptions, Sampler, SessionOptions, format};
use bitnet_fixtures::moby;
use proptest::prelude::*;

fn load(name: &str) -> LanguageModel {
    let checkpoint = format::open_with(moby(name), &OpenOptions::default()).unwrap();
    LanguageModel::load(&checkpoint, &device("flex").unwrap(), None).unwrap()
}

/// Every kind of chain that a part of the logits can be enough for.
fn chains() -> Vec<(&'static str, GenerationConfig)> {
    let warm = GenerationConfig { top_p: 1.0, seed: Some(7), ..Default::default() };
    let greedy = GenerationConfig { temperature: 0.0, ..warm.clone() };
    vec![
        ("greedy", greedy.clone()),
        (
            "greedy with penalties",
            GenerationConfig { repetition_penalty: 1.3, frequency_penalty: 0.2, ..greedy.clone() },
        ),
        ("greedy with a bias", GenerationConfig { logit_bias: vec![(11, 4.0), (300, f32::NEG_INFINITY)], ..greedy }),
        ("top-k", GenerationConfig { top_k: 40, ..warm.clone() }),
        ("top-k and the rest", GenerationConfig { top_k: 20, top_p: 0.9, min_p: 0.02, typical_p: 0.9, ..warm.clone() }),
        ("top-k with penalties", GenerationConfig { top_k: 8, presence_penalty: 0.5, ..warm.clone() }),
        ("top-p", GenerationConfig { top_p: 0.5, temperature: 0.4, ..warm.clone() }),
        ("top-p with penalties", GenerationConfig { top_p: 0.6, repetition_penalty: 1.2, ..warm.clone() }),
        ("min-p", GenerationConfig { min_p: 0.2, ..warm }),
    ]
}

#[test]
fn a_part_of_the_head_gives_the_same_tokens_on_any_number_of_threads() {
    for name in ["packed-autobitlinear", "i2_s-q6_k.gguf", "i2_s.gguf"] {
        let model = load(name);
        let prompt = model.tokenizer().encode("The whale was", true).unwrap();
        for (chain, config) in chains() {
            let config = GenerationConfig { max_new_tokens: 24, ignore_eos: true, ..config };
            let run = |head, threads| {
                Arc::new(Pool::new(threads)).install(|| {
                    let mut session = model.session(SessionOptions { head, ..Default::default() });
                    let mut generation = session.generate(&prompt, &config).unwrap();
                    generation.by_ref().for_each(|step| drop(step.unwrap()));
                    (generation.ids().to_vec(), generation.timing().head)
                })
            };
            let (full, of_full) = run(HeadReading::Full, 1);
            assert_eq!((of_full.searched, of_full.full), (0, 24));
            for threads in [1, 2, 3] {
                let (exact, of_exact) = run(HeadReading::Exact, threads);
                assert_eq!(exact, full, "{name}, {chain}, {threads} threads");
                assert_eq!(of_exact.searched + of_exact.full, 24);
                println!("{name}, {chain}: {}", of_exact.describe(model.transformer().head().bytes() as u64));
            }
        }
        // A small head is not worth a copy.
        let mut session = model.session(None);
        let mut generation = session.generate(&prompt, &chains()[0].1).unwrap();
        generation.next();
        assert_eq!((generation.timing().head.searched, generation.timing().head.full), (0, 1));
    }
}

#[test]
fn most_choices_need_a_part_of_a_trained_head() {
    let model = load("packed-autobitlinear");
    let prompt = model.tokenizer().encode("Call me Ishmael. Some years ago", true).unwrap();
    let config = GenerationConfig { max_new_tokens: 40, ignore_eos: true, temperature: 0.0, ..Default::default() };
    let mut session = model.session(SessionOptions { head: HeadReading::Exact, ..Default::default() });
    let mut generation = session.generate(&prompt, &config).unwrap();
    generation.by_ref().for_each(|step| drop(step.unwrap()));
    let head = generation.timing().head;
    let all = model.transformer().head().bytes() as u64;
    assert!(head.searched > 30, "{}", head.describe(all));
    assert!(head.bytes_per_token(all) < all / 2, "{}", head.describe(all));
}

/// What a search could find: all that is wanted, at least `from` the smallest of it, and bounds of the rest that are `loose`.
fn found(logits: &[f32], wanted: &Wanted, loose: f64) -> TopLogits {
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let largest = all[0].1;
    let mut from = all[wanted.count - 1].1.min(wanted.within.map_or(f32::MAX, |within| largest - within));
    if wanted.share.is_some() {
        from = from.min(all[120].1);
    }
    let (known, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(id, logit)| *logit >= from - 1e-5 || wanted.also.contains(id));
    let mut rest = [0.0, f64::INFINITY];
    if let Some(Share { temperature, .. }) = wanted.share {
        let sum: f64 = others.iter().map(|(_, logit)| f64::from((logit - largest) / temperature).exp()).sum();
        rest = [sum * (1.0 - loose), sum * (1.0 + loose)];
    }
    TopLogits { logits: known, from, largest, rest, bytes: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_some_logits_decide_is_what_all_decide(
        seed: u64, spread in 0.5f32..8.0, step in 0f32..0.3, temperature in 0f32..2.0, top_k in 0usize..60,
        top_p in 0.05f32..1.2, min_p in 0f32..0.4, typical_p in 0.3f32..1.3, penalty in 0.8f32..1.4, biased in 0u32..3000,
        loose in 0f64..0.5,
    ) {
        let mut state = seed | 1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 24) as f32
        };
        // Some steps are wide, so that many logits are the same.
        let logits: Vec<f32> = (0..3000)
            .map(|_| {
                let value = (0..4).map(|_| uniform()).sum::<f32>() * spread;
                if step > 0.1 { (value / step).round() * step } else { value }
            })
            .collect();
        let config = GenerationConfig {
            temperature: if temperature < 0.3 { 0.0 } else { temperature },
            top_k: if top_k < 30 { top_k } else { 0 },
            top_p: top_p.min(1.0),
            min_p,
            typical_p: typical_p.min(1.0),
            repetition_penalty: if penalty < 1.0 { 1.0 } else { penalty },
            logit_bias: if biased < 1500 { vec![(biased, 2.0)] } else { Vec::new() },
            seed: Some(seed),
            ..Default::default()
        };
        let history: Vec<u32> = (0..20).map(|i| (i * 131) % 3000).collect();
        let (mut one, mut other) = (Sampler::new(&config).unwrap(), Sampler::new(&config).unwrap());
        if let Some(wanted) = other.wanted(logits.len(), &history) {
            let found = found(&logits, &wanted, loose);
            // A search gives a twelfth of the rows at most, never all of them.
            prop_assume!(found.logits.len() < logits.len());
            for _ in 0..3 {
                let before = one.clone();
                let expected = one.sample(&logits, &history);
                match other.sample_top(&found, &history) {
                    None => (one, other) = (before.clone(), before),
                    some => prop_assert_eq!(some, expected),
                }
            }
        }
    }
}
