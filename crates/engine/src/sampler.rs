//! The sampler chain: a list of plain functions over the candidates, each of which changes logits or drops tokens.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use bitnet_model::{Isa, Share, TopLogits, Wanted, argmax, log_sum_exp};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::{EngineError, GenerationConfig};

/// All logits of a smaller vocabulary are as soon read as searched.
const FEW: usize = 2048;

/// More of the largest logits are not searched for.
const MANY: usize = 1024;

/// Sums of probabilities that are closer than this share of them can come out in another order.
const OF_SUM: f64 = 1e-5;

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Chooses tokens as a [`GenerationConfig`] says.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: GenerationConfig,
    seed: u64,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A chain with these settings.
    ///
    /// # Errors
    /// When a setting is out of its range.
    pub fn new(config: &GenerationConfig) -> Result<Self, EngineError> {
        config.check()?;
        let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(0u8));
        Ok(Self { config: config.clone(), seed, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// The seed in use: the one of the configuration, or the one that was drawn.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether it takes the token with the largest logit every time.
    pub(crate) fn is_greedy(&self) -> bool {
        self.config.temperature == 0.0 && !self.config.changes_logits()
    }

    /// Whether a step is to say how probable its token was.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.config.logprobs
    }

    /// The logits that a choice after `history` depends on, where those of `vocab_size` tokens are not all needed.
    pub fn wanted(&self, vocab_size: usize, history: &[u32]) -> Option<Wanted> {
        let config = &self.config;
        if config.logprobs || vocab_size < FEW {
            return None;
        }
        // A token whose logit changes can lose its place to one token at most.
        let mut also: Vec<u32> = config.logit_bias.iter().map(|(id, _)| *id).collect();
        if config.penalizes() {
            also.extend_from_slice(recent(history, config));
        }
        also.sort_unstable();
        also.dedup();
        let changed = also.len();
        let wanted = match config {
            GenerationConfig { temperature: 0.0, .. } => Wanted { count: 1 + changed, also, ..Wanted::default() },
            GenerationConfig { top_k: 1.., .. } => Wanted { count: config.top_k + changed, also, ..Wanted::default() },
            GenerationConfig { temperature, top_p, .. } if *top_p < 1.0 => {
                let share = Some(Share { of_all: *top_p, temperature: *temperature });
                Wanted { count: 1 + changed, share, also, within: None }
            }
            GenerationConfig { temperature, min_p, .. } if *min_p > 0.0 && changed == 0 => {
                // A little more: the filter compares rounded floats.
                let within = Some(-min_p.ln() * temperature * (1.0 + 1e-5) + 1e-6);
                Wanted { count: 1, within, ..Wanted::default() }
            }
            _ => return None,
        };
        (wanted.count <= MANY).then_some(wanted)
    }

    /// [`Sampler::sample`] with the logits that were [`Sampler::wanted`], not all there are: the same token, or `None` where they
    /// do not decide which it is.
    pub fn sample_top(&mut self, top: &TopLogits, history: &[u32]) -> Option<u32> {
        let config = &self.config;
        let all = top.logits.iter().map(|(id, logit)| Candidate { id: *id, logit: *logit });
        let mut candidates: Vec<Candidate> = all.filter(|c| c.logit.is_finite()).collect();
        candidates.sort_unstable_by_key(|c| c.id);
        penalize(&mut candidates, recent(history, config), config);
        bias(&mut candidates, &config.logit_bias);
        if config.temperature == 0.0 {
            return best(&candidates);
        }
        let max = scale(&mut candidates, config.temperature);
        if config.top_k > 0 {
            top_k(&mut candidates, config.top_k);
            top_p(&mut candidates, config.top_p);
        } else if config.top_p < 1.0 {
            let scaled = |logit: f32| (logit - max) / config.temperature;
            let rest = top.rest.map(|rest| rest * f64::from(scaled(top.largest)).exp());
            top_p_of_some(&mut candidates, config.top_p, scaled(top.from), rest)?;
        }
        min_p(&mut candidates, config.min_p);
        typical_p(&mut candidates, config.typical_p);
        candidates.sort_unstable_by(order);
        draw(&candidates, &mut self.rng)
    }

    /// The next token after `history`, or `None` when no logit is a finite number.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Option<u32> {
        let config = &self.config;
        if self.is_greedy() {
            return argmax(logits);
        }
        let mut candidates = candidates(logits);
        penalize(&mut candidates, recent(history, config), config);
        bias(&mut candidates, &config.logit_bias);
        if config.temperature == 0.0 {
            return best(&candidates);
        }
        scale(&mut candidates, config.temperature);
        top_k(&mut candidates, config.top_k);
        top_p(&mut candidates, config.top_p);
        min_p(&mut candidates, config.min_p);
        typical_p(&mut candidates, config.typical_p);
        // A whole vocabulary stays in the order of its ids.
        if candidates.len() < logits.len() {
            candidates.sort_unstable_by(order);
        }
        draw(&candidates, &mut self.rng)
    }
}

/// All tokens with a usable logit, by id. `-inf` rules a token out, NaN is never chosen.
fn candidates(logits: &[f32]) -> Vec<Candidate> {
    let all = logits.iter().enumerate().map(|(id, logit)| Candidate { id: id as u32, logit: *logit });
    all.filter(|c| c.logit.is_finite()).collect()
}

/// The tokens that the penalties look at.
fn recent<'a>(history: &'a [u32], config: &GenerationConfig) -> &'a [u32] {
    &history[history.len().saturating_sub(config.penalty_window)..]
}

/// Distances from the largest logit, which it gives, over the temperature: none, however small, makes them infinite upwards.
fn scale(candidates: &mut [Candidate], temperature: f32) -> f32 {
    let max = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    candidates.iter_mut().for_each(|c| c.logit = (c.logit - max) / temperature);
    max
}

fn penalize(candidates: &mut [Candidate], recent: &[u32], config: &GenerationConfig) {
    let GenerationConfig { repetition_penalty, frequency_penalty, presence_penalty, .. } = *config;
    if !config.penalizes() {
        return;
    }
    let mut counts: HashMap<u32, u32> = HashMap::new();
    recent.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
    for c in candidates {
        if let Some(count) = counts.get(&c.id) {
            c.logit = if c.logit > 0.0 { c.logit / repetition_penalty } else { c.logit * repetition_penalty };
            c.logit -= frequency_penalty * *count as f32 + presence_penalty;
        }
    }
}

fn bias(candidates: &mut Vec<Candidate>, bias: &[(u32, f32)]) {
    for (id, bias) in bias {
        if let Ok(at) = candidates.binary_search_by_key(id, |c| c.id) {
            candidates[at].logit += bias;
        }
    }
    // A penalty or a bias may have left the range of f32, upwards or downwards.
    candidates.iter_mut().for_each(|c| c.logit = c.logit.min(f32::MAX));
    candidates.retain(|c| c.logit > f32::NEG_INFINITY);
}

/// The most probable token; of equal ones, the one with the lowest id.
fn best(candidates: &[Candidate]) -> Option<u32> {
    candidates.iter().copied().reduce(|best, c| if c.logit > best.logit { c } else { best }).map(|c| c.id)
}

/// Most probable first; equal logits by id, so that a seed means the same everywhere.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Brings the `n` most probable to the front, in order.
fn sort_first(candidates: &mut [Candidate], n: usize) {
    let n = n.min(candidates.len());
    if n > 0 && n < candidates.len() {
        candidates.select_nth_unstable_by(n - 1, order);
    }
    candidates[..n].sort_unstable_by(order);
}

/// Leaves the `k` most probable, in order.
fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        sort_first(candidates, k);
        candidates.truncate(k);
    }
}

/// Leaves the most probable ones that together reach `p`, in order. The token that reaches it is kept, so there is always
/// one.
fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let logits: Vec<f32> = candidates.iter().map(|c| c.logit).collect();
    let log_total = log_sum_exp(Isa::active(), &logits);
    // A vocabulary is rarely needed in order: a few tokens have nearly all of the probability.
    let mut sorted = 64;
    loop {
        sort_first(candidates, sorted);
        let first = &candidates[..sorted.min(candidates.len())];
        let mut sum = 0.0;
        let kept = first.iter().take_while(|c| {
            let before = sum;
            sum += (f64::from(c.logit) - log_total).exp();
            before < f64::from(p)
        });
        let kept = kept.count();
        if sum >= f64::from(p) || sorted >= candidates.len() {
            return candidates.truncate(kept);
        }
        sorted *= 8;
    }
}

/// [`top_p`] of all tokens when only these are known, the others having a logit of less than `from` and together
/// `rest` of probability, at least and at most, in units of the largest token's. `None` where that does not say which are
/// kept.
fn top_p_of_some(candidates: &mut Vec<Candidate>, p: f32, from: f32, rest: [f64; 2]) -> Option<()> {
    candidates.sort_unstable_by(order);
    let weight = |c: &Candidate| f64::from(c.logit).exp();
    let known: f64 = candidates.iter().map(weight).sum();
    let [least, most] = rest.map(|rest| f64::from(p) * (known + rest));
    let mut sum = 0.0;
    for (i, c) in candidates.iter().enumerate() {
        // One that is not known may come before it.
        if c.logit < from {
            return None;
        }
        sum += weight(c);
        if sum > most * (1.0 + OF_SUM) {
            candidates.truncate(i + 1);
            return Some(());
        }
        // It reaches `p`, or it does not: that depends on the others.
        if sum > least * (1.0 - OF_SUM) {
            return None;
        }
    }
    None
}

fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p > 0.0 {
        // exp(l - max) >= p, in the logarithm.
        let floor = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max) + p.ln();
        candidates.retain(|c| c.logit >= floor);
    }
}

fn typical_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let probabilities = probabilities(candidates);
    let surprise = |q: f64| if q > 0.0 { -q.ln() } else { f64::INFINITY };
    let entropy: f64 = probabilities.iter().filter(|q| **q > 0.0).map(|q| q * surprise(*q)).sum();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let distance = |i: usize| (surprise(probabilities[i]) - entropy).abs();
    order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let mut sum = 0.0;
    let mut kept = vec![false; candidates.len()];
    for i in order {
        kept[i] = true;
        sum += probabilities[i];
        if sum >= f64::from(p) {
            break;
        }
    }
    let mut kept = kept.into_iter();
    candidates.retain(|_| kept.next() == Some(true));
}

/// Softmax of the candidates' logits.
fn probabilities(candidates: &[Candidate]) -> Vec<f64> {
    let max = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = candidates.iter().map(|c| f64::from(c.logit - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

fn draw(candidates: &[Candidate], rng: &mut ChaCha8Rng) -> Option<u32> {
    // 53 random bits are a uniform f64 in [0, 1).
    let mut point = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    for (c, p) in candidates.iter().zip(probabilities(candidates)) {
        point -= p;
        if point < 0.0 {
            return Some(c.id);
        }
    }
    // Rounding can leave a rest: it belongs to the last one.
    candidates.last().map(|c| c.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_probabilities(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn kept(logits: &[f32], filter: impl Fn(&mut Vec<Candidate>)) -> Vec<u32> {
        let mut all = candidates(logits);
        filter(&mut all);
        let mut ids: Vec<u32> = all.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    fn sampled(config: GenerationConfig, logits: &[f32], history: &[u32]) -> Option<u32> {
        Sampler::new(&config).unwrap().sample(logits, history)
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        let logits = from_probabilities(&[0.05, 0.5, 0.1, 0.3, 0.05]);
        assert_eq!(kept(&logits, |c| top_k(c, 2)), [1, 3]);
        assert_eq!(kept(&logits, |c| top_k(c, 0)), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&logits, |c| top_p(c, 0.5)), [1]);
        assert_eq!(kept(&logits, |c| top_p(c, 0.79)), [1, 3]);
        assert_eq!(kept(&logits, |c| top_p(c, 0.81)), [1, 2, 3]);
        assert_eq!(kept(&logits, |c| top_p(c, 1e-9)), [1]);
        assert_eq!(kept(&logits, |c| min_p(c, 0.5)), [1, 3]);
        assert_eq!(kept(&logits, |c| min_p(c, 1.0)), [1]);
        // The entropy is 1.24 nats; 0.3 has surprise 1.20 and comes first, then 0.5 with 0.69.
        assert_eq!(kept(&logits, |c| typical_p(c, 0.2)), [3]);
        assert_eq!(kept(&logits, |c| typical_p(c, 0.7)), [1, 3]);
    }

    #[test]
    fn the_short_way_to_the_best_token_finds_the_same() {
        let noise: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 501) as f32).collect();
        let special = [f32::NAN, f32::INFINITY, 1.0, f32::NEG_INFINITY, 1.0, 0.5];
        for logits in [&noise[..], &noise[..37], &special, &special[..2], &[], &[f32::MIN; 20]] {
            assert_eq!(argmax(logits), best(&candidates(logits)), "{logits:?}");
        }
    }

    #[test]
    fn penalties_and_bias_change_the_choice() {
        let greedy = GenerationConfig { temperature: 0.0, ..Default::default() };
        let logits = [1.0, 3.0, 2.5, -1.0];
        assert_eq!(sampled(greedy.clone(), &logits, &[1]), Some(1));
        let config = GenerationConfig { repetition_penalty: 1.5, ..greedy.clone() };
        assert_eq!(sampled(config, &logits, &[1]), Some(2));
        let config = GenerationConfig { presence_penalty: 0.6, ..greedy.clone() };
        assert_eq!(sampled(config, &logits, &[1]), Some(2));
        let config = GenerationConfig { frequency_penalty: 0.3, ..greedy.clone() };
        assert_eq!(sampled(config.clone(), &logits, &[1]), Some(1));
        assert_eq!(sampled(config.clone(), &logits, &[1, 1]), Some(2));
        assert_eq!(sampled(GenerationConfig { penalty_window: 1, ..config }, &logits, &[1, 1, 0]), Some(1));
        let config = GenerationConfig { logit_bias: vec![(3, 10.0), (99, 1.0)], ..greedy.clone() };
        assert_eq!(sampled(config, &logits, &[]), Some(3));
        let config = GenerationConfig { logit_bias: vec![(1, f32::NEG_INFINITY)], ..greedy };
        assert_eq!(sampled(config, &logits, &[]), Some(2));
    }

    #[test]
    fn settings_beyond_the_range_of_floats_keep_their_meaning() {
        let logits = [1.0, 3.0, 2.5];
        let warm = GenerationConfig { top_p: 1.0, seed: Some(1), ..Default::default() };
        for bias in [f32::INFINITY, f32::MAX] {
            let config = GenerationConfig { logit_bias: vec![(2, bias)], temperature: 0.5, ..warm.clone() };
            assert_eq!(sampled(config, &logits, &[]), Some(2));
        }
        let cold = GenerationConfig { temperature: 1e-39, ..warm };
        assert_eq!(sampled(cold, &logits, &[]), Some(1));
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let logits = from_probabilities(&[0.2, 0.5, 0.3]);
        let config = GenerationConfig { temperature: 1.0, top_p: 1.0, seed: Some(7), ..Default::default() };
        let run = |config: &GenerationConfig| {
            let mut sampler = Sampler::new(config).unwrap();
            (0..20_000).map(|_| sampler.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
        };
        let draws = run(&config);
        for (id, p) in [0.2, 0.5, 0.3].into_iter().enumerate() {
            let share = draws.iter().filter(|d| **d == id as u32).count() as f64 / draws.len() as f64;
            assert!((share - p).abs() < 0.015, "{id}: {share}");
        }
        assert_eq!(draws, run(&config));
        assert_ne!(draws, run(&GenerationConfig { seed: Some(8), ..config }));
    }

    #[test]
    fn logits_that_are_no_numbers_are_never_chosen() {
        let config = GenerationConfig { temperature: 0.0, ..Default::default() };
        assert_eq!(sampled(config.clone(), &[f32::NAN, -3.0, f32::INFINITY, f32::NEG_INFINITY], &[]), Some(1));
        assert_eq!(sampled(config, &[f32::NAN, f32::NEG_INFINITY], &[]), None);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let all = [
            GenerationConfig { temperature: -1.0, ..Default::default() },
            GenerationConfig { temperature: f32::NAN, ..Default::default() },
            GenerationConfig { top_p: 0.0, ..Default::default() },
            GenerationConfig { min_p: 1.5, ..Default::default() },
            GenerationConfig { typical_p: 0.0, ..Default::default() },
            GenerationConfig { repetition_penalty: 0.0, ..Default::default() },
            GenerationConfig { logit_bias: vec![(0, f32::NAN)], ..Default::default() },
        ];
        let names = ["temperature", "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "logit_bias"];
        for (config, name) in all.iter().zip(names) {
            assert!(Sampler::new(config).unwrap_err().to_string().starts_with(name));
        }
    }

    proptest! {
        #[test]
        fn some_token_is_always_chosen(
            logits in prop::collection::vec(-30f32..30.0, 1..50), temperature in 0f32..3.0, top_k in 0usize..60,
            top_p in 0.001f32..1.0, min_p in 0f32..1.0, typical_p in 0.001f32..1.0, seed: u64,
        ) {
            let config = GenerationConfig {
                temperature, top_k, top_p, min_p, typical_p, seed: Some(seed), ..Default::default()
            };
            let id = sampled(config, &logits, &[]).unwrap();
            prop_assert!((id as usize) < logits.len());
        }
    }
}
