//! Tokens that end a reply.

/// Spellings of end-of-turn and end-of-text tokens in public vocabularies. A model that was given one of these as a
/// special token means it as an end, whether or not its configuration lists it.
const END_SPELLINGS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// The ids that end generation: those a checkpoint declares, in its order, then those known by their spelling.
///
/// `special_id` gives the id of a spelling that is a special token of the vocabulary.
pub(crate) fn stop_tokens(
    declared: impl IntoIterator<Item = u32>,
    special_id: impl Fn(&str) -> Option<u32>,
) -> Vec<u32> {
    let spelled = END_SPELLINGS.iter().filter_map(|&spelling| special_id(spelling));
    let mut stops = Vec::new();
    for id in declared.into_iter().chain(spelled) {
        if !stops.contains(&id) {
            stops.push(id);
        }
    }
    stops
}
