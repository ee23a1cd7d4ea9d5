//! `bitnet generate`.

use std::io::{IsTerminal, Read, Write, stdin, stdout};

use bitnet::{BitNetModel, Message, Output, Role};
use clap::Args;

use super::model_args::ModelArgs;
use super::sampling_args::SamplingArgs;
use super::{CliError, note};

#[derive(Args)]
pub struct Generate {
    /// The text to continue; read from stdin when it is not given, or is -
    prompt: Option<String>,

    #[command(flatten)]
    model: ModelArgs,

    /// The most tokens to add
    #[arg(short = 'n', long, default_value_t = 256, value_name = "N")]
    max_tokens: usize,

    /// The most tokens that prompt and reply may have together [default: the model's context]
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// Give the prompt as a user's message, in the model's chat template
    #[arg(long)]
    chat: bool,

    /// Instructions before that message
    #[arg(long, requires = "chat", value_name = "TEXT")]
    system: Option<String>,

    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Generate {
    pub fn run(self) -> Result<(), CliError> {
        let prompt = self.prompt()?;
        let model = self.model.load()?;
        let ids = self.ids(&model, &prompt)?;
        let config = self.sampling.config(self.max_tokens);
        let mut out = stdout().lock();
        let mut shown = false;
        let show = |text: &str| {
            if !self.json {
                shown |= !text.is_empty();
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            Ok::<_, CliError>(())
        };
        let options = self.model.session(&model, self.context)?;
        let begin = |ids: &[u32]| model.session(options).into_generation(ids, &config);
        let output = Output::of(ids, begin, show);
        if output.is_err() && shown {
            // The error is a line of its own, below what was written.
            writeln!(stdout())?;
        }
        let output = output?;
        if self.json {
            writeln!(stdout(), "{}", json(&output, &model))?;
        } else {
            writeln!(stdout())?;
        }
        if self.model.wants_figures() {
            note(figures(&output, &model));
        }
        if self.model.verbose {
            let full = model.language_model().transformer().head().bytes() as u64;
            note(format_args!("head {}: {}", options.head, output.timing.head.describe(full)));
        }
        Ok(())
    }

    fn prompt(&self) -> Result<String, CliError> {
        if let Some(prompt) = self.prompt.as_ref().filter(|prompt| *prompt != "-") {
            return Ok(prompt.clone());
        }
        if self.prompt.is_none() && stdin().is_terminal() {
            return Err(CliError::Usage("no prompt: give one as an argument or on stdin".to_string()));
        }
        let mut bytes = Vec::new();
        stdin().read_to_end(&mut bytes)?;
        let text = String::from_utf8(bytes);
        text.map_err(|error| CliError::Usage(format!("the prompt on stdin is not UTF-8: {}", error.utf8_error())))
    }

    fn ids(&self, model: &BitNetModel, prompt: &str) -> Result<Vec<u32>, CliError> {
        if !self.chat {
            return Ok(model.encode(prompt)?);
        }
        if prompt.is_empty() {
            return Err(bitnet::Error::EmptyPrompt.into());
        }
        self.model.need_template(model)?;
        let system = self.system.as_ref().map(|text| Message::new(Role::System, text));
        let messages: Vec<Message> = system.into_iter().chain([Message::new(Role::User, prompt)]).collect();
        Ok(model.language_model().tokenizer().encode_chat(&messages, true)?)
    }
}

fn json(output: &Output, model: &BitNetModel) -> serde_json::Value {
    serde_json::json!({
        "prompt_ids": output.prompt_ids,
        "ids": output.ids,
        "text": output.text,
        "finish_reason": output.finish_reason.as_ref().map(|reason| reason.as_str()),
        "seed": output.seed,
        "load_seconds": model.load_time().as_secs_f64(),
        "prefill_tokens_per_second": output.timing.prefill_tokens_per_second(),
        "decode_tokens_per_second": output.timing.decode_tokens_per_second(),
        "head": { "searched": output.timing.head.searched, "full": output.timing.head.full },
    })
}

/// One line about a generation, for stderr.
fn figures(output: &Output, model: &BitNetModel) -> String {
    format!(
        "[load {:.2} s; prompt {} tokens, {:.1} t/s; text {} tokens, {:.1} t/s; {}; seed {}]",
        model.load_time().as_secs_f64(),
        output.prompt_ids.len(),
        output.timing.prefill_tokens_per_second(),
        output.ids.len(),
        output.timing.decode_tokens_per_second(),
        output.finish_reason.as_ref().map_or("nothing asked for", |reason| reason.as_str()),
        output.seed,
    )
}
