//! Tokenizers from the metadata of a GGUF file.

use ahash::AHashMap;
use tokenizers::{
    AddedToken, ModelWrapper, NormalizerWrapper,
    normalizers::{Prepend, Replace, Sequence},
};

use crate::{
    TextError,
    bpe::BpeParts,
    chat,
    frame::Frame,
    model::Algorithm,
    pre,
    sentencepiece::SentencePiece,
    spelling::{self, Alphabet, Spelling},
    tokenizer::Parts,
};

/// The `tokenizer.*` keys of a GGUF file, as they stand there.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split before merging; byte-level BPE only.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, one a token; SentencePiece only.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, one a token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    /// Empty means that all are normal.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: two tokens separated by a space, in order of priority; byte-level BPE only.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`; SentencePiece only, where it defaults to true.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
}

pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

pub(crate) fn read(vocab: GgufVocabulary) -> Result<Parts, TextError> {
    if vocab.tokens.is_empty() {
        return Err(TextError::gguf(TOKENS, "the vocabulary is empty"));
    }
    // Ids are u32 and tables are laid out by id.
    if vocab.tokens.len() > spelling::MAX_VOCAB as usize {
        return Err(TextError::gguf(
            TOKENS,
            format!("{} tokens are more than {}", vocab.tokens.len(), spelling::MAX_VOCAB),
        ));
    }
    let kinds = kinds(&vocab)?;
    check_special_ids(&vocab)?;
    match vocab.model.as_str() {
        "gpt2" => byte_level(vocab, &kinds),
        "llama" => sentencepiece(vocab, &kinds),
        _ => Err(TextError::UnknownModel { model: vocab.model }),
    }
}

pub(crate) fn kinds(vocab: &GgufVocabulary) -> Result<Vec<Kind>, TextError> {
    let key = "tokenizer.ggml.token_type";
    let (types, tokens) = (&vocab.token_types, &vocab.tokens);
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(TextError::gguf(key, format!("{} types for {} tokens", types.len(), tokens.len())));
    }
    let kind = |(i, token): (usize, &String)| {
        Ok(match types.get(i).copied().unwrap_or(1) {
            // Converters have been seen to forget the type of control tokens.
            1 if looks_like_control(token) => Kind::Control,
            1 if types.is_empty() && vocab.model == "llama" && spelling::byte_token(token).is_some() => Kind::Byte,
            0 | 1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            other => return Err(TextError::gguf(key, format!("token {i} ({token:?}) has unknown type {other}"))),
        })
    };
    tokens.iter().enumerate().map(kind).collect()
}

pub(crate) fn looks_like_control(token: &str) -> bool {
    token.len() > 4 && token.starts_with("<|") && token.ends_with("|>")
}

fn check_special_ids(vocab: &GgufVocabulary) -> Result<(), TextError> {
    let ids = [
        ("tokenizer.ggml.bos_token_id", vocab.bos),
        ("tokenizer.ggml.eos_token_id", vocab.eos),
        ("tokenizer.ggml.eot_token_id", vocab.eot),
        ("tokenizer.ggml.padding_token_id", vocab.pad),
        ("tokenizer.ggml.unknown_token_id", vocab.unk),
    ];
    let n = vocab.tokens.len();
    match ids.into_iter().find_map(|(key, id)| id.filter(|&id| id as usize >= n).map(|id| (key, id))) {
        Some((key, id)) => Err(TextError::gguf(key, format!("id {id} is not among the {n} tokens"))),
        None => Ok(()),
    }
}

fn byte_level(vocab: GgufVocabulary, kinds: &[Kind]) -> Result<Parts, TextError> {
    let pre = pre::resolve(vocab.pre.as_deref(), &vocab.tokens)?;
    let spelling = lay_out(&vocab.tokens, kinds, Alphabet::ByteLevel)?;
    let Outside { added, unreachable } = outside(&vocab.tokens, kinds);
    let rest = finish(&vocab, pre.add_bos)?;

    let mut words = AHashMap::with_capacity(vocab.tokens.len());
    for ((id, token), kind) in (0u32..).zip(vocab.tokens).zip(kinds) {
        if matches!(kind, Kind::Normal | Kind::Byte) && !token.is_empty() {
            insert_once(&mut words, token, id)?;
        }
    }
    let merges =
        vocab.merges.into_iter().enumerate().map(|(i, merge)| split_merge(i, &merge)).collect::<Result<_, _>>()?;
    let bpe = BpeParts { vocab: words, merges, ignore_merges: pre.ignore_merges, ..BpeParts::default() };
    let bpe = bpe.build().map_err(|e| TextError::gguf("tokenizer.ggml.merges", e))?;
    Ok(Parts {
        algorithm: Algorithm::Library(ModelWrapper::BPE(bpe)),
        normalizer: None,
        splitter: Some(pre.splitter()?),
        added,
        unreachable,
        spelling,
        frame: rest.frame,
        bos: rest.bos,
        ends: rest.ends,
        template: rest.template,
    })
}

fn insert_once(words: &mut AHashMap<String, u32>, token: String, id: u32) -> Result<(), TextError> {
    if let Some(first) = words.get(&token) {
        return Err(TextError::gguf(TOKENS, format!("token {token:?} has two ids, {first} and {id}")));
    }
    words.insert(token, id);
    Ok(())
}

/// Tokens never contain a plain space in the byte alphabet, so the first one separates the halves.
fn split_merge(index: usize, merge: &str) -> Result<(String, String), TextError> {
    match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.to_owned(), right.to_owned())),
        _ => Err(TextError::gguf("tokenizer.ggml.merges", format!("merge {index} ({merge:?}) is not two tokens"))),
    }
}

fn sentencepiece(vocab: GgufVocabulary, kinds: &[Kind]) -> Result<Parts, TextError> {
    let key = "tokenizer.ggml.scores";
    let (scores, tokens) = (&vocab.scores, &vocab.tokens);
    if scores.len() != tokens.len() {
        return Err(TextError::gguf(key, format!("{} scores for {} tokens", scores.len(), tokens.len())));
    }
    let prefix_space = vocab.add_space_prefix.unwrap_or(true);
    let spelling = lay_out(tokens, kinds, Alphabet::SentencePiece { prefix_space })?;
    let Outside { added, mut unreachable } = outside(tokens, kinds);

    let mut pieces = SentencePiece::default();
    let mut seen = AHashMap::with_capacity(tokens.len());
    for (((id, token), kind), &score) in (0u32..).zip(tokens).zip(kinds).zip(scores) {
        match kind {
            Kind::Normal if score.is_nan() => {
                return Err(TextError::gguf(key, format!("the score of token {id} ({token:?}) is not a number")));
            }
            Kind::Normal if !token.is_empty() => {
                insert_once(&mut seen, token.clone(), id)?;
                pieces.add_piece(token, id, score);
            }
            Kind::Byte => {
                let byte = spelling::byte_token(token);
                let byte =
                    byte.ok_or_else(|| TextError::gguf(TOKENS, format!("byte token {id} is {token:?}, not <0xHH>")))?;
                pieces.add_byte(byte, id);
                unreachable.push((id, token.clone()));
            }
            _ => {}
        }
    }
    let unknown = || kinds.iter().position(|&k| k == Kind::Unknown).and_then(|i| u32::try_from(i).ok());
    if let Some(unk) = vocab.unk.or_else(unknown) {
        pieces.set_unk(unk);
    }
    let rest = finish(&vocab, true)?;
    Ok(Parts {
        algorithm: Algorithm::SentencePiece(pieces),
        normalizer: Some(spaces_as_pieces(prefix_space).map_err(|e| TextError::gguf(TOKENS, e))?),
        splitter: None,
        added,
        unreachable,
        spelling,
        frame: rest.frame,
        bos: rest.bos,
        ends: rest.ends,
        template: rest.template,
    })
}

/// Writes every space as `▁`, after putting one before the text if `prefix_space`.
fn spaces_as_pieces(prefix_space: bool) -> tokenizers::Result<NormalizerWrapper> {
    let replace = NormalizerWrapper::from(Replace::new(" ", "▁")?);
    Ok(if prefix_space { Sequence::new(vec![Prepend::new("▁".into()).into(), replace]).into() } else { replace })
}

fn lay_out(tokens: &[String], kinds: &[Kind], alphabet: Alphabet) -> Result<Spelling, TextError> {
    let literal = |kind| !matches!(kind, Kind::Normal | Kind::Byte);
    let tokens = (0u32..).zip(tokens).zip(kinds).map(|((id, token), &kind)| (id, token.as_str(), literal(kind)));
    Spelling::new(alphabet, tokens).map_err(|e| TextError::gguf(TOKENS, e))
}

/// Tokens outside the segmentation algorithm.
#[derive(Default)]
struct Outside {
    /// Found in a text by their spelling.
    added: Vec<(u32, AddedToken)>,
    /// What no text becomes.
    unreachable: Vec<(u32, String)>,
}

/// Empty tokens are holes in the numbering.
fn outside(tokens: &[String], kinds: &[Kind]) -> Outside {
    let mut outside = Outside::default();
    for ((id, token), &kind) in (0u32..).zip(tokens).zip(kinds).filter(|((_, token), _)| !token.is_empty()) {
        match kind {
            Kind::Control | Kind::Unknown => outside.added.push((id, AddedToken::from(token.clone(), true))),
            Kind::UserDefined => outside.added.push((id, AddedToken::from(token.clone(), false).normalized(false))),
            Kind::Unused => outside.unreachable.push((id, token.clone())),
            Kind::Normal | Kind::Byte => {}
        }
    }
    outside
}

/// What does not depend on the segmentation algorithm.
struct Rest {
    frame: Frame,
    bos: Option<u32>,
    ends: Vec<u32>,
    template: Option<Result<chat::ChatTemplate, TextError>>,
}

fn finish(vocab: &GgufVocabulary, add_bos_default: bool) -> Result<Rest, TextError> {
    let mut frame = Frame::default();
    match (vocab.add_bos, vocab.bos) {
        (Some(true), None) => {
            return Err(TextError::gguf("tokenizer.ggml.add_bos_token", "is true, but there is no bos_token_id"));
        }
        (wanted, Some(bos)) if wanted.unwrap_or(add_bos_default) => frame.ensure_bos(bos),
        _ => {}
    }
    let spelled = |id: Option<u32>| id.and_then(|id| vocab.tokens.get(id as usize).cloned());
    let template = chat::for_gguf(vocab.chat_template.as_deref(), &vocab.architecture, vocab.tokens.len());
    let template = template.map(|(source, origin)| {
        chat::ChatTemplate::with_origin(source, spelled(vocab.bos).as_deref(), spelled(vocab.eos).as_deref(), origin)
    });
    Ok(Rest { frame, bos: vocab.bos, ends: [vocab.eos, vocab.eot].into_iter().flatten().collect(), template })
}
