//! `bitnet score`.

use std::io::{Read, Write, stdin, stdout};
use std::path::PathBuf;

use bitnet::engine::score;
use bitnet::{WindowStart, Windows};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;
use super::model_args::ModelArgs;

/// Cuts the text into consecutive windows and lets the model predict each token from those before it in its window.
#[derive(Args)]
pub struct Score {
    /// The text; - is stdin
    file: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Tokens in a window [default: 512, or the model's context if that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    window: Option<u32>,

    /// Begin the text and every window with the beginning-of-text token, as llama.cpp's perplexity tool does
    #[arg(long)]
    bos: bool,

    /// Positions at the beginning of each window that are not scored
    #[arg(long, value_name = "K", default_value_t = 0)]
    skip: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Score {
    pub fn run(self) -> Result<(), CliError> {
        let text = self.text()?;
        let model = self.model.load()?;
        let model = model.language_model();
        let tokenizer = model.tokenizer();
        let mut ids = tokenizer.encode_plain(&text, false)?;
        let start = if self.bos {
            let bos = tokenizer.bos();
            let bos = bos.ok_or_else(|| CliError::Usage("--bos: this model has no beginning-of-text token".into()))?;
            ids.insert(0, bos);
            WindowStart::Bos(bos)
        } else {
            WindowStart::Text
        };
        let context = model.transformer().config().context_length;
        let size = self.window.map_or(context.min(512), |window| window as usize);
        if size > context {
            return Err(CliError::Usage(format!("--window {size}: the model's context is {context} tokens")));
        }
        let bar = ProgressBar::new(0).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} tokens, {eta} left").expect("a correct template"),
        );
        let score = score(model, &ids, Windows { size, skip: self.skip, start }, |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        let (loss, perplexity) = (score.loss(), score.perplexity());
        if self.json {
            let json = serde_json::json!({
                "tokens": score.tokens, "nll": score.nll, "loss": loss, "perplexity": perplexity, "window": size,
            });
            writeln!(stdout(), "{json}")?;
        } else {
            writeln!(stdout(), "{} tokens, loss {loss:.4} nats, perplexity {perplexity:.4}", score.tokens)?;
        }
        Ok(())
    }

    fn text(&self) -> Result<String, CliError> {
        let bytes = if self.file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            std::fs::read(&self.file)
        };
        let bytes = bytes.map_err(|error| CliError::Read { path: self.file.clone(), error })?;
        String::from_utf8(bytes).map_err(|error| {
            CliError::Usage(format!("{}: not UTF-8 text: {}", self.file.display(), error.utf8_error()))
        })
    }
}
