//! Writes the inputs that fuzzing begins with into a folder for each target, beside what earlier runs left there:
//! `cargo run --release --example seeds [FOLDER]`, by default `corpus`.

use std::path::PathBuf;
use std::{env, fs, io};

// With its runtime, which what is compiled for fuzzing refers to.
use libfuzzer_sys as _;

fn main() -> io::Result<()> {
    let corpus = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "corpus".into()));
    for (target, seeds) in bitnet_fuzz::SEEDS {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        let seeds = seeds();
        for (name, bytes) in &seeds {
            fs::write(folder.join(name), bytes)?;
        }
        println!("{target}: {} inputs, {} bytes", seeds.len(), seeds.iter().map(|(_, b)| b.len()).sum::<usize>());
    }
    Ok(())
}
