//! A `tokenizer.json` that was made of a SentencePiece model, as GGUF has such models: pieces with scores.
//!
//! Such a file says by a list of merges what the model says by a score for each piece: of all neighbours that make a piece
//! together, those that make the best one are joined first. So a piece's score follows from the place of its merges.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::vocabulary::{Merge, NORMAL, TokenizerJson, USER_DEFINED, merge, tokens, type_of};
use crate::GgufTokenizer;

/// Token types: the one for what has no piece, and one of the 256 bytes.
const UNKNOWN: i32 = 2;
const BYTE: i32 = 6;

/// What stands for a space.
const SPACE: &str = "▁";

/// Whether a file was made of such a model: one with tokens for bytes, or with a sign for a space.
pub(super) fn is_of_pieces(json: &TokenizerJson) -> bool {
    json.model.byte_fallback == Some(true) || (json.model.unk_token.is_some() && space_prefix(&json.normalizer).is_ok())
}

/// The vocabulary. What a BOS is, and whether it is put before a text, is for the caller to say.
///
/// # Errors
///
/// Says what GGUF has no word for.
pub(super) fn convert(json: TokenizerJson) -> Result<GgufTokenizer, String> {
    if json.model.ignore_merges == Some(true) || cuts(&json.pre_tokenizer) {
        return Err(format!("the pre-tokenizer {} of a BPE of pieces", type_of(&json.pre_tokenizer)));
    }
    let has_bytes = json.model.byte_fallback == Some(true);
    if has_bytes != json.decoder.to_string().contains("ByteFallback") {
        return Err(format!("the decoder {} of a BPE with byte_fallback {has_bytes}", type_of(&json.decoder)));
    }
    if !has_bytes && json.model.fuse_unk != Some(true) {
        return Err("an unknown token for each of several unknown characters (fuse_unk)".to_string());
    }
    let add_space_prefix = space_prefix(&json.normalizer)?;
    let (tokens, mut token_types) = tokens(&json)?;
    let unknown = json.model.unk_token.as_deref().and_then(|unknown| tokens.iter().position(|t| t == unknown));
    if let Some(unknown) = unknown {
        token_types[unknown] = UNKNOWN;
    }
    for (token, kind) in tokens.iter().zip(&mut token_types) {
        if has_bytes && *kind == NORMAL && is_byte(token) {
            *kind = BYTE;
        }
    }
    // Gemma has its runs of spaces as tokens that are found by their spelling as well. Only a text with the sign for a space
    // itself in it, which hardly one has, is cut otherwise by that.
    for (token, kind) in tokens.iter().zip(&mut token_types) {
        if *kind == USER_DEFINED && run(token).is_some_and(|(of, _)| SPACE.starts_with(of)) {
            *kind = NORMAL;
        }
    }
    let scores = scores(&tokens, &token_types, json.model.merges.unwrap_or_default())?;
    Ok(GgufTokenizer {
        model: "llama".to_string(),
        tokens,
        scores,
        token_types,
        unknown: unknown.and_then(|id| u32::try_from(id).ok()),
        add_space_prefix: Some(add_space_prefix),
        ..GgufTokenizer::default()
    })
}

/// Whether a pre-tokenizer cuts a text that has no spaces any more. Gemma's does not: it cuts at spaces.
fn cuts(pre: &Json) -> bool {
    let at_spaces = pre["type"] == "Split" && pre["pattern"]["String"] == " ";
    !pre.is_null() && !at_spaces
}

/// Whether a space is put before a text; spaces become pieces in any case.
fn space_prefix(normalizer: &Json) -> Result<bool, String> {
    let steps = match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default(),
        _ => std::slice::from_ref(normalizer),
    };
    let is_prefix = |step: &Json| step["type"] == "Prepend" && step["prepend"] == SPACE;
    let is_space =
        |step: &Json| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE;
    match steps {
        [prefix, space] if is_prefix(prefix) && is_space(space) => Ok(true),
        [space] if is_space(space) => Ok(false),
        _ => Err(format!("the normalizer {normalizer} of a BPE of pieces")),
    }
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// What a token is a run of, and how long it is, if it is one.
fn run(token: &str) -> Option<(char, usize)> {
    let first = token.chars().next()?;
    let count = token.chars().count();
    (count > 1 && token.chars().all(|c| c == first)).then_some((first, count))
}

/// A score for each token: the earlier its merges come, the higher.
///
/// The merges that make a piece come one after the other in a file that was made of scores, but for runs of one character
/// (spaces, line ends): those that append to a longer run come first, so that a run grows from its beginning until no
/// piece is as long, as it does by scores that are the higher the longer the run is.
fn scores(tokens: &[String], types: &[i32], merges: Vec<Merge>) -> Result<Vec<f32>, String> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut ranks: Vec<Option<usize>> = vec![None; tokens.len()];
    // Of runs: whether they are made by appending to the next shorter one, before that is made.
    let mut grows = vec![false; tokens.len()];
    let (mut before, mut rank) = (usize::MAX, 0);
    for pair in merges {
        let pair = merge(pair)?;
        let piece = pair.replacen(' ', "", 1);
        let id = *ids.get(piece.as_str()).ok_or_else(|| format!("the merge {pair:?}, which makes no token"))?;
        if id == before {
            continue;
        }
        if ranks[id].is_some() {
            if grows[id] {
                continue;
            }
            return Err(format!("merges that no scores put in this order ({piece:?} is made at two places)"));
        }
        grows[id] = run(&piece).is_some_and(|(of, count)| {
            let shorter: String = std::iter::repeat_n(of, count - 1).collect();
            let is_later = count == 2 || ids.get(shorter.as_str()).is_some_and(|id| ranks[*id].is_none());
            is_later && pair.starts_with(&format!("{shorter} "))
        });
        ranks[id] = Some(rank);
        (before, rank) = (id, rank + 1);
    }
    for ((token, kind), rank) in tokens.iter().zip(types).zip(&ranks) {
        let splits = || {
            token.char_indices().skip(1).any(|(at, _)| {
                let is_piece = |half: &str| ids.get(half).is_some_and(|id| types[*id] == NORMAL);
                is_piece(&token[..at]) && is_piece(&token[at..])
            })
        };
        if *kind == NORMAL && rank.is_none() && splits() {
            return Err(format!("the token {token:?}, which no merge makes of the two that it could be made of"));
        }
    }
    Ok(ranks.into_iter().map(|rank| rank.map_or(0.0, |rank| -(rank as f32))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(merges: Json) -> Json {
        json!({
            "added_tokens": [
                { "id": 0, "content": "<unk>", "special": true },
                { "id": 1, "content": "<s>", "special": true },
            ],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            ] },
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }] },
            "model": {
                "type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "merges": merges,
                "vocab": { "<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 4, "▁": 5, "ab": 6, "▁a": 7, "▁ab": 8 },
            },
        })
    }

    fn of(json: Json) -> Result<GgufTokenizer, String> {
        convert(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn scores_follow_the_merges() {
        let merges = json!([["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"]]);
        let found = of(file(merges.clone())).unwrap();
        assert_eq!(found.scores, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, -2.0]);
        assert_eq!(found.token_types, [2, 3, 6, 1, 1, 1, 1, 1, 1]);
        assert_eq!((&*found.model, found.unknown, found.add_space_prefix), ("llama", Some(0), Some(true)));
        let mut without = file(merges);
        without["normalizer"] = without["normalizer"]["normalizers"][1].clone();
        without["pre_tokenizer"] =
            json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
        assert_eq!(of(without.clone()).unwrap().add_space_prefix, Some(false));
        // Without tokens for bytes.
        without["model"]["byte_fallback"] = false.into();
        without["model"]["fuse_unk"] = true.into();
        without["decoder"] = json!({ "type": "Fuse" });
        let parsed: TokenizerJson = serde_json::from_value(without.clone()).unwrap();
        assert!(is_of_pieces(&parsed));
        assert_eq!(convert(parsed).unwrap().token_types, [2, 3, 1, 1, 1, 1, 1, 1, 1]);
        without["model"]["fuse_unk"] = false.into();
        assert!(of(without).unwrap_err().contains("fuse_unk"));
    }

    #[test]
    fn runs_of_spaces_grow_from_their_beginning() {
        let with_runs = |merges: Json| {
            let mut json = file(merges);
            for (id, run) in [(9, "▁▁"), (10, "▁▁▁"), (11, "\n"), (12, "\n\n")] {
                json["model"]["vocab"][run] = id.into();
            }
            // As Gemma has them: tokens beside the pieces, too.
            let added = json["added_tokens"].as_array_mut().unwrap();
            added.extend([(9, "▁▁"), (12, "\n\n")].map(|(id, run)| json!({ "id": id, "content": run })));
            json["normalizer"] = json["normalizer"]["normalizers"][1].clone();
            of(json)
        };
        let rest = [["▁", "▁"], ["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"]];
        let merges = |first: &[[&str; 2]]| json!([first, &rest[..]].concat());
        let found = with_runs(merges(&[["▁▁", "▁"], ["\n", "\n"], ["▁", "▁▁"]])).unwrap();
        assert_eq!(found.token_types[9..], [1, 1, 1, 4]);
        assert!(found.scores[10] > found.scores[9] && found.scores[9] > found.scores[7], "{:?}", found.scores);
        // Of merges in one place there is nothing to ask.
        assert!(with_runs(merges(&[["▁", "▁▁"], ["▁▁", "▁"]])).is_ok());
        let parted = [["▁", "▁▁"], ["\n", "\n"], ["▁▁", "▁"]];
        let late = [&rest[..], &[["▁▁", "▁"], ["\n", "\n"], ["▁", "▁▁"]]].concat();
        for bad in [merges(&parted), json!(late)] {
            let error = with_runs(bad).unwrap_err();
            assert!(error.contains("two places"), "{error}");
        }
    }

    #[test]
    fn what_scores_cannot_say_is_refused() {
        for (merges, reason) in [
            (json!([["▁", "ab"], ["a", "b"], ["▁a", "b"], ["▁", "a"]]), "two places"),
            (json!([["a", "b"], ["▁", "a"]]), "\"▁ab\", which no merge makes"),
            (json!([["b", "a"]]), "makes no token"),
        ] {
            let error = of(file(merges)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for (pointer, value, reason) in [
            ("/normalizer", json!({ "type": "NFKC" }), "NFKC"),
            ("/pre_tokenizer", json!({ "type": "Whitespace" }), "Whitespace"),
            ("/decoder", json!({ "type": "Metaspace" }), "decoder Metaspace"),
        ] {
            let mut json = file(json!([]));
            json[pointer.trim_start_matches('/')] = value;
            let error = of(json).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
