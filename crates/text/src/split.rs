//! Pre-tokenization: cutting a text into the stretches that merges never cross.

use std::sync::Arc;

use regex_automata::{Input, meta::Regex};
use tokenizers::{
    Offsets, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Result, SplitDelimiterBehavior, pattern::Pattern,
    pre_tokenizers::byte_level::ByteLevel,
};

/// How the patterns of the GPT-2 family end: a run of white space leaves its last character to the word that follows.
const TRAILING_SPACE: &str = r"|\s+(?!\S)|\s+";

/// GPT-2's pattern, which `ByteLevel` pre-tokenizers apply when they are told to use a regex.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A sequence of splitting steps, cheap to clone.
#[derive(Clone)]
pub(crate) struct Splitter(Arc<[Step]>);

pub(crate) enum Step {
    /// One of the `tokenizers` crate's own.
    Library(PreTokenizerWrapper),
    /// A pattern that ends in [`TRAILING_SPACE`].
    Words(Words),
}

impl Splitter {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl Step {
    /// Writes every byte as a character of GPT-2's alphabet; splits nothing.
    pub(crate) fn byte_alphabet() -> Self {
        Self::Library(ByteLevel::new(false, true, false).into())
    }
}

impl PreTokenizer for Splitter {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        for step in self.0.iter() {
            match step {
                Step::Library(step) => step.pre_tokenize(text)?,
                Step::Words(words) => text.split(|_, piece| piece.split(words, SplitDelimiterBehavior::Isolated))?,
            }
        }
        Ok(())
    }
}

/// A pattern of the GPT-2 family, matched without look-ahead.
///
/// A backtracking engine gives up silently on a long run of white space (a megabyte of spaces is a legal prompt) and
/// is slow everywhere else. The look-ahead only ever says "all of the run but its last character, if something other
/// than white space follows", which is easily done after an ordinary linear-time match of `\s+`.
pub(crate) struct Words(Regex);

impl Words {
    /// `None` for a pattern that does not end in the look-ahead, that needs a backtracking engine elsewhere too or
    /// that can match nothing at all.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let head = pattern.strip_suffix(TRAILING_SPACE)?;
        let shortest = regex_automata::util::syntax::parse(head).ok()?.properties().minimum_len();
        if shortest == Some(0) {
            return None;
        }
        // The number of the pattern that matched tells which half of the alternation it was.
        Regex::new_many(&[head, r"\s+"]).ok().map(Self)
    }
}

const WHITE_SPACE: usize = 1;

impl Pattern for &Words {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        let mut pieces = Vec::with_capacity(text.len() / 4 + 1);
        let mut at = 0;
        while let Some(found) = self.0.search(&Input::new(text).span(at..text.len())) {
            let (start, mut end) = (found.start(), found.end());
            if found.pattern().as_usize() == WHITE_SPACE && end < text.len() {
                let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
                if end - last > start {
                    end -= last;
                }
            }
            if start > at {
                pieces.push(((at, start), false));
            }
            pieces.push(((start, end), true));
            at = end;
        }
        if at < text.len() || pieces.is_empty() {
            pieces.push(((at, text.len()), false));
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

    use super::*;
    use crate::pre;

    fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut pre = PreTokenizedString::from(text);
        splitter.pre_tokenize(&mut pre).unwrap();
        let splits = pre.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::None);
        splits.into_iter().map(|(piece, ..)| piece.to_owned()).collect()
    }

    fn linear(pattern: &str) -> Splitter {
        Splitter::new([Step::Words(Words::new(pattern).unwrap())])
    }

    fn with_look_ahead(pattern: &str) -> Splitter {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        Splitter::new([Step::Library(split.unwrap().into())])
    }

    #[test]
    fn equals_the_look_ahead() {
        let text = r"(?s)[ \t\r\n\u{a0}\u{3000}\u{85}a-cÄé日0-9²½.,!'stTVRE-]{0,40}|.{0,20}";
        for pattern in [GPT2, pre::LLAMA3, pre::QWEN2] {
            let (linear, reference) = (linear(pattern), with_look_ahead(pattern));
            proptest!(|(text in text)| prop_assert_eq!(pieces(&linear, &text), pieces(&reference, &text)));
        }
    }

    #[test]
    fn a_run_of_space_longer_than_any_backtracking_limit() {
        let spaces = " ".repeat(3 << 20);
        assert_eq!(pieces(&linear(pre::LLAMA3), &format!("{spaces}a b")), [&spaces[1..], " a", " b"]);
    }

    #[test]
    fn other_patterns_are_left_to_the_library() {
        for pattern in [r"\p{L}+", r"(?=a)b|\s+(?!\S)|\s+", r"(a|\s+(?!\S)|\s+", r"\b|a?|\s+(?!\S)|\s+"] {
            assert!(Words::new(pattern).is_none(), "{pattern}");
        }
    }
}
