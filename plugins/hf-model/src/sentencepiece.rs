//! Reads SentencePiece's `tokenizer.model`, and gives the tokenizer that transformers would make of it.
//!
//! Format: <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>.

use pajamas_plugin_api::{Error, Result};
use prost::Message;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;

/// The largest `tokenizer.model` that is read; Gemma's has 4 MB.
pub(crate) const MODEL_BYTES_MAX: u64 = 16 << 20;
/// The longest piece, in bytes; SentencePiece's own default is 16 characters.
const PIECE_BYTES_MAX: usize = 256;
/// The most pieces; Gemma has 262,144.
const PIECES_MAX: usize = 1 << 20;
/// The most merges that a tokenizer is made of; Gemma has 580,604.
const MERGES_MAX: usize = 4 << 20;

/// What a piece is, by SentencePiece's number, which is llama.cpp's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PieceKind {
    /// Part of a text.
    Normal = 1,
    /// What stands for text that no piece covers.
    Unknown = 2,
    /// `<s>` and the like.
    Control = 3,
    /// Matched before everything else.
    UserDefined = 4,
    /// Never produced.
    Unused = 5,
    /// One byte: `<0x0A>`.
    Byte = 6,
}

/// One piece; its place in the list is its id.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with U+2581 for a space.
    pub text: String,
    /// How likely it is, as a logarithm; for BPE the order of merging, negated.
    pub score: f32,
    /// What it is.
    pub kind: PieceKind,
}

/// A vocabulary as SentencePiece trained it.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePieceModel {
    pieces: Vec<Piece>,
    adds_space_prefix: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "PieceKind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    /// 1 is unigram, the default, 2 is BPE.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
}

impl SentencePieceModel {
    /// Reads what is in `tokenizer.model`; `path` is for error messages.
    ///
    /// # Errors
    /// `InvalidModel` for bytes that are no such model; `Unsupported` for one that is not made of BPE merges.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let invalid = |what: String| {
            Error::invalid_model(format!("`{}` is no usable SentencePiece model: {what}", path.display()))
                .with_hint("fetch this file again")
        };
        let model = ModelProto::decode(bytes).map_err(|error| invalid(error.to_string()))?;
        if model.pieces.is_empty() {
            return Err(invalid("it has no pieces".into()));
        }
        if model.pieces.len() > PIECES_MAX {
            return Err(invalid(format!("it has {} pieces, at most {PIECES_MAX} are allowed", model.pieces.len())));
        }
        let model_type = model.trainer_spec.and_then(|spec| spec.model_type).unwrap_or(1);
        if model_type != 2 {
            let name = match model_type {
                1 => "unigram",
                3 => "word",
                4 => "character",
                _ => "unknown",
            };
            return Err(Error::unsupported(format!(
                "`{}` is a SentencePiece model of type {name}; BPE can be converted",
                path.display()
            )));
        }
        let pieces = model.pieces.into_iter().enumerate().map(|(id, piece)| {
            let text = piece.piece.unwrap_or_default();
            if text.is_empty() || text.len() > PIECE_BYTES_MAX {
                return Err(invalid(format!("piece {id} has {} bytes", text.len())));
            }
            let score = piece.score.unwrap_or(0.0);
            if score.is_nan() {
                return Err(invalid(format!("the score of piece {id} is not a number")));
            }
            let number = piece.kind.unwrap_or(PieceKind::Normal as i32);
            let kind = PieceKind::try_from(number).map_err(|_| invalid(format!("piece {id} is of kind {number}")))?;
            Ok(Piece { text, score, kind })
        });
        Ok(Self {
            pieces: pieces.collect::<Result<_>>()?,
            adds_space_prefix: model.normalizer_spec.and_then(|spec| spec.add_dummy_prefix).unwrap_or(true),
        })
    }

    /// Every piece, by id.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether a text is read as if a space stood before it.
    pub fn adds_space_prefix(&self) -> bool {
        self.adds_space_prefix
    }

    /// Every way in which two pieces make a third, the likeliest third first, the longest left part first.
    ///
    /// # Errors
    /// `InvalidModel` for more of them than any vocabulary has.
    fn merges(&self, path: &Path) -> Result<Vec<(&str, &str)>> {
        let known: HashSet<&str> = self.pieces.iter().map(|piece| piece.text.as_str()).collect();
        let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
        let made = [PieceKind::Normal, PieceKind::UserDefined];
        for piece in self.pieces.iter().filter(|piece| made.contains(&piece.kind)) {
            for (count, (index, _)) in piece.text.char_indices().enumerate().skip(1) {
                let (left, right) = piece.text.split_at(index);
                if known.contains(left) && known.contains(right) {
                    merges.push((piece.score, count, left, right));
                }
            }
            if merges.len() > MERGES_MAX {
                return Err(Error::invalid_model(format!(
                    "`{}` is no usable SentencePiece model: its {} pieces can be merged in more than {MERGES_MAX} ways",
                    path.display(),
                    self.pieces.len()
                )));
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        Ok(merges.into_iter().map(|(.., left, right)| (left, right)).collect())
    }

    /// The same vocabulary as a `tokenizer.json`, without added tokens: what transformers makes where there is only this.
    /// `path` is for error messages.
    ///
    /// # Errors
    /// `InvalidModel` for a vocabulary whose pieces make each other in millions of ways.
    pub fn to_tokenizer_json(&self, path: &Path) -> Result<Value> {
        let merges: Vec<Value> = self.merges(path)?.into_iter().map(|(left, right)| json!([left, right])).collect();
        let unknown = self.pieces.iter().find(|piece| piece.kind == PieceKind::Unknown).map(|piece| &piece.text);
        let has_bytes = self.pieces.iter().any(|piece| piece.kind == PieceKind::Byte);
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut normalizers = vec![replace(" ", "\u{2581}")];
        let mut decoders = vec![replace("\u{2581}", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if self.adds_space_prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "\u{2581}"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let tokens = self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), json!(id)));
        let special = self.pieces.iter().enumerate().filter_map(|(id, piece)| {
            let special = matches!(piece.kind, PieceKind::Control | PieceKind::Unknown);
            (special || piece.kind == PieceKind::UserDefined).then(|| {
                json!({
                    "id": id, "content": piece.text, "special": special, "normalized": !special,
                    "single_word": false, "lstrip": false, "rstrip": false,
                })
            })
        });
        Ok(json!({
            "version": "1.0",
            "added_tokens": special.collect::<Vec<_>>(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": has_bytes,
                "vocab": Value::Object(tokens.collect()), "merges": merges,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(pieces: &[(&str, f32, i32)], model_type: i32) -> Vec<u8> {
        let piece = |(text, score, kind): &(&str, f32, i32)| PieceProto {
            piece: Some((*text).into()),
            score: Some(*score),
            kind: Some(*kind),
        };
        ModelProto {
            pieces: pieces.iter().map(piece).collect(),
            trainer_spec: Some(TrainerProto { model_type: Some(model_type) }),
            normalizer_spec: None,
        }
        .encode_to_vec()
    }

    #[test]
    fn the_best_pieces_are_merged_first() {
        let pieces = [
            ("<unk>", 0.0, 2),
            ("<s>", 0.0, 3),
            ("\u{2581}", -5.0, 1),
            ("a", -6.0, 1),
            ("b", -7.0, 1),
            ("ab", -0.0, 1),
            ("\u{2581}ab", -1.0, 1),
            ("ba", -2.0, 1),
        ];
        let model = SentencePieceModel::parse(&model(&pieces, 2), Path::new("tokenizer.model")).expect("sound");
        assert_eq!((model.pieces().len(), model.adds_space_prefix()), (8, true));
        let json = model.to_tokenizer_json(Path::new("tokenizer.model")).expect("a tokenizer");
        let expected = json!([["a", "b"], ["\u{2581}", "ab"], ["b", "a"]]);
        assert_eq!(json["model"]["merges"], expected);
        let tokenizer: tokenizers::Tokenizer = serde_json::from_value(json).expect("a tokenizer");
        assert_eq!(tokenizer.encode_fast("abba", false).expect("encoded").get_ids(), [6, 7]);
    }

    #[test]
    fn each_corruption_has_its_error() {
        let parse = |bytes: &[u8]| SentencePieceModel::parse(bytes, Path::new("t.model")).unwrap_err().message;
        assert!(parse(&[0xff; 12]).contains("no usable SentencePiece model"));
        assert!(parse(&[]).contains("has no pieces"));
        assert!(parse(&model(&[("a", 0.0, 1)], 1)).contains("of type unigram"));
        assert!(parse(&model(&[("", 0.0, 1)], 2)).contains("piece 0 has 0 bytes"));
        assert!(parse(&model(&[("a", f32::NAN, 1)], 2)).contains("not a number"));
        assert!(parse(&model(&[("a", 0.0, 9)], 2)).contains("of kind 9"));
        let long = "a".repeat(PIECE_BYTES_MAX + 1);
        assert!(parse(&model(&[(&long, 0.0, 1)], 2)).contains("piece 0 has 257 bytes"));
    }
}
