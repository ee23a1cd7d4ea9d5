//! Tokenizers made here: read back by this crate and by Hugging Face's library, from both kinds of files.

use std::{str::FromStr, sync::OnceLock};

use bitnet_text::{END_OF_TEXT, MakeError, MakeProgress, Message, NewTokenizer, Role, TURN_END, TURN_START, Tokenizer};
use proptest::prelude::*;

/// Prose of the fixtures, in pieces.
fn texts() -> Vec<String> {
    let text = std::fs::read_to_string(bitnet_fixtures::moby("heldout.txt")).unwrap();
    text.split_inclusive('\n').map(String::from).collect()
}

fn train(texts: &[String], vocab_size: usize, chat: bool) -> Result<NewTokenizer, MakeError> {
    NewTokenizer::train(texts.iter(), vocab_size, chat, &mut |_| {})
}

fn trained() -> &'static NewTokenizer {
    static TRAINED: OnceLock<NewTokenizer> = OnceLock::new();
    TRAINED.get_or_init(|| train(&texts(), 600, true).unwrap())
}

#[test]
fn a_byte_is_its_own_id() {
    let new = NewTokenizer::bytes(false);
    assert_eq!((new.vocab_size(), new.end_of_text(), new.turn_end()), (257, 256, None));
    let tokenizer = new.tokenizer().unwrap();
    let text = "Ahab\u{0}\n  é日\u{10ffff}<|im_end|>";
    let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
    assert_eq!(tokenizer.encode(text, true).unwrap(), bytes);
    assert_eq!(tokenizer.encode(&format!("{text}{END_OF_TEXT}"), true).unwrap(), [bytes.as_slice(), &[256]].concat());
    assert_eq!(tokenizer.encode_plain(END_OF_TEXT, true).unwrap().len(), END_OF_TEXT.len());
    assert_eq!((tokenizer.vocab_size(), tokenizer.stop_tokens(), tokenizer.bos()), (257, &[256][..], None));
}

#[test]
fn chat_markers() {
    for new in [&NewTokenizer::bytes(true), trained()] {
        let tokenizer = new.tokenizer().unwrap();
        let ids = [END_OF_TEXT, TURN_START, TURN_END].map(|token| tokenizer.id(token).unwrap());
        let first = new.end_of_text();
        assert_eq!(ids, [first, first + 1, first + 2]);
        assert_eq!(new.turn_end(), Some(first + 2));
        assert_eq!(tokenizer.stop_tokens(), [first, first + 2]);
        let messages = [Message::new(Role::User, "Who?"), Message::new(Role::Assistant, "Ahab")];
        let text = tokenizer.chat_template().unwrap().render(&messages[..1], true).unwrap();
        assert_eq!(text, "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n");
        let whole = tokenizer.encode_chat(&messages, false).unwrap();
        assert!(whole.starts_with(&tokenizer.encode_chat(&messages[..1], true).unwrap()));
        let from_gguf = Tokenizer::from_gguf(new.gguf()).unwrap();
        assert_eq!(from_gguf.encode_chat(&messages, false).unwrap(), whole);
        assert_eq!(from_gguf.stop_tokens(), tokenizer.stop_tokens());
    }
}

#[test]
fn merges_shorten_the_text_they_come_from() {
    let new = trained();
    assert_eq!(new.vocab_size(), 600);
    let text = texts().concat();
    let ids = new.tokenizer().unwrap().encode(&text, false).unwrap();
    assert!(ids.len() * 2 < text.len(), "{} tokens for {} bytes", ids.len(), text.len());
}

#[test]
fn the_same_texts_make_the_same_file() {
    let mut texts = texts();
    let first = train(&texts, 700, false).unwrap().tokenizer_json();
    texts.reverse();
    for _ in 0..3 {
        assert_eq!(train(&texts, 700, false).unwrap().tokenizer_json(), first);
    }
    assert!(!first.is_empty());
}

#[test]
fn progress_is_told() {
    let mut seen = Vec::new();
    let texts = ["ab ab", "abc"];
    let new = NewTokenizer::train(texts.iter(), 1000, false, &mut |p| seen.push(p)).unwrap();
    // Not enough pairs occur twice for 1000 tokens.
    assert!((258..300).contains(&new.vocab_size()), "{}", new.vocab_size());
    let (reading, merging) = (|bytes| MakeProgress::Reading { bytes }, MakeProgress::Merging { words: 3 });
    assert_eq!(seen, [reading(5), reading(8), merging]);
}

#[test]
fn what_cannot_be_made() {
    assert_eq!(train(&[], 300, false), Err(MakeError::NoText));
    assert_eq!(train(&[String::new()], 300, false), Err(MakeError::NoText));
    assert_eq!(train(&texts(), 258, true), Err(MakeError::VocabularyTooSmall { asked: 258, least: 259 }));
    assert!(train(&texts(), 259, true).is_ok_and(|new| new == NewTokenizer::bytes(true)));
    assert!(matches!(train(&texts(), usize::MAX, true), Err(MakeError::VocabularyTooLarge { .. })));
}

#[test]
fn a_run_without_words_takes_no_time() {
    let texts = ["-".repeat(3 << 20), " ".repeat(3 << 20), "a".repeat(3 << 20)];
    assert_eq!(train(&texts, 400, false).unwrap(), NewTokenizer::bytes(false));
}

#[test]
fn every_reader_gives_the_same_ids() {
    for new in [&NewTokenizer::bytes(false), trained()] {
        let library = tokenizers::Tokenizer::from_str(&new.tokenizer_json()).unwrap();
        let (hf, gguf) = (new.tokenizer().unwrap(), Tokenizer::from_gguf(new.gguf()).unwrap());
        assert_eq!((hf.vocab_size(), gguf.vocab_size()), (new.vocab_size(), new.vocab_size()));
        assert_eq!(library.get_vocab_size(true), new.vocab_size());
        for id in 0..new.vocab_size() as u32 {
            assert_eq!(hf.token(id), gguf.token(id));
            assert_eq!(hf.token(id), library.id_to_token(id));
        }
        let text = r"(?s)(\PC|.|[ \n\t]{1,4}|the |whale|<\|endoftext\|>|'ll|[0-9]{1,5}){0,30}";
        proptest!(|(text in text)| {
            let ids = hf.encode(&text, true).unwrap();
            let encoding = library.encode(text.as_str(), true).unwrap();
            prop_assert_eq!(encoding.get_ids(), &ids[..]);
            prop_assert_eq!(&gguf.encode(&text, true).unwrap(), &ids);
            prop_assert_eq!(&hf.decode(&ids, false).unwrap(), &text);
            let plain = hf.encode_plain(&text, true).unwrap();
            prop_assert_eq!(&gguf.encode_plain(&text, true).unwrap(), &plain);
            prop_assert_eq!(&hf.decode(&plain, true).unwrap(), &text);
        });
    }
}
