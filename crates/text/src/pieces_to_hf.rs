//! A SentencePiece vocabulary of a GGUF file as the byte-pair encoder of a `tokenizer.json`.
//!
//! The one joins the two neighbours that make the piece with the best score, the other those whose merge is named first. So
//! the merges are all the ways in which two pieces make a third, in the order of the thirds' scores. Ways to make one piece,
//! and pieces with one score, are equal to the one, which begins at the left, and not to the other; where such pieces overlap
//! in a text (`aba` of `ab` and `a` or of `a` and `ba`), that text can be cut at another place.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::gguf::{Kind, TOKENS};
use crate::gguf_to_hf::Form;
use crate::{GgufVocabulary, TextError};

/// What stands for a space.
const SPACE: &str = "▁";

pub(crate) fn form(vocab: &GgufVocabulary, kinds: &[Kind]) -> Result<Form, TextError> {
    let unknown = vocab.unk.map(|id| id as usize).or_else(|| kinds.iter().position(|kind| *kind == Kind::Unknown));
    let unknown = unknown.and_then(|id| vocab.tokens.get(id).zip(kinds.get(id)));
    let unknown = unknown.filter(|(token, kind)| !token.is_empty() && **kind != Kind::Unused);
    let bytes = kinds.iter().filter(|kind| **kind == Kind::Byte).count();
    if unknown.is_none() && bytes < 256 {
        return Err(TextError::gguf(TOKENS, "there is neither an unknown token nor one for each byte"));
    }
    // The library writes the unknown token after the bytes that follow it.
    if !matches!(bytes, 0 | 256) {
        return Err(TextError::gguf(TOKENS, format!("{bytes} of 256 bytes have a token")));
    }
    // In the other form the model looks its own token up like a piece.
    if let Some((token, _)) = unknown.filter(|(token, kind)| token.chars().count() == 1 && **kind != Kind::Normal) {
        return Err(TextError::gguf(TOKENS, format!("the unknown token {token:?} is a single character")));
    }
    let unknown = unknown.map(|(token, _)| token);
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let normalizer = match prefix {
        true => json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": SPACE }, space] }),
        false => space,
    };
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Form {
        normalizer,
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": bytes == 256, "ignore_merges": false,
            "merges": merges(vocab, kinds)?,
        }),
        unknown: unknown.cloned(),
        add_bos: true,
    })
}

/// All ways in which two pieces make a third, those of the best third first.
fn merges(vocab: &GgufVocabulary, kinds: &[Kind]) -> Result<Vec<[String; 2]>, TextError> {
    let key = "tokenizer.ggml.scores";
    let (tokens, scores) = (&vocab.tokens, &vocab.scores);
    if scores.len() != tokens.len() {
        return Err(TextError::gguf(key, format!("{} scores for {} tokens", scores.len(), tokens.len())));
    }
    let normal = || {
        let tokens = tokens.iter().zip(scores).zip(kinds);
        tokens.filter(|((token, _), kind)| **kind == Kind::Normal && !token.is_empty())
    };
    let pieces: HashSet<&str> = normal().map(|((token, _), _)| token.as_str()).collect();
    let mut made: Vec<(f32, &str)> = Vec::new();
    for ((token, score), _) in normal().filter(|((token, _), _)| token.chars().nth(1).is_some()) {
        let mut spelled = [0; 4];
        if let Some(c) = token.chars().find(|c| !pieces.contains(&*c.encode_utf8(&mut spelled))) {
            return Err(TextError::gguf(TOKENS, format!("token {token:?} has the character {c:?}, which is no token")));
        }
        made.push((*score + 0.0, token));
    }
    // Of equals the longest first, and of its ways the one with the longest left half: so what repeats itself, such as a row of
    // spaces, grows from the left as it does where the leftmost of equals is joined first.
    made.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.len().cmp(&a.1.len())));
    let ways = |piece: &str| -> Vec<[String; 2]> {
        let cuts = piece.char_indices().rev().map(|(at, _)| piece.split_at(at));
        let cuts = cuts.filter(|(left, right)| pieces.contains(left) && pieces.contains(right));
        cuts.map(|(left, right)| [left.to_string(), right.to_string()]).collect()
    };
    Ok(made.into_iter().flat_map(|(_, piece)| ways(piece)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{HfTokenizer, Tokenizer};

    const TEXT: &str = "It is not down on any map; true places never are. The whale, the white whale! Call me Ishmael. Some \
        years ago, never mind how long precisely, having little or no money in my purse, and nothing particular to interest \
        me on shore, I thought I would sail about a little and see the watery part of the world.";

    /// Every string of at most five characters that a text has twice, the more frequent the better, and its characters.
    fn vocabulary(prefix: bool) -> GgufVocabulary {
        let mut counts = BTreeMap::new();
        let spaced: Vec<char> = TEXT.replace(' ', SPACE).chars().collect();
        for length in 1..=5 {
            for piece in spaced.windows(length) {
                *counts.entry(piece.iter().collect::<String>()).or_insert(0) += 1;
            }
        }
        let mut vocab = GgufVocabulary {
            model: "llama".to_string(),
            add_space_prefix: Some(prefix),
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            ..GgufVocabulary::default()
        };
        let mut push = |token: String, kind: i32, score: f32| {
            vocab.tokens.push(token);
            vocab.token_types.push(kind);
            vocab.scores.push(score);
        };
        for (token, kind) in [("<unk>", 2), ("<s>", 3), ("</s>", 3)] {
            push(token.to_string(), kind, 0.0);
        }
        (0..=255u8).for_each(|byte| push(format!("<0x{byte:02X}>"), 6, 0.0));
        let pieces = counts.into_iter().filter(|(piece, count)| *count > 1 || piece.chars().count() == 1);
        for (place, (piece, count)) in pieces.enumerate() {
            push(piece, 1, count as f32 - place as f32 / 10_000.0);
        }
        vocab
    }

    fn back(vocab: &GgufVocabulary) -> Tokenizer {
        let files = vocab.to_hf().unwrap();
        let files = HfTokenizer {
            tokenizer_json: files.tokenizer_json.as_bytes(),
            tokenizer_config: Some(&files.tokenizer_config),
            generation_config: Some(&files.generation_config),
            ..HfTokenizer::default()
        };
        Tokenizer::from_hf(files).unwrap()
    }

    #[test]
    fn both_forms_give_the_same_ids() {
        for prefix in [true, false] {
            let vocab = vocabulary(prefix);
            let (new, old) = (back(&vocab), Tokenizer::from_gguf(vocab).unwrap());
            let other = "The sailor, a whaleman\nof  many — years </s>, wiser than the sea: 捕鯨é.";
            for text in [TEXT, other, "", " ", "me"] {
                let ids = old.encode(text, true).unwrap();
                assert_eq!(new.encode(text, true).unwrap(), ids, "{text:?}");
                assert_eq!(new.decode(&ids, true).unwrap(), old.decode(&ids, true).unwrap());
            }
            assert!(old.encode(TEXT, true).unwrap().len() < TEXT.len() * 3 / 4, "pieces are merged");
            assert_eq!((new.bos(), new.stop_tokens()), (old.bos(), old.stop_tokens()));
        }
    }

    /// As the vocabulary of LLaMA has them.
    #[test]
    fn rows_of_spaces_with_one_score_grow_from_the_left() {
        let mut vocab = vocabulary(true);
        for length in 2..=16 {
            vocab.tokens.push(SPACE.repeat(length));
            vocab.token_types.push(1);
            vocab.scores.push(-1e9);
        }
        let (new, old) = (back(&vocab), Tokenizer::from_gguf(vocab).unwrap());
        for length in 0..100 {
            let text = format!("the{}whale", " ".repeat(length));
            assert_eq!(new.encode(&text, true).unwrap(), old.encode(&text, true).unwrap(), "{length} spaces");
        }
    }

    /// Found by fuzzing: what the first lines of this file say, and no more than that.
    #[test]
    fn of_pieces_with_one_score_that_overlap_the_order_of_merges_takes_another() {
        let mut vocab = vocabulary(true);
        let scores = |vocab: &mut GgufVocabulary, second: f32| {
            for (piece, score) in [("bc", 1e6), ("cd", second)] {
                vocab.tokens.push(piece.to_string());
                vocab.token_types.push(1);
                vocab.scores.push(score);
            }
        };
        let encode = |vocab: GgufVocabulary| {
            let (new, old) = (back(&vocab), Tokenizer::from_gguf(vocab).unwrap());
            ["bcd", "a bcd", "dcb"].map(|text| (new.encode(text, false).unwrap(), old.encode(text, false).unwrap()))
        };
        for piece in ["b", "c", "d"] {
            assert!(vocab.tokens.iter().any(|token| token == piece), "{piece} is a character of the text");
        }
        let mut apart = vocab.clone();
        scores(&mut apart, 1e6 + 1.0);
        assert!(encode(apart).iter().all(|(new, old)| new == old), "scores that differ are an order");
        scores(&mut vocab, 1e6);
        // "cd" comes after "bc" in the vocabulary, as it does in the merges: at the left in both.
        assert!(encode(vocab.clone()).iter().all(|(new, old)| new == old));
        let last = vocab.tokens.len() - 1;
        vocab.tokens.swap(last, last - 1);
        let [(new, old), ..] = encode(vocab);
        assert_ne!(new, old, "the one begins at the left, the other with what is named first");
    }

    #[test]
    fn what_merges_cannot_say_is_refused() {
        let refused = |change: &dyn Fn(&mut GgufVocabulary)| {
            let mut vocab = vocabulary(true);
            change(&mut vocab);
            vocab.to_hf().unwrap_err().to_string()
        };
        let error = refused(&|vocab| vocab.scores.truncate(9));
        assert!(error.contains("tokenizer.ggml.scores") && error.contains("9 scores"), "{error}");
        let error = refused(&|vocab| *vocab.tokens.last_mut().unwrap() = "a捕".to_string());
        assert!(error.contains('捕') && error.contains("no token"), "{error}");
        let error = refused(&|vocab| {
            vocab.unk = None;
            vocab.token_types[..4].fill(3);
        });
        assert!(error.contains("neither an unknown token"), "{error}");
        for change in [
            |vocab: &mut GgufVocabulary| vocab.tokens[0].clear(),
            |vocab: &mut GgufVocabulary| vocab.token_types[0] = 5,
        ] {
            let error = refused(&|vocab| {
                change(vocab);
                vocab.token_types[3..259].fill(1);
            });
            assert!(error.contains("neither an unknown token"), "{error}");
        }
        let error = refused(&|vocab| {
            vocab.tokens[0] = "捕".to_string();
            vocab.token_types[3..259].fill(1);
        });
        assert!(error.contains('捕') && error.contains("single character"), "{error}");
        let error = refused(&|vocab| vocab.token_types[5] = 1);
        assert!(error.contains("255 of 256 bytes"), "{error}");
    }

    /// With a piece that is spelled like a byte, which it then is not.
    #[test]
    fn without_bytes_what_has_no_piece_is_unknown() {
        let mut vocab = vocabulary(true);
        vocab.token_types.iter_mut().filter(|kind| **kind == 6).for_each(|kind| *kind = 5);
        let of_z = vocab.tokens.iter().position(|token| token == "<0x5A>").unwrap();
        vocab.token_types[of_z] = 1;
        for c in "<0x5A>".chars().map(String::from).filter(|c| !vocab.tokens.contains(c)).collect::<Vec<_>>() {
            vocab.tokens.push(c);
            vocab.token_types.push(1);
            vocab.scores.push(-1e9);
        }
        let (new, old) = (back(&vocab), Tokenizer::from_gguf(vocab).unwrap());
        for text in ["Zé — Z the Q", "ZZthe"] {
            let ids = old.encode(text, true).unwrap();
            assert_eq!(new.encode(text, true).unwrap(), ids, "{text:?}");
            assert!(!ids.contains(&(of_z as u32)));
        }
    }
}
