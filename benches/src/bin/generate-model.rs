//! Writes a model file of a real shape with random weights, for benchmarks.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use std::{fs, io};

use bitnet_benches::generate::{
    self, Architecture, Embedding, Format, GenerateError, RandomModel, Shape, Storage, Vocabulary,
};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

/// Write a model file of a real shape with random weights.
///
/// The same shape, vocabulary and seed give the same model, whatever it is stored as.
#[derive(Parser)]
#[command(name = "generate-model")]
struct Args {
    /// Sizes of the model: of microsoft/bitnet-b1.58-2B-4T, or of 2 layers 256 wide for trying things out
    #[arg(long, value_enum, default_value = "2b4t")]
    shape: ShapeName,
    /// How to store it
    #[arg(long, value_enum, default_value = "i2_s")]
    format: Format,
    /// How to store the embedding [default: f16 in GGUF, bf16 in a Hugging Face folder]
    #[arg(long, value_enum)]
    embedding: Option<Embedding>,
    /// What a GGUF file says the model is: llama.cpp only knows the older name
    #[arg(long, value_enum, default_value = "bitnet-b1.58")]
    architecture: Architecture,
    /// Tokens: 128,256 as 2B-4T has, or 2,048 [default: real-size for 2b4t, small for tiny]
    #[arg(long, value_enum)]
    vocab: Option<VocabularySize>,
    /// Number of layers instead of the shape's
    #[arg(long, value_name = "N")]
    layers: Option<NonZeroU16>,
    /// Which of the random models
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Replace OUT: any file, but only a folder that holds a generated model and nothing else
    #[arg(long)]
    overwrite: bool,
    /// The .gguf file, or for hf-packed the folder, to write
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeName {
    #[value(name = "2b4t")]
    Bitnet2b4t,
    Tiny,
}

#[derive(Clone, Copy, ValueEnum)]
enum VocabularySize {
    RealSize,
    Small,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<String, GenerateError> {
    let started = Instant::now();
    let (mut shape, usual_vocab) = match args.shape {
        ShapeName::Bitnet2b4t => (Shape::BITNET_2B4T, VocabularySize::RealSize),
        ShapeName::Tiny => (Shape::TINY, VocabularySize::Small),
    };
    if let Some(layers) = args.layers {
        shape.layers = layers.get().into();
    }
    let vocabulary = match args.vocab.unwrap_or(usual_vocab) {
        VocabularySize::RealSize => Vocabulary::real_size(),
        VocabularySize::Small => Vocabulary::small(),
    };
    let usual = Storage::from(args.format);
    let storage =
        Storage { embedding: args.embedding.unwrap_or(usual.embedding), architecture: args.architecture, ..usual };
    let model = RandomModel { shape, vocabulary, seed: args.seed };

    let style = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} weights, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(model.parameters()).with_style(style);
    let written = generate::write_model(&model, storage, &args.out, args.overwrite, &mut |weights| bar.inc(weights));
    bar.finish_and_clear();
    written?;

    let bytes = size(&args.out).map_err(|source| GenerateError::Io { path: args.out.clone(), source })?;
    Ok(format!(
        "{}: {bytes} bytes, {} weights in {} tensors, {} tokens, {} merges, in {:.1} s",
        args.out.display(),
        model.parameters(),
        model.tensors().len(),
        model.vocabulary.size(),
        model.vocabulary.merges().len(),
        started.elapsed().as_secs_f64()
    ))
}

/// Bytes of a file, or of all files of a folder.
fn size(path: &Path) -> io::Result<u64> {
    if path.is_dir() {
        fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
    } else {
        Ok(path.metadata()?.len())
    }
}
