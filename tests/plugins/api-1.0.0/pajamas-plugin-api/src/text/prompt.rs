//! A prompt's token ids: which of its texts are tokenized together, and BOS, the same way for every backend.

use crate::{Error, Prompt, Result, TextSegment};

impl Prompt {
    /// The prompt's token ids, for a model with `vocabulary_size` tokens that starts a text with `bos`, if it does.
    ///
    /// `tokenize` gives the ids of a text without adding any; its second argument says whether control tokens in it are
    /// to be read as such. It is called with as few and as long texts as is safe: `control_texts` are the texts of the
    /// control tokens, which must not arise where a segment forbids them, or across its edge.
    ///
    /// # Errors
    /// `InvalidRequest` for ids outside the vocabulary and for an empty prompt; those of `tokenize`.
    pub fn tokens(
        &self,
        vocabulary_size: u32,
        bos: Option<u32>,
        control_texts: &[impl AsRef<str>],
        tokenize: &mut dyn FnMut(&str, bool) -> Result<Vec<u32>>,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        match self {
            Self::Tokens(tokens) => {
                check_ids(tokens, vocabulary_size)?;
                ids.clone_from(tokens);
            }
            Self::Text { add_special, segments } => {
                for (text, parse_special) in join(segments, control_texts) {
                    ids.extend(tokenize(&text, parse_special)?);
                }
                if let (true, Some(bos)) = (*add_special, bos)
                    && ids.first() != Some(&bos)
                {
                    ids.insert(0, bos);
                }
            }
        }
        if ids.is_empty() {
            return Err(Error::invalid_request("the prompt has no tokens; there is nothing to continue"));
        }
        Ok(ids)
    }
}

/// Checks that every id is one of a vocabulary of `vocabulary_size` tokens.
///
/// # Errors
/// `InvalidRequest` for the first that is not.
pub fn check_ids(tokens: &[u32], vocabulary_size: u32) -> Result<()> {
    match tokens.iter().find(|id| **id >= vocabulary_size) {
        Some(id) => Err(Error::invalid_request(format!(
            "there is no token {id}: the vocabulary has {vocabulary_size} tokens, from 0 on"
        ))),
        None => Ok(()),
    }
}

/// The segments to tokenize one by one: as few as do the same, because a tokenizer merges characters across a boundary
/// only inside one text. They all become one where no control token's text touches a segment that must not have any.
fn join(segments: &[TextSegment], control_texts: &[impl AsRef<str>]) -> Vec<(String, bool)> {
    let whole: String = segments.iter().map(|segment| segment.text.as_str()).collect();
    let mut start = 0;
    let mut guarded = Vec::new();
    for segment in segments {
        let range = start..start + segment.text.len();
        start = range.end;
        if !segment.parse_special && !range.is_empty() {
            guarded.push(range);
        }
    }
    let touches = |text: &str| {
        guarded.iter().any(|range| {
            // Overlapping finds matter too: `match_indices` would miss one that begins inside another.
            let mut from = range.start.saturating_sub(text.len() - 1);
            while !whole.is_char_boundary(from) {
                from -= 1;
            }
            let mut to = (range.end + text.len() - 1).min(whole.len());
            while !whole.is_char_boundary(to) {
                to += 1;
            }
            whole[from..to].contains(text)
        })
    };
    if segments.iter().any(|segment| segment.parse_special)
        && !control_texts.iter().map(AsRef::as_ref).any(|text: &str| !text.is_empty() && touches(text))
    {
        return vec![(whole, true)];
    }
    let mut joined: Vec<(String, bool)> = Vec::new();
    for segment in segments {
        match joined.last_mut() {
            Some((text, parse_special)) if *parse_special == segment.parse_special => text.push_str(&segment.text),
            _ => joined.push((segment.text.clone(), segment.parse_special)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(segments: &[(&str, bool)], expected: &[(&str, bool)]) {
        let segments: Vec<_> = segments
            .iter()
            .map(|(text, parse_special)| TextSegment { text: (*text).into(), parse_special: *parse_special })
            .collect();
        let found = join(&segments, &["<|end|>".to_owned(), "<s>".to_owned()]);
        let found: Vec<_> = found.iter().map(|(text, parse_special)| (text.as_str(), *parse_special)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn harmless_segments_become_one() {
        check(&[("<s>user: ", true), ("häm", false), ("<|end|>", true)], &[("<s>user: häm<|end|>", true)]);
        check(&[("a", false), ("b", false)], &[("ab", false)]);
        check(&[], &[]);
    }

    #[test]
    fn control_text_in_a_guarded_segment_keeps_it_apart() {
        let segments = [("<s>", true), ("x<|end|>", false), ("<|end|>", true)];
        check(&segments, &segments);
    }

    #[test]
    fn control_text_that_would_arise_across_a_boundary_keeps_them_apart() {
        let segments = [("<|en", true), ("d|>", false)];
        check(&segments, &segments);
        let segments = [("é<|end", true), ("|>", false), ("é", true)];
        check(&segments, &segments);
    }
}
