//! `bitnet tokenizer`.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use bitnet::text::MakeProgress;
use bitnet::training::data::Source;
use bitnet::training::tokenizer::TokenizerFiles;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, note};

#[derive(Args)]
pub struct TokenizerCommand {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// Learn a byte-level BPE vocabulary from text
    Train(Train),
    /// A vocabulary of the 256 bytes
    Bytes(Bytes),
}

#[derive(Args)]
struct Train {
    /// Text (.txt, .md), conversations or texts (.jsonl, .parquet), or folders of them
    #[arg(required = true)]
    data: Vec<PathBuf>,

    /// Tokens, the bytes and the special ones included
    #[arg(long, value_name = "N", default_value_t = 4096)]
    vocab: usize,

    /// What stands between the documents of a text file, such as "<|endoftext|>"
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,

    #[command(flatten)]
    out: Out,
}

#[derive(Args)]
struct Bytes {
    #[command(flatten)]
    out: Out,
}

#[derive(Args)]
struct Out {
    /// Folder of the tokenizer's files
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,

    /// Add the markers and the template of conversations
    #[arg(long)]
    chat: bool,

    /// Replace a tokenizer that is in the folder
    #[arg(long)]
    overwrite: bool,
}

impl TokenizerCommand {
    pub fn run(self) -> Result<(), CliError> {
        match self.kind {
            Kind::Train(train) => {
                train.out.check()?;
                let source = Source { paths: train.data, separator: train.separator };
                let files = with_bar(|progress| TokenizerFiles::train(&source, train.vocab, train.out.chat, progress))?;
                let size = files.tokenizer.vocab_size();
                if size < train.vocab {
                    note(format_args!("the text has pairs for no more than {size} tokens"));
                }
                train.out.write(&files)
            }
            Kind::Bytes(bytes) => {
                bytes.out.check()?;
                bytes.out.write(&TokenizerFiles::bytes(bytes.out.chat)?)
            }
        }
    }
}

impl Out {
    /// Refuses a folder that has a tokenizer, before anything is learned.
    fn check(&self) -> Result<(), CliError> {
        let there = Path::new(&self.out).join("tokenizer.json");
        if !self.overwrite && there.exists() {
            return Err(CliError::Usage(format!("{} exists; --overwrite replaces it", there.display())));
        }
        Ok(())
    }

    fn write(&self, files: &TokenizerFiles) -> Result<(), CliError> {
        files.write(&self.out)?;
        writeln!(stdout(), "{}: {} tokens", self.out.display(), files.tokenizer.vocab_size())?;
        Ok(())
    }
}

/// Shows how far the learning is.
fn with_bar<T, E>(work: impl FnOnce(&mut (dyn FnMut(MakeProgress) + Send)) -> Result<T, E>) -> Result<T, E> {
    let bar = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}").expect("a correct template"));
    let made = work(&mut |progress| match progress {
        MakeProgress::Reading { bytes } => bar.set_message(format!("reading, {:.1} MB", bytes as f64 / 1e6)),
        MakeProgress::Merging { words } => bar.set_message(format!("learning merges of {words} words")),
    });
    bar.finish_and_clear();
    made
}
