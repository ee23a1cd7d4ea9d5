//! `bitnet bench`.

mod compare;
mod identity;
mod measure;
mod memory;
mod plot;
mod report;
mod work;

use std::collections::HashSet;
use std::io::{Write, stdout};
use std::path::PathBuf;

use bitnet::model::{Isa, ModelError, WeightBits, WeightOrder, device, is_processor, pool, weight_order};
use clap::Args;

use super::CliError;
use super::model_args::ModelArgs;
use measure::{Limits, Plan, Series};
use plot::Plot;
use report::{Batch, Decode, Prefill, Report, Speed, median};
use work::Work;

/// Prompt sizes and depths that are measured when none are asked for, as far as the model's context goes.
const PREFILL: usize = 512;
const DEPTHS: [usize; 2] = [0, 2048];

/// Measures how fast a model runs here, beside what this machine can do at most: how fast it reads memory, which bounds
/// decoding, and how many int8 products it makes, which bounds prefill. Both are measured again before each repetition.
#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,

    /// Sizes of the prompts to read into an empty cache [default: 512, or the context if that is less]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = at_least_one)]
    prefill: Vec<usize>,

    /// Tokens to write at each depth, greedily
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    decode: usize,

    /// Tokens that are in the cache before [default: 0,2048, as far as the context goes]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    depth: Vec<usize>,

    /// Numbers of texts to write at once, too, --decode tokens of each
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = at_least_one)]
    batch: Vec<usize>,

    /// Bytes a second that the device's memory gives, where it is not the processor's: shares are of that
    #[arg(long, value_name = "BYTES", value_parser = positive)]
    bandwidth: Option<f64>,

    /// Products a second (one multiplication and one addition each) that the device's matrix units make
    #[arg(long, value_name = "MACS", value_parser = positive)]
    peak: Option<f64>,

    /// How often each is measured
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    reps: usize,

    /// How often each is run before it is measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Measure nothing: compare what --json has printed into files, all with the first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[arg(conflicts_with_all = ["json", "prefill", "decode", "depth", "batch", "reps", "warmup"])]
    compare: Option<Vec<PathBuf>>,

    /// Draw decode speed over depth into an .svg or .png file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Replace that file if it is there
    #[arg(long, requires = "plot")]
    overwrite: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        Ok(_) => Err("a number above zero is needed".to_string()),
        Err(error) => Err(format!("{error}")),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_string()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

impl Bench {
    pub fn run(self) -> Result<(), CliError> {
        let plot = self.plot.as_deref().map(|file| Plot::new(file, self.overwrite)).transpose()?;
        let lines = if let Some(files) = &self.compare {
            let reports = files.iter().map(|file| Report::read(file)).collect::<Result<Vec<_>, _>>()?;
            let names = names(files);
            write!(stdout(), "{}", compare::table(&names, &reports))?;
            names.into_iter().zip(reports).collect()
        } else {
            let report = self.measure()?;
            let text = if self.json { report.to_json() + "\n" } else { report.to_text() };
            write!(stdout(), "{text}")?;
            vec![(report.title(), report)]
        };
        plot.map_or(Ok(()), |plot| plot.write(&lines))
    }

    fn measure(&self) -> Result<Report, CliError> {
        let checkpoint = self.model.open()?;
        let device = device(&self.model.device).map_err(ModelError::from).map_err(bitnet::Error::from)?;
        let plan = self.plan(checkpoint.config().context_length, is_processor(&device))?;
        let loaded = self.model.load()?;
        let isa = Isa::active();
        let options = self.model.session(&loaded, None)?;
        let measured = measure::run(loaded.language_model(), &plan, options, isa)?;
        let order = match self.model.weights {
            WeightBits::Two => weight_order(&device),
            WeightBits::OnePointSix => WeightOrder::DenseTiles,
        };
        let work = Work::of(&checkpoint, order, options.cache);

        let prefill = |(tokens, series): &(usize, Series)| Prefill {
            tokens: *tokens,
            speed: Speed::of(&series.speeds),
            int8_peak_share: series.share(work.products_per_token() as f64),
        };
        let decode = |(depth, series): &(usize, Series)| {
            // On average half of the tokens that are written are in the cache too.
            let head_bytes_per_token = series.head.bytes_per_token(work.head_bytes());
            let bytes_per_token = work.bytes_per_token(depth + plan.decode / 2, head_bytes_per_token);
            Decode {
                depth: *depth,
                tokens: plan.decode,
                speed: Speed::of(&series.speeds),
                bandwidth_share: series.share(bytes_per_token as f64),
                bytes_per_token,
                head_bytes_per_token,
                head_read_whole: series.head.full as f64 / (series.head.searched + series.head.full).max(1) as f64,
            }
        };
        let batch = |(sequences, series): &(usize, Series)| {
            // All of the head is read, once for all of them.
            let weights = work.bytes_per_token(0, work.head_bytes());
            let each = work.bytes_per_token(plan.decode / 2, work.head_bytes()) - weights;
            let bytes_per_step = weights + *sequences as u64 * each;
            Batch {
                sequences: *sequences,
                tokens: plan.decode,
                speed: Speed::of(&series.speeds),
                bandwidth_share: series.share(bytes_per_step as f64 / *sequences as f64),
                bytes_per_step,
            }
        };
        let limit = |series: &[(usize, Series)]| {
            let all: Vec<_> = series.iter().flat_map(|(_, series)| &series.limits).copied().collect();
            (!all.is_empty()).then(|| median(&all))
        };
        Ok(Report {
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: option_env!("BITNET_COMMIT").map(str::to_string),
            model: self.model.model.clone(),
            model_hash: identity::model_hash(&checkpoint)?,
            device: self.model.device.clone(),
            isa: isa.name().to_string(),
            threads: pool::threads(),
            weights: weights(order).to_string(),
            cache: options.cache.to_string(),
            head: options.head.to_string(),
            repetitions: plan.reps,
            load_seconds: loaded.load_time().as_secs_f64(),
            peak_bytes: measured.peak_bytes,
            bandwidth_bytes_per_second: limit(&measured.decode),
            int8_peak_macs_per_second: limit(&measured.prefill),
            prefill: measured.prefill.iter().map(prefill).collect(),
            decode: measured.decode.iter().map(decode).collect(),
            batch: measured.batch.iter().map(batch).collect(),
        })
    }

    /// What to run on a model of this context.
    fn plan(&self, context: usize, is_processor: bool) -> Result<Plan, CliError> {
        let too_long = |flag: &str, tokens: usize, most: usize, with: String| {
            Err(CliError::Usage(format!("{flag} {tokens}{with}: this model can have at most {most} tokens")))
        };
        let mut prefill = self.prefill.clone();
        if prefill.is_empty() {
            prefill.push(PREFILL.min(context));
        }
        if let Some(tokens) = prefill.iter().find(|tokens| **tokens > context) {
            return too_long("--prefill", *tokens, context, String::new());
        }
        let Some(deepest) = context.checked_sub(self.decode) else {
            return too_long("--decode", self.decode, context, String::new());
        };
        let mut depths = self.depth.clone();
        if depths.is_empty() {
            depths.extend(DEPTHS.map(|depth| depth.min(deepest)));
        }
        // In this order a cache need never be filled again; what is asked for twice is measured once.
        depths.sort_unstable();
        depths.dedup();
        if let Some(depth) = depths.last().filter(|depth| **depth > deepest) {
            return too_long("--depth", *depth, context, format!(" with --decode {}", self.decode));
        }
        let limits = match (self.bandwidth, self.peak) {
            (None, None) if is_processor => Limits::Measured,
            (bandwidth, peak) => Limits::Known { bandwidth, peak },
        };
        let batches = self.batch.clone();
        Ok(Plan { prefill, depths, decode: self.decode, batches, limits, reps: self.reps, warmup: self.warmup })
    }
}

/// How the ternary weights lie in memory.
fn weights(order: WeightOrder) -> &'static str {
    match order {
        WeightOrder::Rows => "2 bits, row by row",
        WeightOrder::Tiles => "2 bits, tiles of 16 rows",
        WeightOrder::DenseTiles => "1.6 bits, tiles of 16 rows",
    }
}

/// What to call the files: their names without folder and ending, where that tells them apart.
fn names(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &PathBuf| file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let stems: Vec<String> = files.iter().map(stem).collect();
    if stems.iter().collect::<HashSet<_>>().len() == stems.len() {
        return stems;
    }
    files.iter().map(|file| file.display().to_string()).collect()
}
