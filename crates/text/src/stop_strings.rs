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
