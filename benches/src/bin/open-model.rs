//! How long it takes to open a model, part by part, and how much memory it takes to run it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnet::GenerationConfig;
use bitnet::engine::{LanguageModel, tokenizer_of};
use bitnet::model::DeviceKind;
use clap::Parser;

/// Time the parts of opening a model, and let it write 16 tokens. The first run may wait for the disk.
#[derive(Parser)]
struct Arguments {
    /// A model folder or file
    model: PathBuf,
    /// How often
    #[arg(short = 'n', long, default_value_t = 5)]
    runs: usize,
}

fn main() -> Result<(), bitnet::Error> {
    let arguments = Arguments::parse();
    let before = peak_memory();
    let device = bitnet::model::device(DeviceKind::default_name()).map_err(bitnet::model::ModelError::from)?;
    write_some(&arguments.model, &device, before)?;
    println!("{:>9} {:>9} {:>9} {:>9}   seconds, {} threads", "map", "tokenizer", "weights", "together", threads());
    for _ in 0..arguments.runs {
        let begin = Instant::now();
        let checkpoint = bitnet::format::open(&arguments.model)?;
        let map = begin.elapsed();

        let begin = Instant::now();
        drop(tokenizer_of(&checkpoint, None)?);
        let tokenizer = begin.elapsed();

        let begin = Instant::now();
        drop(bitnet::model::load(&checkpoint, &device)?);
        let weights = begin.elapsed();
        drop(checkpoint);

        let begin = Instant::now();
        let checkpoint = bitnet::format::open(&arguments.model)?;
        let model = LanguageModel::load(&checkpoint, &device, None)?;
        let together = begin.elapsed();
        drop(model);
        let [map, tokenizer, weights, together] = [map, tokenizer, weights, together].map(|time| time.as_secs_f64());
        println!("{map:9.3} {tokenizer:9.3} {weights:9.3} {together:9.3}");
    }
    Ok(())
}

/// Prints the peak of resident memory after a model was loaded and has written, less what the program took before.
fn write_some(path: &Path, device: &burn::tensor::Device, before: Option<u64>) -> Result<(), bitnet::Error> {
    let checkpoint = bitnet::format::open(path)?;
    let bytes: u64 = checkpoint.source().files.iter().map(|file| file.bytes).sum();
    let model = LanguageModel::load(&checkpoint, device, None)?;
    let config = GenerationConfig { max_new_tokens: 16, temperature: 0.0, ignore_eos: true, ..Default::default() };
    let prompt = model.tokenizer().encode("Call me Ishmael.", true)?;
    let mut session = model.session(None);
    session.generate(&prompt, &config)?.try_for_each(|step| step.map(drop))?;
    if let (Some(before), Some(peak)) = (before, peak_memory()) {
        let peak = peak - before;
        println!("peak memory {peak} bytes, files {bytes} bytes, KV cache {} bytes", session.cache_bytes());
    }
    Ok(())
}

/// The most resident memory that this process has had, in bytes; Linux tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
