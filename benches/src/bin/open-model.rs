//! How long it takes to open a model, part by part.

use std::path::PathBuf;
use std::time::Instant;

use bitnet::engine::{LanguageModel, tokenizer_of};
use bitnet::model::DeviceKind;
use clap::Parser;

/// Time the parts of opening a model. Run it twice: the first run may wait for the disk.
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
    let device = bitnet::model::device(DeviceKind::default_name()).map_err(bitnet::model::ModelError::from)?;
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

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
