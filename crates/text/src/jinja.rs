//! Jinja, set up as `transformers` sets it up for chat templates, and bounded.

use std::fmt;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig, value::Kwargs,
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::TextError;

/// Work that one rendering may do: about one unit an instruction and one for 64 bytes, so at most 128 MB of text. A
/// long conversation takes thousands of units; a template is a stranger's program and must end.
const FUEL: u64 = 2_000_000;

/// Jinja as `transformers` sets it up for chat templates.
pub(crate) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    // Both settings are constants that the builder accepts, so the default never comes into it.
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_debug(true);
    env.set_fuel(Some(FUEL));
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", to_json);
    env
}

/// The template without the marks that `transformers` adds to Jinja: `{% generation %}` and `{% endgeneration %}` stand around
/// what the assistant says, and write nothing. Conditions that always hold take their place, so that spaces are trimmed as
/// around any other statement.
pub(crate) fn without_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, (tag, after))) =
        rest.split_once("{%").and_then(|(before, tag)| Some((before, tag.split_once("%}")?)))
    {
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let plain = match word {
            "generation" => tag.replace(word, "if true"),
            "endgeneration" => tag.replace(word, "endif"),
            _ => tag.to_string(),
        };
        out.extend([before, "{%", &plain, "%}"]);
        rest = after;
    }
    out + rest
}

/// The local time, as Python's `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
}

/// JSON as Python writes it: not escaped for HTML, a space after `,` and `:`.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let invalid = |e: &dyn fmt::Display| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let indent: Option<usize> = options.get("indent")?;
    // What it always is here; templates may say so.
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(invalid(&"ensure_ascii is not supported"));
    }
    options.assert_all_used()?;
    let mut text = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut text, pretty)).map_err(|e| invalid(&e))?;
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)).map_err(|e| invalid(&e))?,
    }
    String::from_utf8(text).map_err(|e| invalid(&e))
}

/// One line, a space after every separator.
struct Spaced;

impl Formatter for Spaced {
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

/// The error of a template, with its line.
pub(crate) fn error(error: &Error) -> TextError {
    let kind = error.kind();
    let reason = error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"));
    TextError::Template { line: error.line(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, TextError> {
        environment().render_str(source, ()).map_err(|e| error(&e))
    }

    #[test]
    fn marks_of_generation_write_nothing() {
        let marked = "a\n{% generation %}\nb {%- generation -%} c{% endgeneration %}\n{%- endgeneration %} {{ 'd' }}{%";
        assert_eq!(without_marks(marked), "a\n{% if true %}\nb {%- if true -%} c{% endif %}\n{%- endif %} {{ 'd' }}{%");
        assert_eq!(render(&without_marks("a{% generation %}b{% endgeneration %}c")).unwrap(), "abc");
    }

    #[test]
    fn json_as_python_writes_it() {
        assert_eq!(
            render("{{ {'role': 'user', 'content': '<b>' } | tojson }}").unwrap(),
            r#"{"role": "user", "content": "<b>"}"#
        );
        assert_eq!(render("{{ ['é', 1, 0.5, none, true] | tojson }}").unwrap(), r#"["é", 1, 0.5, null, true]"#);
        assert_eq!(render("{{ {'a': [1]} | tojson(indent=2) }}").unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
        assert_eq!(render("{{ 'é' | tojson(ensure_ascii=false) }}").unwrap(), "\"é\"");
        for bad in ["ensure_ascii=true", "shape='round'"] {
            assert!(render(&format!("{{{{ 1 | tojson({bad}) }}}}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_time_now() {
        let year = render("{{ strftime_now('%Y') }}").unwrap();
        assert!(year.len() == 4 && year.starts_with("20"), "{year}");
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap().split(' ').count(), 3);
        assert!(render("\n{{ strftime_now('%!') }}").unwrap_err().to_string().starts_with("chat template, line 2: "));
    }
}
