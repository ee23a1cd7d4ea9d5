//! `bitnet chat`.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet::{BitNetModel, GenerationConfig, Message, Role, Session};
use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::CliError;
use super::model_args::ModelArgs;
use super::sampling_args::SamplingArgs;

const HELP: &str = "\
/reset          forget the conversation
/system [TEXT]  show or set the instructions, and forget the conversation
/help           show this
/exit           leave (also Ctrl-D)
Ctrl-C stops a reply.";

/// On a terminal lines can be edited and are remembered; from a pipe each line is a message.
#[derive(Args)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArgs,

    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// The most tokens of a reply [default: until the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,

    /// The most tokens that the conversation may have [default: the model's context]
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    #[command(flatten)]
    sampling: SamplingArgs,
}

/// What a line asks for.
enum Line {
    Say(String),
    Reset,
    System(Option<String>),
    Help,
    Exit,
    Nothing,
    Unknown(String),
}

struct Conversation<'m> {
    model: &'m BitNetModel,
    session: Session<'m>,
    messages: Vec<Message>,
    config: GenerationConfig,
    stop: Arc<AtomicBool>,
}

impl Chat {
    pub fn run(self) -> Result<(), CliError> {
        let model = self.model.load()?;
        let tokenizer = model.language_model().tokenizer();
        if let Some(error) = tokenizer.chat_template_error() {
            return Err(error.clone().into());
        }
        if tokenizer.chat_template().is_none() {
            let reason = format!("{} has no chat template: use `bitnet generate`", self.model.model);
            return Err(CliError::Usage(reason));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
            .map_err(|error| CliError::Usage(format!("cannot listen for Ctrl-C: {error}")))?;
        let mut conversation = Conversation {
            session: model.session(self.context),
            model: &model,
            messages: Vec::new(),
            config: self.sampling.config(self.max_tokens.unwrap_or(usize::MAX)),
            stop,
        };
        conversation.reset(self.system.clone());
        if stdin().is_terminal() { on_terminal(conversation, &self.model) } else { from_pipe(conversation) }
    }
}

fn on_terminal(mut conversation: Conversation<'_>, model: &ModelArgs) -> Result<(), CliError> {
    eprintln!("{} on {} tokens of context; /help for help", model.model, conversation.session.context());
    let mut editor = DefaultEditor::new()?;
    let history = history_file();
    if let Some(file) = &history {
        // There is none before the first conversation.
        let _ = editor.load_history(file);
    }
    loop {
        match editor.readline("> ") {
            Ok(line) => {
                editor.add_history_entry(&line)?;
                if !conversation.line(&line)? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => eprintln!("(Ctrl-D or /exit to leave)"),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(file) = history
        && let Err(error) = file
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .map_err(ReadlineError::from)
            .and_then(|()| editor.save_history(&file))
    {
        eprintln!("warning: {}: the history is not saved: {error}", file.display());
    }
    Ok(())
}

fn from_pipe(mut conversation: Conversation<'_>) -> Result<(), CliError> {
    for line in stdin().lock().lines() {
        if !conversation.line(&line?)? {
            break;
        }
    }
    Ok(())
}

impl Conversation<'_> {
    /// Does what a line asks for; gives false when it asks to leave.
    fn line(&mut self, line: &str) -> Result<bool, CliError> {
        match Line::parse(line) {
            Line::Say(text) => self.reply(text)?,
            Line::Reset => self.reset(self.system()),
            Line::System(Some(text)) => self.reset(Some(text)),
            Line::System(None) => eprintln!("{}", self.system().as_deref().unwrap_or("(no instructions)")),
            Line::Help => eprintln!("{HELP}"),
            Line::Exit => return Ok(false),
            Line::Nothing => {}
            Line::Unknown(command) => eprintln!("unknown command {command}; /help for help"),
        }
        Ok(true)
    }

    fn system(&self) -> Option<String> {
        self.messages.first().filter(|m| m.role == Role::System).map(|m| m.content.clone())
    }

    fn reset(&mut self, system: Option<String>) {
        self.messages = system.into_iter().map(|text| Message::new(Role::System, text)).collect();
    }

    /// Says `text` and shows the reply; a conversation that does not fit the context is left as it was.
    fn reply(&mut self, text: String) -> Result<(), CliError> {
        self.messages.push(Message::new(Role::User, text));
        let prompt = self.model.language_model().tokenizer().encode_chat(&self.messages, true)?;
        let generation = match self.session.generate(&prompt, &self.config) {
            Ok(generation) => generation,
            Err(error @ bitnet::Error::PromptTooLong { .. }) => {
                self.messages.pop();
                eprintln!("{error}; /reset to begin anew");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.stop.store(false, Ordering::Relaxed);
        let mut reply = String::new();
        let mut out = stdout().lock();
        for step in generation {
            let step = step?;
            out.write_all(step.text.as_bytes())?;
            out.flush()?;
            reply += &step.text;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        writeln!(out)?;
        self.messages.push(Message::new(Role::Assistant, reply));
        Ok(())
    }
}

impl Line {
    fn parse(line: &str) -> Self {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match command {
            "" => Line::Nothing,
            "/reset" => Line::Reset,
            "/system" => Line::System(Some(rest.trim().to_string()).filter(|text| !text.is_empty())),
            "/help" => Line::Help,
            "/exit" | "/quit" => Line::Exit,
            _ if command.starts_with('/') => Line::Unknown(command.to_string()),
            _ => Line::Say(line.to_string()),
        }
    }
}

/// `$XDG_STATE_HOME/bitnet/history`, or that of the user's home.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".local/state"));
    Some(state.or_else(home)?.join("bitnet/history"))
}
