//! A model without its tensors: its small files, and of its weights' files only the headers, each in a file as long as the
//! whole will be. Who reads headers alone sees all there is to know of the model, before any large byte was fetched.

use super::Ahead;
use super::remote::{Failure, RemoteFile};
use crate::error::{Error, Result};
use crate::models::format;
use crate::models::safetensors::JSON_BYTES_MAX;
use crate::models::source::Source;
use pajamas_gguf_file::GgufFile;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Headers are asked for in pieces of this size, because nothing tells their length before.
const PIECE_BYTES: u64 = 1 << 20;
/// A GGUF header that is longer is none: the largest vocabularies take a few MiB.
const GGUF_HEADER_BYTES_MAX: u64 = 256 << 20;

/// The outline of a model; its files go when it is dropped.
pub struct Outline {
    /// As if it were whole. Its tensors are holes.
    pub source: Source,
    _dir: TempDir,
}

impl Ahead<'_> {
    /// Makes the outline. The small files come into the cache, where they belong anyway.
    ///
    /// # Errors
    /// Those of the hub; `Invalid` for headers that are none.
    pub fn outline(&self) -> Result<Outline> {
        let is_large = |name: &str| name.ends_with(".safetensors") || name.ends_with(".gguf");
        let (large, small): (Vec<_>, Vec<_>) = self.files.iter().cloned().partition(|file| is_large(&file.name));
        let snapshot = self.fetch(&small)?;
        let name = self.id.rsplit('/').next().unwrap_or(self.id);
        let temporary = tempfile::tempdir().map_err(Error::io("creating", &std::env::temp_dir()))?;
        let dir = temporary.path().join(name);
        std::fs::create_dir(&dir).map_err(Error::io("creating", &dir))?;
        for file in &small {
            let (from, to) = (snapshot.join(&file.name), dir.join(base_name(&file.name)));
            std::fs::copy(&from, &to).map_err(Error::io("copying", &from))?;
        }
        for file in &large {
            self.header(file, &dir.join(base_name(&file.name)))?;
        }
        // What belongs to a folder is named first: `config.json`.
        let path = match large.first().filter(|file| file.name.ends_with(".gguf")) {
            Some(first) => dir.join(base_name(&first.name)),
            None => dir,
        };
        let hub = Some((self.id.to_owned(), self.commit.to_owned()));
        let source = Source { format: format::detect(&path)?, path, name: name.to_owned(), hub };
        Ok(Outline { source, _dir: temporary })
    }

    /// Writes the header of `file` to `path`, in a file of the whole length.
    fn header(&self, file: &RemoteFile, path: &Path) -> Result<()> {
        let whole = self.repository.join("blobs").join(&file.etag);
        if whole.metadata().is_ok_and(|metadata| metadata.len() == file.size) {
            let mut reader = File::open(&whole).map_err(Error::io("opening", &whole))?;
            let mut piece = |_, bytes| read_exactly(&mut reader, bytes);
            return Header::begin(file, path).and_then(|header| header.write(&mut piece)).map_err(
                |failure| match failure {
                    Failure::Final(error) => error,
                    Failure::Passing { reason, .. } | Failure::Unreachable(reason) => {
                        Error::io("reading", &whole)(std::io::Error::other(reason))
                    }
                },
            );
        }
        let piece = |from, bytes| {
            self.cancel.check().map_err(|error| Failure::Final(error.into()))?;
            let (begins, mut reader) = self.remote.open(self.commit, file, from, Some(bytes))?;
            // A server that knows no ranges sends it from the start.
            read_exactly(&mut reader, from - begins)?;
            read_exactly(&mut reader, bytes)
        };
        super::patiently(self.cancel, || Header::begin(file, path)?.write(&mut { piece }))
    }
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Gives so many bytes from a position on.
type Piece<'a> = &'a mut dyn FnMut(u64, u64) -> Result<Vec<u8>, Failure>;

/// A header on its way into a file of the whole length.
struct Header<'a> {
    out: File,
    file: &'a RemoteFile,
    path: &'a Path,
    have: u64,
}

impl<'a> Header<'a> {
    fn begin(file: &'a RemoteFile, path: &'a Path) -> Result<Self, Failure> {
        let out = File::create(path).map_err(|error| Failure::Final(Error::io("creating", path)(error)))?;
        out.set_len(file.size).map_err(|error| Failure::Final(Error::io("writing", path)(error)))?;
        Ok(Self { out, file, path, have: 0 })
    }

    fn write(self, piece: Piece<'_>) -> Result<(), Failure> {
        if self.file.name.ends_with(".gguf") { self.gguf(piece) } else { self.safetensors(piece) }
    }

    fn safetensors(mut self, piece: Piece<'_>) -> Result<(), Failure> {
        let first = self.next(piece)?;
        let Some(length) = first.first_chunk().map(|length| u64::from_le_bytes(*length)) else {
            return Err(self.is_none());
        };
        if length > JSON_BYTES_MAX.min(self.file.size) {
            return Err(self.is_none());
        }
        while self.have < self.file.size.min(8 + length) {
            self.next(piece)?;
        }
        Ok(())
    }

    fn gguf(mut self, piece: Piece<'_>) -> Result<(), Failure> {
        while self.have < GGUF_HEADER_BYTES_MAX.min(self.file.size) {
            self.next(piece)?;
            // Zeros may look like a header's end, but not before the tensors begin.
            if GgufFile::open(self.path).is_ok_and(|gguf| gguf.data_offset() <= self.have) {
                return Ok(());
            }
        }
        Err(self.is_none())
    }

    fn next(&mut self, piece: Piece<'_>) -> Result<Vec<u8>, Failure> {
        let bytes = piece(self.have, PIECE_BYTES.min(self.file.size - self.have))?;
        self.out.write_all(&bytes).map_err(|error| Failure::Final(Error::io("writing", self.path)(error)))?;
        self.have += bytes.len() as u64;
        Ok(bytes)
    }

    fn is_none(&self) -> Failure {
        Failure::Final(Error::Invalid {
            path: PathBuf::from(&self.file.name),
            message: "on the hub, this file does not begin as such a file does".into(),
            hint: "tell its owner; another revision may be whole".into(),
        })
    }
}

fn read_exactly(reader: &mut dyn Read, bytes: u64) -> Result<Vec<u8>, Failure> {
    let mut piece = Vec::new();
    match reader.take(bytes).read_to_end(&mut piece) {
        Ok(count) if count as u64 == bytes => Ok(piece),
        Ok(_) => Err(Failure::Passing { reason: "the connection was closed early".into(), wait: None }),
        Err(error) => Err(Failure::Passing { reason: error.to_string(), wait: None }),
    }
}
