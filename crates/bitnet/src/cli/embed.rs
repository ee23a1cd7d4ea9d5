//! `bitnet embed`.

use std::io::{IsTerminal, Read, Write, stderr, stdin, stdout};
use std::path::PathBuf;

use bitnet::engine::{Embedding, EmbeddingOptions, Prompt};
use bitnet::format::Pooling;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::CliError;
use super::model_args::ModelArgs;

/// Values of a vector that are shown to people.
const SHOWN: usize = 6;

/// Texts whose similarities are shown to people.
const COMPARED: usize = 12;

/// Pooling, normalization and the token that ends a text are those that the checkpoint names.
#[derive(Args)]
pub struct Embed {
    /// The texts; without them and without --file, the lines of stdin
    #[arg(conflicts_with = "file")]
    texts: Vec<String>,

    /// A file with a text on each line; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    /// Which hidden states make the vector: last or mean. Needed for a model that is not one for embeddings
    #[arg(long, value_name = "HOW")]
    pooling: Option<Pooling>,

    /// Leave the vectors as long as they are
    #[arg(long)]
    no_normalize: bool,

    /// Put this before each text, such as the instruction of a search query
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_name")]
    prompt: Option<String>,

    /// Put before each text what the model has under this name, such as query
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,

    /// Cut texts that are longer than the model's context
    #[arg(long)]
    truncate: bool,

    /// Print one JSON object a line: index, tokens, embedding
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    tokens: usize,
    embedding: &'a [f32],
}

impl Embed {
    pub fn run(self) -> Result<(), CliError> {
        let texts = self.texts()?;
        let model = self.model.load()?;
        let prompt = match (&self.prompt, &self.prompt_name) {
            (Some(text), _) => Prompt::Text(text.clone()),
            (None, Some(name)) => Prompt::Named(name.clone()),
            (None, None) => Prompt::Default,
        };
        let options = EmbeddingOptions {
            pooling: self.pooling,
            normalize: self.no_normalize.then_some(false),
            prompt,
            truncate: self.truncate,
        };
        let embedder = model.language_model().embedder(&options).map_err(|error| match error {
            bitnet::Error::NoEmbedding(reason) => {
                CliError::Usage(format!("{}: {reason} (--pooling last|mean)", self.model.model))
            }
            other => other.into(),
        })?;
        if embedder.is_guess() {
            super::note(format_args!(
                "warning: {} does not say how it pools: taking the last token's state (--pooling says otherwise)",
                self.model.model
            ));
        }
        let ids = texts.iter().enumerate().map(|(index, text)| embedder.tokens(index, text));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let bar = ProgressBar::new(ids.len() as u64).with_style(
            ProgressStyle::with_template("{bar:40} {pos}/{len} texts, {eta} left").expect("a correct template"),
        );
        let embeddings = embedder.embed_ids(&ids, |done, _| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        let mut out = stdout().lock();
        if self.json {
            for (index, Embedding { values, tokens }) in embeddings.iter().enumerate() {
                let line = Line { index, tokens: *tokens, embedding: values };
                serde_json::to_writer(&mut out, &line).map_err(std::io::Error::from)?;
                writeln!(out)?;
            }
            return Ok(());
        }
        for (text, Embedding { values, tokens }) in texts.iter().zip(&embeddings) {
            let shown: Vec<String> = values.iter().take(SHOWN).map(|value| format!("{value:8.4}")).collect();
            let more = if values.len() > SHOWN { " .." } else { "" };
            writeln!(out, "{}{more}  {} values, {tokens} tokens: {text:?}", shown.join(" "), values.len())?;
        }
        if (2..=COMPARED).contains(&embeddings.len()) {
            writeln!(out, "\ncosine similarities")?;
            for a in &embeddings {
                let row: Vec<String> =
                    embeddings.iter().map(|b| format!("{:7.4}", cosine(&a.values, &b.values))).collect();
                writeln!(out, "{}", row.join(" "))?;
            }
        }
        if self.model.verbose || stderr().is_terminal() {
            super::note(format_args!("[{} texts, pooling {}]", texts.len(), embedder.pooling()));
        }
        Ok(())
    }

    fn texts(&self) -> Result<Vec<String>, CliError> {
        let path = match (&self.file, self.texts.is_empty()) {
            (Some(path), _) => path.clone(),
            (None, false) => return Ok(self.texts.clone()),
            (None, true) if stdin().is_terminal() => {
                return Err(CliError::Usage("no text: give some as arguments, with --file or on stdin".to_string()));
            }
            (None, true) => PathBuf::from("-"),
        };
        let bytes = if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else {
            std::fs::read(&path)
        };
        let bytes = bytes.map_err(|error| CliError::Read { path: path.clone(), error })?;
        let text = String::from_utf8(bytes)
            .map_err(|error| CliError::Usage(format!("{}: not UTF-8 text: {}", path.display(), error.utf8_error())))?;
        let texts: Vec<String> = text.lines().map(str::to_string).collect();
        if texts.is_empty() {
            return Err(CliError::Usage(format!("{}: no text in it", path.display())));
        }
        Ok(texts)
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}
