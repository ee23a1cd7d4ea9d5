//! SentencePiece-style vocabularies of GGUF files: greedy merging by score with byte fallback.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

/// Pieces with scores.
///
/// A text starts as single characters; the adjacent pair whose concatenation is the piece with the highest score is
/// merged, the leftmost of equals first, until no adjacent pair makes a piece. What is then still a character without
/// a piece becomes its `<0xHH>` byte tokens, or the unknown token where a vocabulary has none.
#[derive(Debug, Default)]
pub(crate) struct SentencePiece {
    pieces: HashMap<String, (u32, f32)>,
    by_id: HashMap<u32, String>,
    bytes: HashMap<u8, u32>,
    unk: Option<u32>,
}

/// A stretch of text that is one symbol now; `end == start` once it has been merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that make a piece: where they were when it was found out.
struct Candidate {
    score: f32,
    left: usize,
    start: usize,
    end: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.start.cmp(&self.start))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl SentencePiece {
    /// Adds a piece that text can be merged into. `score` must not be NaN.
    pub(crate) fn add_piece(&mut self, piece: &str, id: u32, score: f32) {
        // -0.0 and 0.0 are equal scores.
        self.pieces.insert(piece.to_owned(), (id, score + 0.0));
        self.by_id.insert(id, piece.to_owned());
    }

    /// Adds the token that stands for one byte.
    pub(crate) fn add_byte(&mut self, byte: u8, id: u32) {
        self.bytes.insert(byte, id);
    }

    pub(crate) fn set_unk(&mut self, id: u32) {
        self.unk = Some(id);
    }

    pub(crate) fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.get(piece).map(|&(id, _)| id)
    }

    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        self.by_id.get(&id).map(String::as_str)
    }

    pub(crate) fn vocab(&self) -> HashMap<String, u32> {
        self.pieces.iter().map(|(piece, &(id, _))| (piece.clone(), id)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Ids of a text whose spaces are already written as `▁`. Takes O(n log n) steps.
    ///
    /// # Errors
    /// A character that has neither a piece nor byte tokens, in a vocabulary without an unknown token.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (i, (start, c)) in text.char_indices().enumerate() {
            if let Some(last) = symbols.last_mut() {
                last.next = Some(i);
            }
            symbols.push(Symbol { start, end: start + c.len_utf8(), prev: i.checked_sub(1), next: None });
        }
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            queue.extend(self.candidate(text, &symbols, left));
        }
        while let Some(found) = queue.pop() {
            let left = symbols[found.left];
            let Some(right_index) = left.next else { continue };
            let right = symbols[right_index];
            // Stale when either half has been merged with something else since.
            if left.end == left.start || left.start != found.start || right.end != found.end {
                continue;
            }
            symbols[found.left].end = right.end;
            symbols[found.left].next = right.next;
            symbols[right_index].end = right.start;
            if let Some(next) = right.next {
                symbols[next].prev = Some(found.left);
            }
            queue.extend(left.prev.and_then(|prev| self.candidate(text, &symbols, prev)));
            queue.extend(self.candidate(text, &symbols, found.left));
        }
        self.ids(text, symbols.iter().filter(|s| s.end > s.start))
    }

    fn candidate(&self, text: &str, symbols: &[Symbol], left: usize) -> Option<Candidate> {
        let Symbol { start, next, .. } = symbols[left];
        let end = symbols[next?].end;
        let &(_, score) = self.pieces.get(&text[start..end])?;
        Some(Candidate { score, left, start, end })
    }

    fn ids<'a>(&self, text: &str, symbols: impl Iterator<Item = &'a Symbol>) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut after_unknown = false;
        for symbol in symbols {
            let piece = &text[symbol.start..symbol.end];
            if let Some(id) = self.id(piece) {
                ids.push(id);
                after_unknown = false;
            } else if let Some(bytes) = piece.bytes().map(|b| self.bytes.get(&b).copied()).collect::<Option<Vec<_>>>() {
                ids.extend(bytes);
                after_unknown = false;
            } else {
                let unk = self.unk.ok_or_else(|| format!("no token, byte tokens or unknown token for {piece:?}"))?;
                // A run of unknown characters is one unknown token.
                if !after_unknown {
                    ids.push(unk);
                }
                after_unknown = true;
            }
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word, in quadratic time.
    fn by_definition(model: &SentencePiece, text: &str) -> Vec<u32> {
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for i in 1..symbols.len() {
                let pair = format!("{}{}", symbols[i - 1], symbols[i]);
                if let Some(&(_, score)) = model.pieces.get(&pair)
                    && best.is_none_or(|(top, _)| score > top)
                {
                    best = Some((score, i));
                }
            }
            let Some((_, i)) = best else { break };
            let right = symbols.remove(i);
            symbols[i - 1].push_str(&right);
        }
        symbols
            .iter()
            .flat_map(|s| model.id(s).map_or_else(|| s.bytes().map(|b| model.bytes[&b]).collect(), |id| vec![id]))
            .collect()
    }

    fn with_bytes() -> SentencePiece {
        let mut model = SentencePiece::default();
        for b in 0..=255u8 {
            model.add_byte(b, u32::from(b) + 1000);
        }
        model
    }

    proptest! {
        #[test]
        fn the_heap_merges_what_the_definition_merges(
            pieces in prop::collection::hash_map("[abc▁]{1,4}", -4i8..=0, 0..40),
            text in "[abcd▁é]{0,40}",
        ) {
            let mut model = with_bytes();
            for (i, (piece, score)) in pieces.iter().enumerate() {
                model.add_piece(piece, i as u32, f32::from(*score));
            }
            prop_assert_eq!(model.encode(&text).unwrap(), by_definition(&model, &text));
        }
    }

    #[test]
    fn equal_scores_merge_from_the_left() {
        let mut model = with_bytes();
        for (id, piece) in ["a", "aa", "aaa"].into_iter().enumerate() {
            model.add_piece(piece, id as u32, -1.0);
        }
        assert_eq!(model.encode("aaaaa").unwrap(), [2, 1]);
        assert_eq!(model.encode("").unwrap(), [] as [u32; 0]);
    }

    #[test]
    fn what_no_piece_covers() {
        let mut model = with_bytes();
        assert_eq!(model.encode("é").unwrap(), [1000 + 0xC3, 1000 + 0xA9]);
        model.bytes.clear();
        assert!(model.encode("é").unwrap_err().contains('é'));
        model.set_unk(0);
        model.add_piece("a", 5, 0.0);
        assert_eq!(model.encode("éüaé").unwrap(), [0, 5, 0]);
    }

    #[test]
    fn long_texts_take_no_quadratic_time() {
        let mut model = with_bytes();
        for (id, n) in [1, 2, 4, 8, 16].into_iter().enumerate() {
            model.add_piece(&"a".repeat(n), id as u32, -(id as f32));
        }
        let ids = model.encode(&"a".repeat(1 << 18)).unwrap();
        assert_eq!(ids, vec![4; 1 << 14]);
    }
}
