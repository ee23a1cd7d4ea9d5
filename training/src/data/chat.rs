//! Conversations as tokens, with the mask that says which of them are learned.

use bitnet_text::{Message, Role, Tokenizer};

use super::{DataError, Place};

/// Tokens, and for each whether it is to be learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masked {
    pub tokens: Vec<u32>,
    /// As many as tokens.
    pub loss: Vec<bool>,
    /// UTF-8 bytes of what is to be learned.
    pub bytes: u64,
}

/// Renders and tokenizes a whole conversation. What the assistant says in the messages from number `from` on, and the
/// token that ends each of these turns, is to be learned; nothing else is.
///
/// A turn begins where the rendering of everything before it, with the generation prompt, stops to agree with the whole:
/// there the model will begin its reply. Both are tokenized as a whole and compared token by token, because a token may
/// span the end of the prompt (`: ` and `Ahab` becoming `:` and ` Ahab`); it then belongs to the turn.
///
/// # Errors
/// [`DataError::TemplateRewrites`], a conversation in which nothing is to be learned, and what the template refuses.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    messages: &[Message],
    from: usize,
    place: &Place,
) -> Result<Masked, DataError> {
    let render = |upto: usize, prompt: bool| {
        let messages = &messages[..upto];
        let ids = tokenizer.encode_chat(messages, prompt)?;
        let text = tokenizer.chat_template().map(|template| template.render(messages, prompt)).transpose()?;
        Ok((ids, text.unwrap_or_default()))
    };
    let render = |upto, prompt| render(upto, prompt).map_err(DataError::text(place));

    let (tokens, text) = render(messages.len(), false)?;
    let mut loss = vec![false; tokens.len()];
    let (mut turns, mut bytes) = (0, 0);
    for (i, message) in messages.iter().enumerate().skip(from).filter(|(_, m)| m.role == Role::Assistant) {
        let (prompt, prompt_text) = render(i, true)?;
        let (through, through_text) = render(i + 1, false)?;
        if !through_text.starts_with(&prompt_text) || !text.starts_with(&through_text) {
            return Err(DataError::TemplateRewrites { place: place.clone(), turn: i + 1 });
        }
        let (start, end) = (agreement(&prompt, &tokens), agreement(&through, &tokens));
        let turn = tokens.get(start..end).unwrap_or_default();
        // What a template writes after the token that ends the turn, such as a line break, is not the model's to say.
        let said = turn.iter().rposition(|id| tokenizer.stop_tokens().contains(id)).map_or(turn.len(), |at| at + 1);
        loss[start..start + said].fill(true);
        turns += 1;
        bytes += message.content.len() as u64;
    }
    if turns == 0 {
        return Err(DataError::record(place, "the assistant says nothing in it: there is nothing to learn"));
    }
    Ok(Masked { tokens, loss, bytes })
}

/// Number of tokens that two sequences have in common at their beginning.
pub(crate) fn agreement(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
