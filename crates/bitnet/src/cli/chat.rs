//! `bitnet chat`.

use std::io::{BufRead, ErrorKind, IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bitnet::{BitNetModel, FinishReason, GenerationConfig, Message, Role, Session};
use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::model_args::ModelArgs;
use super::sampling_args::SamplingArgs;
use super::{CliError, note};

const HELP: &str = "\
/reset          forget the conversation
/system [TEXT]  show or set the instructions, and forget the conversation
/help           show this
/exit           leave (also Ctrl-D)
Ctrl-C stops a reply; a second one, the program.";

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
    interrupt: Interrupt,
    figures: bool,
}

/// What Ctrl-C does: the first stops the reply that is being given; without one, or the second time, it ends the program.
#[derive(Clone, Default)]
struct Interrupt {
    replying: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Interrupt {
    fn listen() -> Result<Self, CliError> {
        let interrupt = Self::default();
        let Self { replying, stop } = interrupt.clone();
        ctrlc::set_handler(move || {
            if !replying.load(Ordering::Relaxed) || stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })
        .map_err(|error| CliError::Usage(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    /// Says whether a reply is being given.
    fn set_replying(&self, replying: bool) {
        self.stop.store(false, Ordering::Relaxed);
        self.replying.store(replying, Ordering::Relaxed);
    }

    fn wants_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Chat {
    pub fn run(self) -> Result<(), CliError> {
        let model = self.model.load()?;
        self.model.need_template(&model)?;
        let interrupt = Interrupt::listen()?;
        let mut conversation = Conversation {
            session: model.session(self.model.session(&model, self.context)?),
            model: &model,
            messages: Vec::new(),
            config: self.sampling.config(self.max_tokens.unwrap_or(usize::MAX)),
            interrupt,
            figures: self.model.wants_figures(),
        };
        conversation.reset(self.system.clone());
        if stdin().is_terminal() { on_terminal(conversation, &self.model) } else { from_pipe(conversation) }
    }
}

fn on_terminal(mut conversation: Conversation<'_>, model: &ModelArgs) -> Result<(), CliError> {
    let context = conversation.session.context();
    let load = conversation.model.load_time().as_secs_f64();
    note(format_args!("{}, loaded in {load:.2} s, {context} tokens of context; /help for help", model.model));
    let mut editor = DefaultEditor::new()?;
    let history = history_file();
    if let Some(file) = &history {
        match editor.load_history(file) {
            // There is none before the first conversation.
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => note(format_args!("warning: {}: the history cannot be read: {error}", file.display())),
            Ok(()) => {}
        }
    }
    loop {
        match editor.readline("> ") {
            Ok(line) => {
                editor.add_history_entry(&line)?;
                if !conversation.line(&line)? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => note("(Ctrl-D or /exit to leave)"),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(file) = history
        && let Err(error) = save_history(&mut editor, &file)
    {
        note(format_args!("warning: {}: the history is not saved: {error}", file.display()));
    }
    Ok(())
}

fn save_history(editor: &mut DefaultEditor, file: &Path) -> Result<(), ReadlineError> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    editor.save_history(file)
}

fn from_pipe(mut conversation: Conversation<'_>) -> Result<(), CliError> {
    for line in stdin().lock().lines() {
        let line = line.map_err(|error| CliError::Usage(format!("stdin: {error}")))?;
        if !conversation.line(&line)? {
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
            Line::System(None) => self.system().as_deref().unwrap_or("(no instructions)").lines().for_each(note),
            Line::Help => HELP.lines().for_each(note),
            Line::Exit => return Ok(false),
            Line::Nothing => {}
            Line::Unknown(command) => note(format_args!("unknown command {command}; /help for help")),
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
        self.interrupt.set_replying(true);
        let reply = self.show_reply();
        self.interrupt.set_replying(false);
        match reply {
            Ok(reply) => self.messages.push(Message::new(Role::Assistant, reply)),
            Err(CliError::Model(error @ bitnet::Error::PromptTooLong { .. })) => {
                self.messages.pop();
                note(format_args!("{error}; /reset to begin anew"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn show_reply(&mut self) -> Result<String, CliError> {
        let prompt = self.model.language_model().tokenizer().encode_chat(&self.messages, true)?;
        let mut generation = self.session.generate(&prompt, &self.config)?;
        let (mut reply, mut finish) = (String::new(), None);
        let mut out = stdout().lock();
        for step in &mut generation {
            let step = step?;
            if self.interrupt.wants_stop() {
                break;
            }
            out.write_all(step.text.as_bytes())?;
            out.flush()?;
            reply += &step.text;
            finish = step.finish;
        }
        writeln!(out)?;
        match finish {
            Some(FinishReason::Context) => note("(the context is full; /reset to begin anew)"),
            Some(FinishReason::Length) => note("(--max-tokens reached)"),
            _ => {}
        }
        if self.figures {
            let timing = generation.timing();
            note(format_args!("[{} tokens, {:.1} t/s]", generation.ids().len(), timing.decode_tokens_per_second()));
        }
        Ok(reply)
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
