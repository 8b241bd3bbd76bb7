//! Stop sequences, found even where they begin in one token and end in another.

/// Holds back text that may be the beginning of a stop sequence.
#[derive(Debug)]
pub struct StopMatcher {
    sequences: Vec<String>,
    pending: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub enum StopMatch {
    /// This much is certain not to be part of a stop sequence.
    Text(String),
    /// A stop sequence was met; this came before it.
    Stopped(String),
}

impl StopMatcher {
    /// Looks for any of `sequences`; empty ones are ignored.
    pub fn new(sequences: &[String]) -> Self {
        Self { sequences: sequences.iter().filter(|s| !s.is_empty()).cloned().collect(), pending: String::new() }
    }

    /// Adds `text`.
    pub fn push(&mut self, text: &str) -> StopMatch {
        if self.sequences.is_empty() {
            return StopMatch::Text(text.to_owned());
        }
        self.pending.push_str(text);
        if let Some(start) = self.sequences.iter().filter_map(|s| self.pending.find(s.as_str())).min() {
            self.pending.truncate(start);
            return StopMatch::Stopped(std::mem::take(&mut self.pending));
        }
        let held = self.sequences.iter().map(|s| overlap(&self.pending, s)).max().unwrap_or(0);
        let tail = self.pending.split_off(self.pending.len() - held);
        StopMatch::Text(std::mem::replace(&mut self.pending, tail))
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.pending)
    }
}

/// Bytes at the end of `text` that are a proper beginning of `sequence`.
fn overlap(text: &str, sequence: &str) -> usize {
    sequence
        .char_indices()
        .map(|(index, _)| index)
        .skip(1)
        .filter(|&length| text.ends_with(&sequence[..length]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces` and returns what came out and whether it stopped.
    fn check(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).into()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut out = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                StopMatch::Text(text) => out += &text,
                StopMatch::Stopped(text) => return (out + &text, true),
            }
        }
        (out + &matcher.finish(), false)
    }

    #[test]
    fn found_inside_one_piece_and_across_pieces() {
        assert_eq!(check(&["END"], &["one END two"]), ("one ".into(), true));
        assert_eq!(check(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(check(&["\n\n"], &["a\n", "\nb"]), ("a".into(), true));
    }

    #[test]
    fn text_that_only_began_like_a_stop_sequence_comes_out_whole() {
        assert_eq!(check(&["END"], &["the E", "N", "T"]), ("the ENT".into(), false));
        assert_eq!(check(&["END"], &["the EN"]), ("the EN".into(), false));
        assert_eq!(check(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), true));
    }

    #[test]
    fn the_earliest_of_several_wins_and_empty_ones_are_ignored() {
        assert_eq!(check(&["b", "abc"], &["xabcd"]), ("x".into(), true));
        assert_eq!(check(&["", "z"], &["abc"]), ("abc".into(), false));
    }

    #[test]
    fn characters_are_never_cut() {
        assert_eq!(check(&["😀😀"], &["hi 😀", "!"]), ("hi 😀!".into(), false));
        assert_eq!(check(&["é€"], &["é", "€"]), (String::new(), true));
    }
}
