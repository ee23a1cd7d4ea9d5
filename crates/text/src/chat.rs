//! Chat templates: Jinja text that a checkpoint carries, rendered as Hugging Face renders it.

use std::{fmt, str::FromStr, sync::Arc};

use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{TextError, jinja};

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
        let mut environment = jinja::environment();
        environment.add_template_owned(NAME, jinja::without_marks(&source)).map_err(|e| jinja::error(&e))?;
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
        let template = self.environment.get_template(NAME).map_err(|e| jinja::error(&e))?;
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
        template.render(context).map_err(|e| jinja::error(&e))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conversation() -> Vec<Message> {
        vec![
            Message::new(Role::System, " Be brief.\n"),
            Message::new(Role::User, "<b>\"Who\"</b>?"),
            Message::new(Role::Assistant, "Ahab"),
        ]
    }

    fn render(source: &str) -> Result<String, TextError> {
        ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&conversation(), true)
    }

    #[track_caller]
    fn fails(source: &str, line: usize, word: &str) {
        match render(source) {
            Err(TextError::Template { line: Some(at), reason }) => {
                assert_eq!(at, line, "{reason}");
                assert!(reason.contains(word), "{word:?} is not in {reason:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_public_templates_use() {
        let chatml = "{%- for m in messages %}\n    {%- if loop.index0 == 1 %}{% continue %}{% endif %}\n\
                      {{ '<|im_start|>' + m['role'] + '\\n' + m.content.strip() + '<|im_end|>' + '\\n' }}\n{%- endfor %}\n\
                      {%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";
        let expected =
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\nAhab<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(chatml).unwrap(), expected);
        assert_eq!(render("{{ bos_token }}{{ eos_token }}{{ messages | length }}").unwrap(), "<s></s>3");
        assert_eq!(
            render("{{ nothing }}{{ 'x' if tools }}{{ tools is none }}{{ messages[1].content }}").unwrap(),
            "True<b>\"Who\"</b>?"
        );
        assert_eq!(
            render(
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
            )
            .unwrap(),
            "3"
        );
        assert_eq!(render("{% if messages[0]['role'] == 'system' %}\n  {% set messages = messages[1:] %}\n{% endif %}\n{{ messages[0].role }}").unwrap(), "user");
        assert_eq!(
            render("{% macro f(x) %}{{ x.upper() }}{% endmacro %}{{ f('a') }}{{ 'b'.split(',')[0] }}").unwrap(),
            "Ab"
        );
    }

    #[test]
    fn errors_name_the_line_and_the_reason() {
        fails("a\nb {% if %}", 2, "syntax");
        fails("{% for m in messages %}", 1, "");
        fails("\n\n{{ raise_exception('roles must alternate') }}", 3, "roles must alternate");
        fails("a\n{{ messages[9].content.strip() }}", 2, "messages[9]");
        fails("{{ 1 }}\n{{ 2 | sparkle }}", 2, "sparkle");
        fails("{{ absent() }}", 1, "absent");
        fails("{{ messages[0].frobnicate() }}", 1, "frobnicate");
        fails("{% include 'other' %}", 1, "other");
    }

    #[test]
    fn a_strangers_program_ends() {
        fails("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", 1, "fuel");
        fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", 1, "");
        fails("{{ 'a' * 99999999999 }}", 1, "");
        fails("{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", 1, "");
        assert!(render(&"{% if 1 %}".repeat(9999)).is_err());
        assert!(render(&format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999))).is_err());
    }

    #[test]
    fn the_format_of_2b_4t() {
        let (source, origin) = for_gguf(Some("Human: {{ x }}BITNETAssistant: "), "bitnet-b1.58", 128_256).unwrap();
        assert_eq!(origin, TemplateOrigin::BuiltIn);
        let template = ChatTemplate::new(source, None, None).unwrap();
        let text = template.render(&conversation(), true).unwrap();
        assert_eq!(
            text,
            "System: Be brief.<|eot_id|>User: <b>\"Who\"</b>?<|eot_id|>Assistant: Ahab<|eot_id|>Assistant: "
        );
        assert!(template.render(&conversation()[..1], false).unwrap().ends_with("<|eot_id|>"));

        let built_in =
            |own, arch, vocab| for_gguf(own, arch, vocab).map(|(_, origin)| origin == TemplateOrigin::BuiltIn);
        assert_eq!(built_in(None, "bitnet-25", 128_256), Some(true));
        assert_eq!(built_in(Some(""), "bitnet", 128_256), Some(true));
        assert_eq!(built_in(None, "bitnet", 32_002), None);
        assert_eq!(built_in(None, "llama", 128_256), None);
        assert_eq!(built_in(Some("own"), "bitnet-b1.58", 128_256), Some(false));
        assert_eq!(built_in(Some("BITNETAssistant"), "llama", 128_256), Some(false));
    }

    #[test]
    fn templates_in_a_configuration() {
        assert_eq!(from_config(&Value::Null).unwrap(), None);
        assert_eq!(from_config(&json!("x")).unwrap().as_deref(), Some("x"));
        let list = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
        assert_eq!(from_config(&list).unwrap().as_deref(), Some("d"));
        let error = from_config(&json!([{"name": "tool_use", "template": "t"}])).unwrap_err();
        assert!(error.to_string().contains("tool_use"), "{error}");
        assert!(from_config(&json!(3)).is_err());
    }

    #[test]
    fn roles() {
        for role in [Role::System, Role::User, Role::Assistant, Role::Tool] {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert!("king".parse::<Role>().unwrap_err().to_string().contains("king"));
    }
}
