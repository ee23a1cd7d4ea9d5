//! The command line.

mod chat;
mod downloads;
mod error;
mod generate;
mod inspect;
mod model_args;
mod sampling_args;
mod score;
mod small;

use clap::{Parser, Subcommand};

pub use error::CliError;

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
    /// Show what a model file holds
    Inspect(inspect::Inspect),
    /// Show the token ids of a text
    Tokenize(small::Tokenize),
    /// List the devices of this build
    Devices(small::Devices),
    /// Print a completion script for a shell
    Completions(small::Completions),
}

/// Reads the arguments and does what they say.
pub fn run() -> Result<(), CliError> {
    match Cli::parse().command {
        Command::Generate(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Tokenize(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Completions(command) => command.run::<Cli>(),
    }
}
