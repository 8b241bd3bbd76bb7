//! Joins token bytes to whole characters: a token may end in the middle of one.

/// Holds back the bytes of an unfinished character until the rest arrives.
#[derive(Debug, Default)]
pub struct Utf8Joiner {
    /// At most three bytes: the beginning of one character.
    pending: Vec<u8>,
}

impl Utf8Joiner {
    /// Adds `bytes` and returns the text that is complete. Bytes that can never become a character turn into U+FFFD,
    /// as `String::from_utf8_lossy` does it.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &rest[bad..];
                        }
                        // The beginning of a character: wait for the rest.
                        None => break,
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left when no more bytes come: U+FFFD for an unfinished character, else nothing.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_of_a_text_joins_to_the_same_text() {
        let text = "Aé€😀 पजामा 睡衣 👩‍👩‍👧";
        for size in 1..=5 {
            let mut joiner = Utf8Joiner::default();
            let mut joined: String = text.as_bytes().chunks(size).map(|chunk| joiner.push(chunk)).collect();
            joined += &joiner.finish();
            assert_eq!(joined, text, "chunks of {size}");
        }
    }

    #[test]
    fn half_a_character_is_held_back() {
        let mut joiner = Utf8Joiner::default();
        assert_eq!(joiner.push(&[0xf0, 0x9f]), "");
        assert_eq!(joiner.push(&[0x98]), "");
        assert_eq!(joiner.push(&[0x80, b'!']), "😀!");
        assert_eq!(joiner.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters_as_lossy_decoding_has_them() {
        for bytes in [&b"a\xff\xfeb"[..], b"\xe2\x28\xa1", b"\xf0\x9f", b"\x80", b"ok\xc3"] {
            let mut joiner = Utf8Joiner::default();
            let mut text: String = bytes.iter().map(|byte| joiner.push(&[*byte])).collect();
            text += &joiner.finish();
            assert_eq!(text, String::from_utf8_lossy(bytes));
        }
    }
}
