//! Preferences: a prompt with a reply that is better than another one.

use std::ops::ControlFlow;

use bitnet_text::{Message, Role, Tokenizer};
use serde_json::Value;

use super::{
    DataError, Place, Source,
    chat::{self, Masked, agreement},
    document::messages,
    formats::each_object,
    source::Format,
    tokenize::Encoder,
};

/// One sequence of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// All tokens, the prompt's included.
    pub tokens: Vec<u32>,
    /// For every token whether it belongs to the reply, and so to the likelihood that is compared. Never the first.
    pub loss: Vec<bool>,
}

/// Two replies to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The better one.
    pub chosen: Sequence,
    /// The worse one.
    pub rejected: Sequence,
    /// Where it stands.
    pub place: Place,
}

/// What a prompt or a reply is written as.
enum Turn {
    Text(String),
    Messages(Vec<Message>),
}

/// Reads preference pairs from JSON lines, `{"prompt": ..., "chosen": ..., "rejected": ...}`, each a text or a list of
/// messages. `chosen` and `rejected` may repeat the messages of the prompt.
///
/// With a chat template, a text is what the user (the prompt) or the assistant (a reply) says. Without one, all three
/// must be texts; a reply then follows its prompt directly and ends with the end-of-text token.
///
/// # Errors
/// Names the line: not JSON, a field that is missing or of another kind, a reply without tokens.
pub fn read_pairs(source: &Source, tokenizer: &Tokenizer) -> Result<Vec<Pair>, DataError> {
    let mut pairs = Vec::new();
    for file in source.files()? {
        if file.format != Format::JsonLines {
            return Err(DataError::UnknownFormat { path: file.path });
        }
        let encoder = Encoder::new(tokenizer).map_err(DataError::text(&Place::file(&file.path)))?;
        let before = pairs.len();
        let _ = each_object(&file, &mut |value, place, _| {
            let prompt = turn(&value, "prompt", &place)?;
            let reply = |field| sequence(tokenizer, &encoder, &prompt, turn(&value, field, &place)?, field, &place);
            pairs.push(Pair { chosen: reply("chosen")?, rejected: reply("rejected")?, place: place.clone() });
            Ok(ControlFlow::Continue(()))
        })?;
        if pairs.len() == before {
            return Err(DataError::Empty { path: file.path });
        }
    }
    Ok(pairs)
}

fn turn(value: &Value, field: &str, place: &Place) -> Result<Turn, DataError> {
    match value.get(field) {
        Some(Value::String(text)) => Ok(Turn::Text(text.clone())),
        Some(list @ Value::Array(_)) => Ok(Turn::Messages(messages(list, field, place)?)),
        Some(_) => Err(DataError::record(place, format!("{field:?} is neither a text nor a list of messages"))),
        None => Err(DataError::record(place, format!("has no {field:?}"))),
    }
}

fn sequence(
    tokenizer: &Tokenizer,
    encoder: &Encoder<'_>,
    prompt: &Turn,
    reply: Turn,
    field: &str,
    place: &Place,
) -> Result<Sequence, DataError> {
    let masked = match (prompt, reply) {
        (Turn::Text(prompt), Turn::Text(reply)) if tokenizer.chat_template().is_none() => {
            plain(encoder, prompt, &reply).map_err(DataError::text(place))?
        }
        (prompt, reply) => {
            let mut conversation = match prompt {
                Turn::Text(text) => vec![Message::new(Role::User, text)],
                Turn::Messages(messages) => messages.clone(),
            };
            let from = conversation.len();
            match reply {
                Turn::Text(text) => conversation.push(Message::new(Role::Assistant, text)),
                Turn::Messages(messages) if messages.starts_with(&conversation) => conversation = messages,
                Turn::Messages(messages) => conversation.extend(messages),
            }
            chat::encode(tokenizer, &conversation, from, place)?
        }
    };
    if !masked.loss.contains(&true) {
        return Err(DataError::record(place, format!("{field:?} has no tokens")));
    }
    Ok(Sequence { tokens: masked.tokens, loss: masked.loss })
}

/// A reply that directly follows its prompt.
fn plain(encoder: &Encoder<'_>, prompt: &str, reply: &str) -> Result<Masked, bitnet_text::TextError> {
    let tokens = encoder.text(&[prompt, reply].concat(), true)?;
    let start = agreement(&encoder.text(prompt, false)?, &tokens).max(1);
    let loss = (0..tokens.len()).map(|i| i >= start).collect();
    Ok(Masked { tokens, loss, bytes: reply.len() as u64 })
}
