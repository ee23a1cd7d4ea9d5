//! The runs.

use std::time::{Duration, Instant};

use bitnet::model::Isa;
use bitnet::model::probe::{ReadProbe, int8_peak};
use bitnet::{Batch, Error, GenerationConfig, HeadUse, LanguageModel, Session, SessionOptions};
use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;
use super::memory::peak_bytes;
use super::report::median;

/// Memory that is read to measure its bandwidth: several times the last cache of any one socket's core complex.
const READ_BYTES: usize = 256 << 20;

/// What to run.
pub struct Plan {
    /// Prompt sizes.
    pub prefill: Vec<usize>,
    /// Tokens in the cache before those that are written, ascending.
    pub depths: Vec<usize>,
    /// Tokens to write.
    pub decode: usize,
    /// Numbers of texts that are written at once.
    pub batches: Vec<usize>,
    /// What the device can do, where it is not the processor.
    pub limits: Limits,
    /// Measured repetitions.
    pub reps: usize,
    /// Repetitions before them.
    pub warmup: usize,
}

/// Where the limits of a device come from.
#[derive(Clone, Copy)]
pub enum Limits {
    /// They are the processor's, and measured before each repetition.
    Measured,
    /// They are known, or not: bytes and products a second.
    Known { bandwidth: Option<f64>, peak: Option<f64> },
}

/// The repetitions of one kind of run.
#[derive(Default)]
pub struct Series {
    /// Tokens a second.
    pub speeds: Vec<f64>,
    /// What the machine could do just before: bytes or products a second; none where that is not known.
    pub limits: Vec<f64>,
    /// How the head was read in them.
    pub head: HeadUse,
}

impl Series {
    /// The median share of the machine's limit, when each token needs `work` bytes or products.
    pub fn share(&self, work: f64) -> Option<f64> {
        let shares: Vec<_> = self.speeds.iter().zip(&self.limits).map(|(speed, limit)| speed * work / limit).collect();
        (!shares.is_empty()).then(|| median(&shares))
    }
}

/// A run, which gives tokens a second and how the head was read.
type Run<'a> = dyn FnMut() -> Result<(f64, HeadUse), Error> + 'a;

/// What came out.
pub struct Measured {
    /// By prompt size; the limit is int8 products a second.
    pub prefill: Vec<(usize, Series)>,
    /// By depth; the limit is bytes a second.
    pub decode: Vec<(usize, Series)>,
    /// By the number of texts; the limit is bytes a second.
    pub batch: Vec<(usize, Series)>,
    /// The most memory that the process took, without what the measurement itself needs.
    pub peak_bytes: Option<u64>,
}

/// Runs the plan, with a progress bar on a terminal.
///
/// # Errors
/// Those of the model, and when there is no memory to measure the bandwidth with.
pub fn run(model: &LanguageModel, plan: &Plan, options: SessionOptions, isa: Isa) -> Result<Measured, CliError> {
    let session = |context: usize| model.session(SessionOptions { context: Some(context), ..options });
    let repetitions = plan.warmup.saturating_add(plan.reps);
    let bar = ProgressBar::new(
        repetitions.saturating_mul(plan.prefill.len() + plan.depths.len() + plan.batches.len()) as u64
    );
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}, {eta} left");
    bar.set_style(style.expect("a correct template"));

    let before = peak_bytes();
    let reading = ReadProbe::new(READ_BYTES)?;
    let text = random_tokens(model.transformer().config().vocab_size);
    let (bandwidth, peak): (&dyn Fn() -> Option<f64>, &dyn Fn() -> Option<f64>) = match plan.limits {
        Limits::Measured => (&|| Some(reading.bandwidth(isa)), &|| Some(int8_peak(isa))),
        Limits::Known { bandwidth, peak } => (&move || bandwidth, &move || peak),
    };
    let repeat_once = |measured: bool, series: &mut Series, limit: &dyn Fn() -> Option<f64>, run: &mut Run<'_>| {
        let limit = if measured { limit() } else { None };
        let (speed, head) = run()?;
        if measured {
            series.head = series.head.plus(head);
            series.speeds.push(speed);
            series.limits.extend(limit);
        }
        bar.inc(1);
        Ok::<_, Error>(())
    };
    let repeat = |limit: &dyn Fn() -> Option<f64>, run: &mut Run<'_>| {
        let mut series = Series::default();
        for repetition in 0..repetitions {
            repeat_once(repetition >= plan.warmup, &mut series, limit, run)?;
        }
        Ok::<_, Error>(series)
    };

    let mut prefill = Vec::new();
    for size in &plan.prefill {
        bar.set_message(format!("prefill {size}"));
        let prompt: Vec<u32> = text.clone().take(*size).collect();
        let mut session = session(*size);
        let series = repeat(peak, &mut || {
            session.truncate(0);
            let (time, head) = generate(&mut session, &prompt, 1)?;
            Ok((per_second(*size, time), head))
        })?;
        prefill.push((*size, series));
    }

    // The depths take turns: what memory gives changes within seconds on a machine that others use too, and a ratio of two
    // depths shall not be that of two moments.
    let mut depths = Vec::new();
    for depth in &plan.depths {
        bar.set_message(format!("to {depth}"));
        let mut session = session(depth + plan.decode);
        let prompt: Vec<u32> = text.clone().take(depth + 1).collect();
        if *depth > 0 {
            generate(&mut session, &prompt[..*depth], 1)?;
        }
        depths.push((*depth, session, prompt, Series::default()));
    }
    for repetition in 0..repetitions {
        for (depth, session, prompt, series) in &mut depths {
            bar.set_message(format!("decode at {depth}"));
            repeat_once(repetition >= plan.warmup, series, bandwidth, &mut || {
                session.truncate(*depth);
                let (time, head) = generate(session, prompt, plan.decode)?;
                Ok((per_second(plan.decode, time), head))
            })?;
        }
    }
    let decode = depths.into_iter().map(|(depth, _, _, series)| (depth, series)).collect();
    let mut batch = Vec::new();
    for sequences in &plan.batches {
        bar.set_message(format!("decode {sequences} texts"));
        let mut texts = model.batch(*sequences, SessionOptions { context: Some(plan.decode + 1), ..options });
        let prompts: Vec<u32> = text.clone().take(*sequences).collect();
        let series = repeat(bandwidth, &mut || {
            let time = generate_batch(&mut texts, &prompts, plan.decode)?;
            Ok((per_second(sequences * plan.decode, time), HeadUse::default()))
        })?;
        batch.push((*sequences, series));
    }
    bar.finish_and_clear();

    // What the measurement reads was there from `before` on, and nothing of it earlier.
    let after = peak_bytes().map(|bytes| bytes.saturating_sub(reading.bytes() as u64));
    Ok(Measured { prefill, decode, batch, peak_bytes: before.max(after) })
}

/// How long it takes to bring `prompt` into the session and write `tokens` more, as a user's program does it, and how the
/// head was read for that.
fn generate(session: &mut Session<'_>, prompt: &[u32], tokens: usize) -> Result<(Duration, HeadUse), Error> {
    let mut generation = session.generate(prompt, &greedy(tokens))?;
    let begin = Instant::now();
    generation.try_for_each(|step| step.map(|_| ()))?;
    Ok((begin.elapsed(), generation.timing().head))
}

/// How long it takes to write `tokens` after each of `prompts`, a token each, all at once.
fn generate_batch(batch: &mut Batch<'_>, prompts: &[u32], tokens: usize) -> Result<Duration, Error> {
    for (place, prompt) in prompts.iter().enumerate() {
        batch.remove(place);
        batch.add(&[*prompt], &greedy(tokens))?;
    }
    let begin = Instant::now();
    while batch.is_writing() {
        batch.step()?.into_iter().try_for_each(|(_, step)| step.map(|_| ()))?;
    }
    Ok(begin.elapsed())
}

fn greedy(tokens: usize) -> GenerationConfig {
    GenerationConfig { max_new_tokens: tokens, temperature: 0.0, ignore_eos: true, ..GenerationConfig::default() }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// Tokens without end, the same every time: SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators",
/// OOPSLA 2014).
fn random_tokens(vocab_size: usize) -> impl Iterator<Item = u32> + Clone {
    (1u64..).map(move |i| {
        let z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % vocab_size as u64) as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_the_same_every_time() {
        let tokens: Vec<u32> = random_tokens(100).take(1000).collect();
        assert_eq!(tokens, random_tokens(100).take(1000).collect::<Vec<_>>());
        let seen: std::collections::HashSet<_> = tokens.iter().collect();
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn a_share_is_formed_within_a_repetition() {
        let series = Series { speeds: vec![10.0, 20.0, 10.0], limits: vec![100.0, 200.0, 50.0], ..Default::default() };
        assert_eq!(series.share(5.0), Some(0.5));
        assert_eq!(Series { limits: Vec::new(), ..series }.share(5.0), None, "a device of which no limit is known");
    }
}
