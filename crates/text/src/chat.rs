//! Chat templates: Jinja text that a checkpoint carries, rendered as Hugging Face renders it.

use std::{fmt, str::FromStr, sync::Arc};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TextError;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool the model called.
    Tool,
}

impl Role {
    /// The name that templates know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = TextError;

    fn from_str(role: &str) -> Result<Self, TextError> {
        let all = [Self::System, Self::User, Self::Assistant, Self::Tool];
        let found = all.into_iter().find(|r| r.as_str() == role);
        found.ok_or_else(|| TextError::UnknownRole { role: role.to_owned() })
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Where a template came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateOrigin {
    /// From the checkpoint's own files.
    Checkpoint,
    /// Built in, for BitNet b1.58 2B-4T's GGUF files: they carry a placeholder, or nothing.
    BuiltIn,
}

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
    bos: Option<String>,
    eos: Option<String>,
    origin: TemplateOrigin,
}

const NAME: &str = "chat";

/// Work that one rendering may do: about one unit an instruction and one for 64 bytes. A long conversation takes
/// thousands; a template is a stranger's program and must end.
const FUEL: u64 = 20_000_000;

/// The format BitNet b1.58 2B-4T was tuned on.
const BITNET_2B4T: &str = "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}";

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the spellings it may refer to as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line of a syntax error.
    pub fn new(source: impl Into<String>, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TextError> {
        Self::with_origin(source, bos, eos, TemplateOrigin::Checkpoint)
    }

    pub(crate) fn with_origin(
        source: impl Into<String>,
        bos: Option<&str>,
        eos: Option<&str>,
        origin: TemplateOrigin,
    ) -> Result<Self, TextError> {
        let source = source.into();
        let mut environment = environment();
        environment.add_template_owned(NAME, source.clone()).map_err(|e| template_error(&e))?;
        Ok(Self {
            source: source.into(),
            environment: Arc::new(environment),
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            origin,
        })
    }

    /// The Jinja text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it came from.
    pub fn origin(&self) -> TemplateOrigin {
        self.origin
    }

    /// The prompt text of a conversation; with `add_generation_prompt`, up to where the assistant's reply begins.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line that failed and why: something undefined, an exception the template
    /// raises (many refuse some orders of roles), or too much work.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).map_err(|e| template_error(&e))?;
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let conversation: Vec<minijinja::Value> = messages.iter().map(message).collect();
        let context = context! {
            messages => conversation,
            add_generation_prompt,
            bos_token => self.bos.as_deref().unwrap_or_default(),
            eos_token => self.eos.as_deref().unwrap_or_default(),
            tools => minijinja::Value::from(()),
            documents => minijinja::Value::from(()),
        };
        template.render(context).map_err(|e| template_error(&e))
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Jinja as `transformers` sets it up for chat templates.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    // Both settings are constants that the builder accepts, so the default never comes into it.
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_debug(true);
    env.set_fuel(Some(FUEL));
    env.add_function("raise_exception", |message: String| -> Result<minijinja::Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", to_json);
    env
}

/// The local time, as Python's `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}

/// JSON as Python writes it: not escaped for HTML, a space after `,` and `:`.
fn to_json(value: minijinja::Value, options: minijinja::value::Kwargs) -> Result<String, minijinja::Error> {
    let invalid = |e: &dyn fmt::Display| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut text = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, pretty)).map_err(|e| invalid(&e))?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)).map_err(|e| invalid(&e))?
        }
    }
    String::from_utf8(text).map_err(|e| invalid(&e))
}

/// One line, a space after every separator.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

fn template_error(error: &minijinja::Error) -> TextError {
    let mut reason =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    // What failed is clearest in the template's own words.
    if let (Some(source), Some(range)) = (error.template_source(), error.range())
        && let Some(expression) = source.get(range).filter(|e| !e.trim().is_empty() && e.len() <= 120)
    {
        reason.push_str(&format!(" (at {:?})", expression.trim()));
    }
    TextError::Template { line: error.line(), reason }
}

/// The template of a GGUF file, or the real one where the file is known to carry a placeholder or nothing.
///
/// The official 2B-4T file's own template says "BITNETAssistant"; it is not what the model was tuned on.
pub(crate) fn for_gguf(own: Option<&str>, architecture: &str, vocab: usize) -> Option<(String, TemplateOrigin)> {
    const LLAMA3_VOCAB: usize = 128_256;
    let is_bitnet = matches!(architecture, "bitnet-b1.58" | "bitnet-25" | "bitnet");
    match own.filter(|own| !own.trim().is_empty()) {
        Some(own) if is_bitnet && own.contains("BITNETAssistant") => {
            Some((BITNET_2B4T.into(), TemplateOrigin::BuiltIn))
        }
        Some(own) => Some((own.into(), TemplateOrigin::Checkpoint)),
        None if is_bitnet && vocab == LLAMA3_VOCAB => Some((BITNET_2B4T.into(), TemplateOrigin::BuiltIn)),
        None => None,
    }
}

/// `chat_template` of `tokenizer_config.json`: a string, or a list of named ones of which `default` is taken.
pub(crate) fn from_config(value: &Value) -> Result<Option<String>, TextError> {
    let none = |reason: String| TextError::Template { line: None, reason };
    match value {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(list) => {
            let default = list.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => {
                    let names: Vec<_> = list.iter().filter_map(|entry| entry["name"].as_str()).collect();
                    Err(none(format!("none of the templates ({}) is named default", names.join(", "))))
                }
            }
        }
        _ => Err(none("chat_template in tokenizer_config.json is neither text nor a list".into())),
    }
}
