//! Which files of a repository make a model.

use crate::checkpoint::split_name;

/// Files to fetch.
#[derive(Debug, PartialEq)]
pub(super) struct Choice {
    /// Small files that belong beside the weights.
    pub(super) beside: Vec<String>,
    pub(super) weights: Weights,
}

/// The file to open, with what it needs.
#[derive(Debug, PartialEq)]
pub(super) enum Weights {
    Safetensors(String),
    /// An index; the shards are named in it.
    Index(String),
    /// A GGUF file, and the other parts of a split one.
    Gguf {
        first: String,
        others: Vec<String>,
    },
}

/// Configuration, tokenizer, and what is done with an embedding model's hidden states, in the folder of the weights.
const BESIDE: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Chooses from a repository's files: the one that is `wanted`, else safetensors with a configuration, else the one GGUF.
/// The error says what there is instead.
pub(super) fn choose(files: &[String], wanted: Option<&str>) -> Result<Choice, String> {
    let has = |name: &str| files.iter().any(|file| file == name);
    if let Some(wanted) = wanted {
        if !has(wanted) {
            return Err(format!("there is no file {wanted}; the model files are: {}", model_files(files)));
        }
        return of_file(files, wanted)
            .ok_or_else(|| format!("{wanted} is not a model file; the model files are: {}", model_files(files)));
    }
    if has("config.json") {
        let mut safetensors = files.iter().filter(|f| f.ends_with(".safetensors") && !f.contains('/'));
        let only = match (safetensors.next(), safetensors.next()) {
            (Some(only), None) => Some(only.as_str()),
            _ => None,
        };
        let known = [SINGLE, INDEX].into_iter().find(|name| has(name));
        if let Some(choice) = known.or(only).and_then(|name| of_file(files, name)) {
            return Ok(choice);
        }
    }
    let ggufs: Vec<&str> = files
        .iter()
        .map(String::as_str)
        .filter(|f| f.ends_with(".gguf") && split_name(f).is_none_or(|(_, number, _)| number == 1))
        .collect();
    match &ggufs[..] {
        [only] => of_file(files, only).ok_or_else(|| "it has no model".to_string()),
        [] => Err("it has neither safetensors with a config.json nor a .gguf file".to_string()),
        several => Err(format!("there are several models, add one as `:file`: {}", several.join(", "))),
    }
}

/// What goes with one model file; `None` if it is not one.
fn of_file(files: &[String], name: &str) -> Option<Choice> {
    if name.ends_with(".gguf") {
        let others = match split_name(name) {
            None => Vec::new(),
            Some((stem, number, count)) => files
                .iter()
                .filter(|file| split_name(file).is_some_and(|(s, n, c)| s == stem && n != number && c == count))
                .cloned()
                .collect(),
        };
        return Some(Choice { beside: Vec::new(), weights: Weights::Gguf { first: name.to_string(), others } });
    }
    let weights = if name.ends_with(".safetensors") {
        Weights::Safetensors(name.to_string())
    } else if name.ends_with(".safetensors.index.json") {
        Weights::Index(name.to_string())
    } else {
        return None;
    };
    let folder = name.rfind('/').map_or("", |slash| &name[..=slash]);
    let beside = BESIDE.iter().map(|file| format!("{folder}{file}")).filter(|file| files.contains(file));
    Some(Choice { beside: beside.collect(), weights })
}

fn model_files(files: &[String]) -> String {
    let suffixes = [".gguf", ".safetensors", ".safetensors.index.json"];
    let models: Vec<&str> =
        files.iter().map(String::as_str).filter(|f| suffixes.iter().any(|s| f.ends_with(s))).collect();
    if models.is_empty() { "none".to_string() } else { models.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[&str], wanted: Option<&str>) -> Result<Choice, String> {
        let files: Vec<String> = files.iter().map(|f| f.to_string()).collect();
        choose(&files, wanted)
    }

    fn gguf(first: &str, others: &[&str]) -> Choice {
        let others = others.iter().map(|f| f.to_string()).collect();
        Choice { beside: Vec::new(), weights: Weights::Gguf { first: first.to_string(), others } }
    }

    #[test]
    fn safetensors_come_first() {
        let files = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "q.gguf"];
        let expected = Choice {
            beside: vec!["config.json".to_string(), "tokenizer.json".to_string()],
            weights: Weights::Safetensors("model.safetensors".to_string()),
        };
        assert_eq!(of(&files, None).unwrap(), expected);
        assert_eq!(of(&files, Some("q.gguf")).unwrap(), gguf("q.gguf", &[]));
        let shards = ["config.json", "a-1.safetensors", "a-2.safetensors", "model.safetensors.index.json"];
        assert_eq!(of(&shards, None).unwrap().weights, Weights::Index("model.safetensors.index.json".to_string()));
        let odd = ["config.json", "weights.safetensors"];
        assert_eq!(of(&odd, None).unwrap().weights, Weights::Safetensors("weights.safetensors".to_string()));
    }

    #[test]
    fn then_the_one_gguf() {
        assert_eq!(of(&["config.json", "m.gguf"], None).unwrap(), gguf("m.gguf", &[]));
        let split = ["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"];
        assert_eq!(of(&split, None).unwrap(), gguf(split[1], &[split[0]]));
        let error = of(&["a.gguf", "b.gguf"], None).unwrap_err();
        assert!(error.contains("several") && error.contains("a.gguf, b.gguf"), "{error}");
        assert!(of(&["README.md"], None).unwrap_err().contains("neither"));
    }

    #[test]
    fn what_is_wanted_must_be_there_and_be_a_model() {
        let files = ["config.json", "sub/config.json", "sub/m.safetensors", "notes.txt"];
        let choice = of(&files, Some("sub/m.safetensors")).unwrap();
        assert_eq!(choice.beside, ["sub/config.json"]);
        let embedding =
            ["config.json", "model.safetensors", "1_Pooling/config.json", "2_Dense/config.json", "modules.json"];
        assert_eq!(of(&embedding, None).unwrap().beside, ["config.json", "modules.json", "1_Pooling/config.json"]);
        assert!(of(&files, Some("x.gguf")).unwrap_err().contains("sub/m.safetensors"));
        assert!(of(&files, Some("notes.txt")).unwrap_err().contains("not a model file"));
        assert!(of(&["notes.txt"], Some("x.gguf")).unwrap_err().contains("none"));
    }
}
