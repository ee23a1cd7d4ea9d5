//! A vocabulary of made-up words that a byte-level tokenizer really works with.

use std::collections::HashMap;

const ONSETS: &str = "bcdfghjklmnprstvwz";
const VOWELS: &str = "aeiou";

/// How GPT-2's byte alphabet writes a space.
const SPACE: char = 'Ġ';

/// Words of three syllables. With this many of them, 128,000 tokens have as many merges as LLaMA-3's: 280,147.
const LONG_WORDS: usize = 53_765;

/// Of the 729,000 possible words of three syllables every 13th is taken.
const LONG_WORD_STRIDE: usize = 13;

/// Tokens after the words, all of them control tokens, as LLaMA-3 has.
const SPECIALS: usize = 256;

/// A vocabulary built as LLaMA-3's is: the 256 bytes, then words, then 256 control tokens.
///
/// Words are made of the 90 syllables of a consonant and a vowel: words of one and of two syllables, each in four forms
/// (`bake`, `Bake`, and both with a space before), then some of three, first without and then with a space. Every part
/// of a word at a syllable's edge is a token too, so however merging begins it ends at the longest token. Merges
/// are all ways to split a token in two tokens, in the order of the token's, then the left part's, then the right part's
/// id, as LLaMA-3's are.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    words: Vec<String>,
    merges: Vec<String>,
}

impl Vocabulary {
    /// As large as LLaMA-3's, which is 2B-4T's: 128,256 tokens and 280,147 merges.
    pub fn real_size() -> Self {
        Self::with_words(128_000)
    }

    /// Of 2,048 tokens.
    pub fn small() -> Self {
        Self::with_words(2_048 - SPECIALS)
    }

    fn with_words(count: usize) -> Self {
        let words: Vec<String> = all_words().take(count).collect();
        let merges = merges(&words);
        Self { words, merges }
    }

    /// Whether readers know this vocabulary's pre-tokenizer, LLaMA-3's, from its size alone.
    pub fn is_real_size(&self) -> bool {
        self.size() == 128_256
    }

    /// Number of tokens, the control tokens included.
    pub fn size(&self) -> usize {
        self.words.len() + SPECIALS
    }

    /// The ordinary tokens in the byte alphabet, in order of their ids, which begin at 0.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The control tokens with their ids, which follow the words'. Their names and order are LLaMA-3's.
    pub fn specials(&self) -> impl Iterator<Item = (usize, String)> {
        let first = self.words.len();
        (0..SPECIALS).map(move |i| {
            let name = match i {
                0 => "begin_of_text".to_string(),
                1 => "end_of_text".to_string(),
                6 => "start_header_id".to_string(),
                7 => "end_header_id".to_string(),
                9 => "eot_id".to_string(),
                2..=5 => format!("reserved_special_token_{}", i - 2),
                8 => "reserved_special_token_4".to_string(),
                _ => format!("reserved_special_token_{}", i - 5),
            };
            (first + i, format!("<|{name}|>"))
        })
    }

    /// The merges in order of priority: two tokens with a space between.
    pub fn merges(&self) -> &[String] {
        &self.merges
    }

    /// The id of `<|begin_of_text|>`.
    pub fn begin_of_text(&self) -> usize {
        self.words.len()
    }

    /// The id of `<|end_of_text|>`.
    pub fn end_of_text(&self) -> usize {
        self.words.len() + 1
    }
}

/// The 256 letters of GPT-2's byte alphabet in the order of its ids: printable Latin-1 characters stand for
/// themselves, other bytes are written as the characters from U+0100 on.
fn byte_letters() -> impl Iterator<Item = char> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255).filter(move |byte| !printable(byte)).zip('\u{100}'..).map(|(_, letter)| letter);
    (0..=255).filter(printable).map(char::from).chain(others)
}

/// Every ordinary token, the most useful first.
fn all_words() -> impl Iterator<Item = String> {
    let syllables: Vec<String> =
        ONSETS.chars().flat_map(|onset| VOWELS.chars().map(move |vowel| format!("{onset}{vowel}"))).collect();
    let pairs: Vec<String> =
        syllables.iter().flat_map(|first| syllables.iter().map(move |second| format!("{first}{second}"))).collect();
    let count = syllables.len();
    let long: Vec<String> = (0..LONG_WORDS)
        .map(|i| i * LONG_WORD_STRIDE)
        .map(|i| format!("{}{}", syllables[i / (count * count)], pairs[i % (count * count)]))
        .collect();
    let spaced: Vec<String> = long.iter().map(|word| format!("{SPACE}{word}")).collect();
    let short = syllables.into_iter().chain(pairs).flat_map(forms);
    byte_letters().map(String::from).chain(short).chain(long).chain(spaced)
}

/// A word, capitalized, and both with a space before. Shorter forms come first, so that parts precede wholes.
fn forms(word: String) -> [String; 4] {
    let capital = word[..1].to_uppercase() + &word[1..];
    let (spaced, spaced_capital) = (format!("{SPACE}{word}"), format!("{SPACE}{capital}"));
    [word, capital, spaced, spaced_capital]
}

/// All ways to split a word into two words.
fn merges(words: &[String]) -> Vec<String> {
    let ids: HashMap<&str, usize> = words.iter().enumerate().map(|(id, word)| (word.as_str(), id)).collect();
    let mut merges = Vec::new();
    for word in words {
        let split = |(at, _)| {
            let (left, right) = word.split_at(at);
            Some((*ids.get(left)?, *ids.get(right)?))
        };
        let mut pairs: Vec<(usize, usize)> = word.char_indices().skip(1).filter_map(split).collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(left, right)| format!("{} {}", words[left], words[right])));
    }
    merges
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_counts_are_llama_3s() {
        let vocabulary = Vocabulary::real_size();
        assert_eq!((vocabulary.size(), vocabulary.merges().len()), (128_256, 280_147));
        assert!(vocabulary.is_real_size() && !Vocabulary::small().is_real_size());
        assert_eq!(vocabulary.begin_of_text(), 128_000);
    }

    #[test]
    fn every_token_is_another() {
        for vocabulary in [Vocabulary::real_size(), Vocabulary::small()] {
            let tokens: HashSet<String> =
                vocabulary.words().iter().cloned().chain(vocabulary.specials().map(|(_, token)| token)).collect();
            assert_eq!(tokens.len(), vocabulary.size());
            let merges: HashSet<&String> = vocabulary.merges().iter().collect();
            assert_eq!(merges.len(), vocabulary.merges().len());
        }
    }

    #[test]
    fn bytes_come_first_and_each_word_after_them_has_a_merge() {
        let vocabulary = Vocabulary::small();
        assert_eq!(vocabulary.words()[..3], ["!", "\"", "#"]);
        assert_eq!(vocabulary.words()[188..191], ["\u{100}", "\u{101}", "\u{102}"]);
        assert_eq!(vocabulary.words()[255], "\u{143}");
        let made: HashSet<String> = vocabulary.merges().iter().map(|merge| merge.replace(' ', "")).collect();
        assert!(vocabulary.words()[256..].iter().all(|word| made.contains(word)));
    }

    #[test]
    fn specials_have_llama_3s_names() {
        let specials: Vec<String> = Vocabulary::small().specials().map(|(_, token)| token).collect();
        assert_eq!(specials[0], "<|begin_of_text|>");
        assert_eq!(specials[5], "<|reserved_special_token_3|>");
        assert_eq!(specials[8..11], ["<|reserved_special_token_4|>", "<|eot_id|>", "<|reserved_special_token_5|>"]);
        assert_eq!(specials[255], "<|reserved_special_token_250|>");
    }
}
