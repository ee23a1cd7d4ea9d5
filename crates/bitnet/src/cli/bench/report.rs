//! What was measured, as JSON and as text.

use std::fmt::Write;
use std::path::Path;

use indicatif::DecimalBytes;
use serde::{Deserialize, Serialize};

use super::CliError;
use crate::cli::note::spelled_out;

/// One run of `bitnet bench`.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Of the program.
    pub version: String,
    /// The commit that was checked out when the program was built.
    pub commit: Option<String>,
    /// As the user named it.
    pub model: String,
    /// See [`super::identity::model_hash`].
    pub model_hash: String,
    /// As `--device` names it.
    pub device: String,
    /// Instruction set of the kernels.
    pub isa: String,
    pub threads: usize,
    /// How the ternary weights lie in memory.
    pub weights: String,
    /// How keys and values are stored, as `--cache` names it.
    pub cache: String,
    /// How the head is read, as `--head` names it.
    #[serde(default)]
    pub head: String,
    pub repetitions: usize,
    pub load_seconds: f64,
    /// The most memory that the process took; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// Plain reading by all threads, the median over the run, or what `--bandwidth` says of a device; `None` where neither
    /// is known.
    pub bandwidth_bytes_per_second: Option<f64>,
    /// Products in registers by all threads, the median over the run, or what `--peak` says.
    pub int8_peak_macs_per_second: Option<f64>,
    pub prefill: Vec<Prefill>,
    pub decode: Vec<Decode>,
    /// Several texts at once.
    #[serde(default)]
    pub batch: Vec<Batch>,
}

/// A prompt read into an empty cache.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Prefill {
    pub tokens: usize,
    #[serde(flatten)]
    pub speed: Speed,
    /// Products of the ternary linears, as a share of what the machine made just before.
    pub int8_peak_share: Option<f64>,
}

/// Tokens written after `depth` others.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Decode {
    pub depth: usize,
    pub tokens: usize,
    #[serde(flatten)]
    pub speed: Speed,
    /// Bytes that must be read, as a share of what the machine read just before.
    pub bandwidth_share: Option<f64>,
    pub bytes_per_token: u64,
    /// Those of them that are of the head, on average.
    #[serde(default)]
    pub head_bytes_per_token: u64,
    /// Share of the tokens for which the whole head was read.
    #[serde(default)]
    pub head_read_whole: f64,
}

/// Tokens written of several texts at once, each with an empty cache before.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Batch {
    pub sequences: usize,
    /// Of each text.
    pub tokens: usize,
    /// Of all texts together.
    #[serde(flatten)]
    pub speed: Speed,
    /// Bytes that must be read, the weights once for a token of every text, as a share of what the machine read just before.
    pub bandwidth_share: Option<f64>,
    /// For one token of every text.
    pub bytes_per_step: u64,
}

/// Tokens a second over the repetitions.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Speed {
    /// The median.
    pub tokens_per_second: f64,
    pub min: f64,
    pub max: f64,
}

impl Speed {
    pub fn of(speeds: &[f64]) -> Self {
        Self {
            tokens_per_second: median(speeds),
            min: speeds.iter().copied().fold(f64::INFINITY, f64::min),
            max: speeds.iter().copied().fold(0.0, f64::max),
        }
    }
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => 0.0,
    }
}

impl Report {
    /// What `--json` has printed into a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| CliError::Read { path: path.to_path_buf(), error })?;
        serde_json::from_str(&text).map_err(|error| {
            CliError::Usage(format!("{}: not the output of bitnet bench --json: {error}", path.display()))
        })
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names and numbers are JSON")
    }

    /// Model, instruction set and threads in a few words.
    pub fn title(&self) -> String {
        let threads = if self.threads == 1 { "thread" } else { "threads" };
        let name = Path::new(&self.model).file_name().map_or(self.model.as_str().into(), |name| name.to_string_lossy());
        format!("{name}, {}, {} {threads}", self.isa, self.threads)
    }

    /// The commit, if it is known.
    pub fn commit(&self) -> &str {
        self.commit.as_deref().unwrap_or("unknown")
    }

    /// The beginning of the model's hash.
    pub fn short_hash(&self) -> &str {
        self.model_hash.get(..12).unwrap_or(&self.model_hash)
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{}", spelled_out(&line)).expect("a string takes all");
        line(format!("bitnet {}, commit {}: {} on {}", self.version, self.commit(), self.title(), self.device));
        let model = self.short_hash();
        line(format!("model {model}, weights in {}, cache in {}, head {}", self.weights, self.cache, self.head));
        let reads = self.bandwidth_bytes_per_second.map(|bytes| format!("reads {}/s", DecimalBytes(bytes as u64)));
        let makes = self.int8_peak_macs_per_second.map(|macs| format!("makes {:.1} G int8 products/s", macs / 1e9));
        match reads.into_iter().chain(makes).collect::<Vec<_>>() {
            known if known.is_empty() => line("machine: limits not known, see --bandwidth and --peak".to_string()),
            known => line(format!("machine: {}", known.join(", "))),
        }
        let peak = self.peak_bytes.map_or("unknown".to_string(), |bytes| DecimalBytes(bytes).to_string());
        line(format!("load {:.3} s, peak memory {peak}", self.load_seconds));
        line(String::new());
        line(format!("{:24}{:>10}  (min to max of {})", "", "tokens/s", self.repetitions));
        for run in &self.prefill {
            line(format!(
                "{:24}{}{}",
                format!("prefill {}", run.tokens),
                run.speed.to_text(),
                share(run.int8_peak_share, "int8 peak")
            ));
        }
        for run in &self.decode {
            line(format!(
                "{:24}{}{}, {} a token, {} of them the head, whole for {:.0} %",
                format!("decode {} after {}", run.tokens, run.depth),
                run.speed.to_text(),
                share(run.bandwidth_share, "bandwidth"),
                DecimalBytes(run.bytes_per_token),
                DecimalBytes(run.head_bytes_per_token),
                100.0 * run.head_read_whole,
            ));
        }
        for run in &self.batch {
            line(format!(
                "{:24}{}{}  {} a step",
                format!("decode {} of {} texts", run.tokens, run.sequences),
                run.speed.to_text(),
                share(run.bandwidth_share, "bandwidth"),
                DecimalBytes(run.bytes_per_step),
            ));
        }
        text
    }
}

fn share(share: Option<f64>, of: &str) -> String {
    share.map_or_else(String::new, |share| format!("  {:4.1} % of the {of}", 100.0 * share))
}

impl Speed {
    fn to_text(self) -> String {
        let spread = format!("({:.2} to {:.2})", self.min, self.max);
        format!("{:>10.2}  {spread:22}", self.tokens_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
