//! A chat template and the conversation that it renders.

use bitnet_fixtures::{moby, training};
use bitnet_text::{ChatTemplate, Message, Role};

use crate::{Seeds, joined, read, sections};

/// The input: template, 0xff, messages, one a line, in turn by the system, the user, the assistant and a tool.
pub fn run(data: &[u8]) {
    let [source, messages] = sections(data).map(String::from_utf8_lossy);
    let template = match ChatTemplate::new(source.clone(), Some("<s>"), Some("</s>")) {
        Ok(template) => template,
        Err(error) => return read::one_line(error),
    };
    assert_eq!(template.source(), source);
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool].into_iter().cycle();
    let messages: Vec<_> = roles.zip(messages.lines()).map(|(role, text)| Message::new(role, text)).collect();
    for add_generation_prompt in [false, true] {
        let render = || template.render(&messages, add_generation_prompt).map_err(read::one_line).ok();
        let text = render();
        // The clock is the one thing that changes.
        if !source.contains("strftime_now") {
            assert_eq!(text, render(), "a template has no memory");
        }
    }
}

/// The fixtures' templates, and one for each thing that public ones do.
pub fn seeds() -> Seeds {
    let read = |path: std::path::PathBuf| std::fs::read(path).expect("the fixture has a template");
    let written = [
        ("moby", read(moby("master").join("chat_template.jinja"))),
        ("sft", read(training("sft-tokenizer/chat_template.jinja"))),
    ];
    let public = [
        (
            "slices",
            "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}{{ messages[0].role }}",
        ),
        (
            "namespace",
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        ),
        ("macro", "{% macro f(x) %}{{ x.upper() }}{% endmacro %}{{ f('a') }}{{ 'b,c'.split(',')[0] | capitalize }}"),
        ("json", "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages | length }}"),
        ("raise", "{% if messages | length > 9 %}{{ raise_exception('too many') }}{% endif %}"),
        ("time", "{{ strftime_now('%d %b %Y') }}"),
        ("marks", "{% for m in messages %}{% generation %}{{ m.content.strip() }}{% endgeneration %}{% endfor %}"),
        (
            "control",
            "{% for m in messages -%}{% if loop.first %}{% continue %}{% endif %}{% if loop.last %}{% break %}{% endif %}{{ m.content[::-1] }}{%- endfor %}",
        ),
        (
            "filters",
            "{{ messages | map(attribute='content') | list | join('|') }}{{ '%s' % bos_token }}{{ range(3) | last ~ 1 }}",
        ),
    ];
    let messages = "Be brief.\nWho?\nAhab\n{}";
    let public = public.into_iter().map(|(name, source)| (name, source.as_bytes().to_vec()));
    let seed = |(name, source): (&str, Vec<u8>)| (name.to_string(), joined(&[&source, messages.as_bytes()]));
    written.into_iter().chain(public).map(seed).collect()
}
