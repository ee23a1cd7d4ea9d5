//! From one form of a model to another, its tokenizer included.

use bitnet_engine::{tokenizer_of, vocabulary};
use bitnet_format::convert::{Conversion, Target, faults};
use bitnet_format::export::Model;
use bitnet_format::gguf::Value;
use bitnet_format::{Checkpoint, GgufTokenizer, TokenizerSource};
use bitnet_text::VocabularyRepairs;

use crate::Error;

/// A conversion of `source` to `target`, under a name for those who look into the file.
///
/// The tokenizer comes along in the target's form: the vocabulary of a `tokenizer.json` inside a GGUF file, or the
/// other way round, with every token that ends a text or a turn. What a GGUF file is known to lack or have wrong is put right,
/// as [`repairs`] tells.
///
/// # Errors
/// When the tokenizer cannot be read, or has no form in the target.
pub fn conversion<'a>(source: &'a Checkpoint, name: &str, target: Target) -> Result<Conversion<'a>, Error> {
    let mut model = Model::of(source, name)?;
    if let TokenizerSource::Gguf(tokenizer) = &mut model.tokenizer {
        mend(tokenizer, repairs_of(tokenizer, source));
    }
    // Each of several files may name some of them. A tokenizer that cannot be used can still be carried over.
    if let Ok(tokenizer) = tokenizer_of(source, None) {
        let ends = &mut model.config.eos_token_ids;
        ends.extend(tokenizer.stop_tokens().iter().filter(|id| !ends.contains(id)).collect::<Vec<_>>());
    }
    if let TokenizerSource::Gguf(tokenizer) = &model.tokenizer {
        let eot = tokenizer.eot;
        model.config.eos_token_ids.extend(eot.filter(|id| !model.config.eos_token_ids.contains(id)));
    }
    if let (Target::HuggingFace(_) | Target::Burnpack(_), TokenizerSource::Gguf(tokenizer)) =
        (&target, &model.tokenizer)
    {
        let path = tokenizer.path.clone();
        let files = vocabulary(tokenizer.clone(), source.config().architecture.clone()).to_hf();
        let files = files.map_err(|source| Error::Tokenizer { origin: path.clone(), source })?;
        model.tokenizer = TokenizerSource::Hf {
            path,
            tokenizer_json: files.tokenizer_json.into_bytes().into(),
            tokenizer_config: Some(files.tokenizer_config),
            chat_template: files.chat_template,
            generation_config: Some(files.generation_config),
        };
    }
    Ok(Conversion { source, model, target })
}

/// The keys that a GGUF file lacks or has wrong, with what is right, for [`repair`](bitnet_format::convert::repair). All of
/// them are in the official file of BitNet b1.58 2B-4T: no pre-tokenizer (other programs then cut text in GPT 2's way), a
/// chat template that the model was not tuned on, no token that ends a turn, and no word of squared ReLU (some programs
/// then compute SiLU).
///
/// # Errors
/// When the model is no GGUF file, or its tokenizer cannot be read.
pub fn repairs(source: &Checkpoint) -> Result<Vec<(String, Value)>, Error> {
    let mut all = faults(source)?;
    if let TokenizerSource::Gguf(tokenizer) = source.tokenizer_files()? {
        let VocabularyRepairs { pre, eot, chat_template, token_types } = repairs_of(&tokenizer, source);
        let tokenizer = [
            ("tokenizer.ggml.pre", pre.map(Value::from)),
            ("tokenizer.ggml.eot_token_id", eot.map(Value::from)),
            ("tokenizer.ggml.token_type", token_types.map(Value::from)),
            ("tokenizer.chat_template", chat_template.map(Value::from)),
        ];
        all.extend(tokenizer.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))));
    }
    Ok(all)
}

fn repairs_of(tokenizer: &GgufTokenizer, source: &Checkpoint) -> VocabularyRepairs {
    vocabulary(tokenizer.clone(), source.config().architecture.clone()).repairs()
}

fn mend(tokenizer: &mut GgufTokenizer, repairs: VocabularyRepairs) {
    let VocabularyRepairs { pre, eot, chat_template, token_types } = repairs;
    tokenizer.pre = pre.or(tokenizer.pre.take());
    tokenizer.eot = eot.or(tokenizer.eot);
    tokenizer.chat_template = chat_template.or(tokenizer.chat_template.take());
    if let Some(types) = token_types {
        tokenizer.token_types = types;
    }
}
