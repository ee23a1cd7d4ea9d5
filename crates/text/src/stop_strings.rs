//! Stop strings, found across the boundaries of streamed pieces.

/// Watches a stream of text pieces for stop strings.
///
/// Text is handed on as soon as it can no longer be the beginning of a stop string. The string that is completed
/// first ends the text; of two completed by the same character, the longer one. The result does not depend on how
/// the text is cut into pieces.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    matched: Option<String>,
}

/// What one [`StopStrings::push`] gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopPush {
    /// Text that may be shown: it is not part of a stop string and cannot become one.
    pub text: String,
    /// The stop string that ended the text, once there is one.
    pub matched: Option<String>,
}

impl StopStrings {
    /// Watches for `stops`; empty strings are left out, since they would stop before the first character.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new(), matched: None }
    }

    /// Takes the next piece. After a match every further push gives the same match and no text.
    pub fn push(&mut self, piece: &str) -> StopPush {
        if self.matched.is_none() {
            self.held.push_str(piece);
            if let Some((start, stop)) = self.first_match() {
                self.matched = Some(stop);
                self.held.truncate(start);
                return StopPush { text: std::mem::take(&mut self.held), matched: self.matched.clone() };
            }
            let rest = self.held.split_off(self.held.len() - self.possible_prefix());
            return StopPush { text: std::mem::replace(&mut self.held, rest), matched: None };
        }
        StopPush { text: String::new(), matched: self.matched.clone() }
    }

    /// The text still held back when the stream ends: the beginning of a stop string that never came.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start of the match that ends first, and the stop string.
    fn first_match(&self) -> Option<(usize, String)> {
        self.stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start, stop)))
            .min_by_key(|&(end, start, _)| (end, start))
            .map(|(_, start, stop)| (start, stop.clone()))
    }

    /// Length in bytes of the longest end of the held text that some stop string begins with.
    fn possible_prefix(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len())
                .rev()
                .filter(|&n| stop.is_char_boundary(n))
                .find(|&n| self.held.ends_with(&stop[..n]))
                .unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<'a>(stops: &[String], pieces: impl IntoIterator<Item = &'a str>) -> (String, Option<String>) {
        let mut watch = StopStrings::new(stops.to_vec());
        let mut text = String::new();
        for piece in pieces {
            let push = watch.push(piece);
            text.push_str(&push.text);
            if push.matched.is_some() {
                assert_eq!(watch.push("more"), StopPush { text: String::new(), matched: push.matched.clone() });
                assert_eq!(watch.finish(), "");
                return (text, push.matched);
            }
        }
        (text + &watch.finish(), None)
    }

    fn stops(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn matches_span_pieces() {
        let user = stops(&["\nUser:", "###"]);
        assert_eq!(run(&user, ["Hi", "\n", "Us", "er", ": x"]), ("Hi".into(), Some("\nUser:".into())));
        assert_eq!(run(&user, ["Hi\nUse", "less #", "#"]), ("Hi\nUseless ##".into(), None));
        assert_eq!(run(&user, ["\n\nUser:"]), ("\n".into(), Some("\nUser:".into())));
        assert_eq!(run(&stops(&["", "é"]), ["caf", "é"]), ("caf".into(), Some("é".into())));
        assert_eq!(run(&[], ["a", "b"]), ("ab".into(), None));
    }

    #[test]
    fn only_possible_prefixes_are_held_back() {
        let mut watch = StopStrings::new(stops(&["abc"]));
        assert_eq!(watch.push("xyab").text, "xy");
        assert_eq!(watch.push("d").text, "abd");
        assert_eq!(watch.push("aab").text, "a");
        assert_eq!(watch.push("ab").text, "ab");
        assert_eq!(watch.finish(), "ab");
    }

    #[test]
    fn the_string_completed_first_ends_the_text() {
        assert_eq!(run(&stops(&["abcd", "bc"]), ["abcd"]), ("a".into(), Some("bc".into())));
        assert_eq!(run(&stops(&["c", "abc"]), ["abc"]), (String::new(), Some("abc".into())));
    }

    proptest! {
        #[test]
        fn cutting_the_text_differently_changes_nothing(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            cuts in prop::collection::vec(any::<bool>(), 24),
        ) {
            let mut pieces = vec![String::new()];
            for (c, &cut) in text.chars().zip(&cuts) {
                if cut {
                    pieces.push(String::new());
                }
                pieces.last_mut().unwrap().push(c);
            }
            let whole = run(&stops, [text.as_str()]);
            prop_assert_eq!(run(&stops, pieces.iter().map(String::as_str)), whole.clone());
            let (shown, matched) = whole;
            match matched {
                Some(stop) => prop_assert!(text.starts_with(&(shown + &stop))),
                None => {
                    prop_assert_eq!(shown, &text[..]);
                    prop_assert!(stops.iter().all(|stop| stop.is_empty() || !text.contains(stop.as_str())));
                }
            }
        }
    }
}
