//! The command line.

mod bar;
mod bench;
mod cache;
mod chat;
mod check;
mod convert;
#[cfg(feature = "train")]
mod distill;
mod downloads;
mod embed;
mod error;
#[cfg(feature = "train")]
mod export;
#[cfg(feature = "train")]
mod finetune;
mod generate;
mod inspect;
#[cfg(feature = "remote")]
mod lend;
mod model_args;
mod note;
mod repair;
#[cfg(feature = "train")]
mod run;
mod sampling_args;
mod score;
mod small;
mod source_args;
#[cfg(feature = "train")]
mod tokenizer;
#[cfg(feature = "train")]
mod train;

use clap::{Parser, Subcommand};

pub use error::CliError;
pub use note::note;

/// Run 1.58-bit (ternary) language models.
#[derive(Parser)]
#[command(name = "bitnet", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt
    Generate(generate::Generate),
    /// Talk with a model
    Chat(chat::Chat),
    /// Measure the perplexity of a text
    Score(score::Score),
    /// Make vectors of texts
    Embed(embed::Embed),
    /// Measure how fast a model runs, and draw and compare what was measured
    Bench(bench::Bench),
    /// Show what a model file holds
    Inspect(inspect::Inspect),
    /// Write a model in another form
    Convert(convert::Convert),
    /// Write a GGUF file again with right metadata
    Repair(repair::Repair),
    /// Show the token ids of a text
    Tokenize(small::Tokenize),
    /// Train a ternary model on text
    #[cfg(feature = "train")]
    Train(Box<train::Train>),
    /// Train a ternary model further on conversations or text
    #[cfg(feature = "train")]
    Finetune(Box<finetune::Finetune>),
    /// Make a ternary model of a float one, which teaches it
    #[cfg(feature = "train")]
    Distill(Box<distill::Distill>),
    /// Write a model in training as a file that runs
    #[cfg(feature = "train")]
    Export(export::Export),
    /// Make a tokenizer
    #[cfg(feature = "train")]
    Tokenizer(tokenizer::TokenizerCommand),
    /// List the weights that are kept prepared for the next start
    Cache(cache::Cache),
    /// List the devices of this build
    Devices(small::Devices),
    /// Lend devices to other processes
    #[cfg(feature = "remote")]
    Lend(lend::Lend),
    /// Print a completion script for a shell
    Completions(small::Completions),
}

/// The arguments; what is wrong with them is said in one line, as every other error.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        if !error.use_stderr() {
            // Help and version, which were asked for.
            error.exit();
        }
        let text = error.to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let said: Vec<_> =
            lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
        note(said.join(" "));
        std::process::exit(2);
    })
}

/// Reads the arguments and does what they say.
pub fn run() -> Result<(), CliError> {
    match parse().command {
        Command::Generate(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Embed(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Repair(command) => command.run(),
        Command::Tokenize(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Train(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Distill(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Finetune(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Export(command) => command.run(),
        #[cfg(feature = "train")]
        Command::Tokenizer(command) => command.run(),
        Command::Cache(command) => command.run(),
        Command::Devices(command) => command.run(),
        #[cfg(feature = "remote")]
        Command::Lend(command) => command.run(),
        Command::Completions(command) => command.run::<Cli>(),
    }
}
