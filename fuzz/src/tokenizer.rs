//! A tokenizer from a GGUF vocabulary, and what it makes of texts.

use std::collections::HashSet;

use bitnet_fixtures::moby;
use bitnet_format::{TokenizerSource, open};
use bitnet_text::{GgufVocabulary, HfTokenizer, Message, Role, Tokenizer};

use crate::{Seeds, read};

/// The input is lines of a key and a value: `model gpt2`, `pre llama-bpe`, `token 1 -0.5 Ġworld` (type, score, spelling), `merge
/// Ġ w`, `bos 3`, `add_bos true`, `template ...`, `text Hello!` and so on.
pub fn run(data: &[u8]) {
    let Ok(lines) = std::str::from_utf8(data) else { return };
    let (vocabulary, texts) = parse(lines);
    let tokenizer = match Tokenizer::from_gguf(vocabulary.clone()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return read::one_line(error),
    };
    assert!(tokenizer.stop_tokens().iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    let written = vocabulary.to_hf().map_err(read::one_line).ok();
    // The same vocabulary by the other road gives the same tokens, where the order of merges can say what scores say.
    let twin = written.filter(|_| has_an_order(&vocabulary)).map(|files| {
        Tokenizer::from_hf(HfTokenizer {
            tokenizer_json: files.tokenizer_json.as_bytes(),
            tokenizer_config: Some(&files.tokenizer_config),
            ..HfTokenizer::default()
        })
        .expect("what is written as tokenizer.json can be read")
    });
    for text in &texts {
        for add_special in [false, true] {
            let ids = tokenizer.encode(text, add_special).map_err(read::one_line).ok();
            if let Some(twin) = &twin {
                assert_eq!(twin.encode(text, add_special).map_err(read::one_line).ok(), ids);
            }
            ids.iter().for_each(|ids| check(&tokenizer, ids));
        }
        if let Ok(ids) = tokenizer.encode_plain(text, false).map_err(read::one_line) {
            let forged = ids.iter().find(|id| tokenizer.is_special(**id) && !is_unknown(&vocabulary, **id));
            assert_eq!(forged, None, "plain text became a special token");
            check(&tokenizer, &ids);
        }
    }
    let messages: Vec<_> = texts.into_iter().map(|text| Message::new(Role::User, text)).collect();
    if let Ok(ids) = tokenizer.encode_chat(&messages, true).map_err(read::one_line) {
        check(&tokenizer, &ids);
    }
}

/// Whether no two pieces of SentencePiece have one score, and none is made in two ways: the merges of a `tokenizer.json` have to
/// put them in an order, and where they overlap in a text it is cut at another place.
fn has_an_order(vocabulary: &GgufVocabulary) -> bool {
    let pieces: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    let made = || vocabulary.tokens.iter().zip(&vocabulary.scores).filter(|(token, _)| token.chars().nth(1).is_some());
    let scores: HashSet<u32> = made().map(|(_, score)| (score + 0.0).to_bits()).collect();
    let ways = |token: &str| {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        cuts.filter(|(left, right)| pieces.contains(left) && pieces.contains(right)).count()
    };
    vocabulary.model != "llama" || (scores.len() == made().count() && made().all(|(token, _)| ways(token) <= 1))
}

/// The token that stands for what a vocabulary cannot spell may come of any text.
fn is_unknown(vocabulary: &GgufVocabulary, id: u32) -> bool {
    vocabulary.unk == Some(id) || vocabulary.token_types.get(id as usize) == Some(&2)
}

/// Every id is a token, and piece by piece they are the same text as at once.
pub(crate) fn check(tokenizer: &Tokenizer, ids: &[u32]) {
    for id in ids {
        assert!((*id as usize) < tokenizer.vocab_size());
        // A file may name an empty token as its BOS or as the one for what it cannot spell.
        let text = tokenizer.decode(&[*id], false).expect("tokens of a text have a spelling");
        assert!(tokenizer.token(*id).is_some() || text.is_empty());
    }
    let whole = tokenizer.decode(ids, true).expect("tokens of a text have a spelling");
    let mut stream = tokenizer.detokenizer();
    let mut pieces: String = ids.iter().map(|id| stream.push(*id).expect("tokens of a text have a spelling")).collect();
    pieces += &stream.finish();
    assert_eq!(pieces, whole);
}

fn parse(lines: &str) -> (GgufVocabulary, Vec<String>) {
    let (mut vocabulary, mut texts) = (GgufVocabulary::default(), Vec::new());
    let v = &mut vocabulary;
    for line in lines.split('\n') {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let (owned, number, flag) = (value.to_string(), value.parse().ok(), value.parse().ok());
        match key {
            "model" => v.model = owned,
            "pre" => v.pre = Some(owned),
            "merge" => v.merges.push(owned),
            "bos" => v.bos = number,
            "eos" => v.eos = number,
            "eot" => v.eot = number,
            "pad" => v.pad = number,
            "unk" => v.unk = number,
            "add_bos" => v.add_bos = flag,
            "add_space_prefix" => v.add_space_prefix = flag,
            "template" => v.chat_template = Some(owned),
            "architecture" => v.architecture = owned,
            "text" => texts.push(owned),
            "token" => {
                let mut parts = value.splitn(3, ' ');
                let mut next = || parts.next().unwrap_or_default();
                v.token_types.push(next().parse().unwrap_or(1));
                v.scores.push(next().parse().unwrap_or_default());
                v.tokens.push(next().to_string());
            }
            _ => {}
        }
    }
    (vocabulary, texts)
}

/// A SentencePiece vocabulary with everything that such a one has but tokens for bytes.
const SENTENCEPIECE: &str = "model llama
token 2 0 <unk>
token 3 0 <s>
token 3 0 </s>
token 1 -3 ▁
token 1 -2 a
token 1 -1 ▁a
token 4 0 tool
token 5 0 spare
bos 1
eos 2
template {{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}
text aa A </s> tool
text  a é";

/// The first tokens of the fixture's vocabulary with the merges that make them, and a SentencePiece vocabulary.
pub fn seeds() -> Seeds {
    const KEPT: usize = 300;
    let model = open(moby("i2_s.gguf")).expect("the fixture opens");
    let Ok(TokenizerSource::Gguf(own)) = model.tokenizer_files() else { unreachable!("the fixture has a vocabulary") };
    let mut lines = vec![format!("model {}", own.model), "pre llama-bpe".to_string()];
    lines.extend(own.tokens[..KEPT].iter().map(|token| format!("token 1 0 {token}")));
    let is_kept = |merge: &&String| own.tokens[..KEPT].contains(&merge.replace(' ', ""));
    let merges = own.merges.iter().take_while(is_kept);
    lines.extend(merges.map(|merge| format!("merge {merge}")));
    lines.push("token 3 0 <|end_of_text|>".to_string());
    lines.extend([format!("bos {KEPT}"), format!("eos {KEPT}")]);
    lines.push("text The whale's 1234 teeth, é <|end_of_text|>".to_string());
    lines.push("template {% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}".to_string());
    let of_few =
        "model gpt2\npre gpt-2\ntoken 1 0 a\ntoken 1 0 b\ntoken 1 0 ab\ntoken 3 0 <s>\nmerge a b\nbos 3\ntext ab<s>ba";
    let bytes: String = (0..=255u8).map(|byte| format!("token 6 0 <0x{byte:02X}>\n")).collect();
    let with_bytes = SENTENCEPIECE.replace("token 1 -3", &format!("{bytes}token 1 -3"));
    vec![
        ("byte-level".to_string(), lines.join("\n").into_bytes()),
        ("byte-level-few".to_string(), of_few.into()),
        ("sentencepiece".to_string(), SENTENCEPIECE.into()),
        ("sentencepiece-bytes".to_string(), with_bytes.into()),
    ]
}
