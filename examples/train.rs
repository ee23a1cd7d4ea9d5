//! Trains a tiny ternary language model on a text, and lets it write.
//!
//! `cargo run --release -p bitnet-examples --example train [TEXT]`

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use bitnet::training::data::Source;
use bitnet::training::metrics::ProgressLine;
use bitnet::training::recipe::Size;
use bitnet::training::{Event, Observer, RunOptions, train};
use bitnet::{BitNetModel, GenerationConfig};
use burn::tensor::Device;

/// Prints a line every 50 steps.
#[derive(Default)]
struct Lines(Option<ProgressLine>);

impl Observer for Lines {
    fn event(&mut self, event: Event<'_>) {
        match (event, &mut self.0) {
            (Event::Begin(facts), line) => *line = Some(ProgressLine::new(facts.limits, 50)),
            (Event::Step(record), Some(line)) => line.line(record).iter().for_each(|line| println!("{line}")),
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let text = std::env::args().nth(1).unwrap_or_else(|| readme.to_string());
    let folder = tempfile::tempdir()?;
    let mut recipe = Size::Tiny.recipe();
    recipe.model.layers = 2;
    recipe.run.max_steps = 200;
    recipe.run.validate_every = 100;
    let options = RunOptions {
        source: Source::new(PathBuf::from(text)),
        validation: None,
        one_in: 50,
        out: folder.path().join("run"),
        recipe,
        device: Device::flex(),
        more_devices: Vec::new(),
        resume: false,
        overwrite: false,
        command: "the example `train`".to_string(),
    };
    let outcome = train(&options, &mut Lines::default(), &AtomicBool::new(false))?;
    println!("{} parameters, {:.3} bits a byte\n", outcome.parameters, outcome.bits_per_byte.unwrap_or(f64::NAN));

    let model = BitNetModel::from_pretrained(outcome.model.to_str().ok_or("a path that is UTF-8")?)?;
    let config = GenerationConfig { max_new_tokens: 48, temperature: 0.5, seed: Some(1), ..Default::default() };
    println!("bitnet{}", model.generate("bitnet", &config)?.text);
    Ok(())
}
