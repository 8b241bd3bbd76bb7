//! Importance matrices in files: GGUF as llama.cpp's tool writes it today, and the older format of its own.

use super::{ImportanceMatrix, Sums};
use crate::gguf_file::{GgmlType, GgufFile, GgufWriter, Metadata, TensorSpec, Value};
use pajamas_plugin_api::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

const SUMS_ENDING: &str = ".in_sum2";
const COUNTS_ENDING: &str = ".counts";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";

/// The largest file that is read; one for a model of 400 billion parameters has about 1 GB.
const FILE_BYTES_MAX: u64 = 8 << 30;
/// The most tensors of a file, and the longest name of one.
const ENTRIES_MAX: u32 = 1 << 20;
const NAME_BYTES_MAX: u32 = 4096;

impl ImportanceMatrix {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `InvalidModel` for a file that is no importance matrix, or damaged; `Io`.
    pub(in crate::quantize) fn read(path: &Path) -> Result<Self> {
        let info = std::fs::metadata(path).map_err(|error| Error::io("opening", path, &error))?;
        if !info.is_file() || info.len() > FILE_BYTES_MAX {
            return Err(invalid(path, "it is no regular file, or too large for one"));
        }
        let mut magic = [0; 4];
        let file = std::fs::File::open(path).map_err(|error| Error::io("opening", path, &error))?;
        // A shorter file is neither, and says so below.
        let _ = pajamas_hf_model::read_exact_at(&file, &mut magic, 0);
        if &magic == b"GGUF" {
            return Self::read_gguf(path);
        }
        let bytes = std::fs::read(path).map_err(|error| Error::io("reading", path, &error))?;
        Self::parse_legacy(&bytes, path)
    }

    fn read_gguf(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        file.check_complete()?;
        let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
        for tensor in file.tensors() {
            let (name, counts) = match (tensor.name.strip_suffix(SUMS_ENDING), tensor.name.strip_suffix(COUNTS_ENDING))
            {
                (Some(name), _) => (name, false),
                (_, Some(name)) => (name, true),
                _ => return Err(invalid(path, &format!("it holds `{}`", tensor.name.escape_debug()))),
            };
            if tensor.ggml_type != GgmlType::F32 {
                return Err(invalid(path, &format!("`{}` is {}", tensor.name.escape_debug(), tensor.ggml_type.name)));
            }
            let bytes = file.read_tensor(tensor)?;
            let values = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
            let entry = sums.entry(name.to_owned()).or_default();
            if counts {
                // Negative and missing numbers come out as 0.
                entry.counts = values.map(|count| count.round() as u64).collect();
            } else {
                entry.squares = values.collect();
            }
        }
        if sums.is_empty() {
            return Err(invalid(path, "it has no entries"));
        }
        let number = |key: &str| file.metadata().get(key).and_then(Value::as_u64).unwrap_or(0) as u32;
        let datasets = file.metadata().get(DATASETS).and_then(Value::as_array).unwrap_or_default();
        let datasets = datasets.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let (chunk_count, chunk_tokens) = (number(CHUNK_COUNT), number(CHUNK_SIZE));
        Ok(Self { datasets, chunk_count, chunk_tokens, ..Self::new(sums).map_err(|error| named(error, path))? })
    }

    /// Reads the older format: for each tensor its name, how often it was called, and means times that.
    fn parse_legacy(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut reader = Reader { rest: bytes, path };
        let entries = reader.u32()?;
        if entries == 0 || entries > ENTRIES_MAX {
            return Err(invalid(path, &format!("it claims {entries} entries")));
        }
        let mut sums = BTreeMap::new();
        for _ in 0..entries {
            let length = reader.u32()?;
            if length > NAME_BYTES_MAX {
                return Err(invalid(path, &format!("a name of {length} bytes is claimed")));
            }
            let name = String::from_utf8_lossy(reader.take(length as usize)?).into_owned();
            let calls = reader.u32()?;
            let values = reader.u32()? as usize;
            let bytes = reader.take(values.saturating_mul(4))?;
            let squares = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
            sums.insert(name, Sums { squares, counts: vec![u64::from(calls.max(1))] });
        }
        // What follows, chunks and the text's name, is optional.
        let chunk_count = reader.u32().unwrap_or(0);
        Ok(Self { chunk_count, ..Self::new(sums).map_err(|error| named(error, path))? })
    }

    /// Writes the file `path`.
    ///
    /// # Errors
    /// `Io`.
    pub(in crate::quantize) fn write(&self, path: &Path) -> Result<()> {
        let mut metadata = Metadata::default();
        metadata.set("general.type", "imatrix");
        metadata.set(DATASETS, Value::strings(self.datasets.iter().cloned()));
        metadata.set(CHUNK_COUNT, self.chunk_count);
        metadata.set(CHUNK_SIZE, self.chunk_tokens);
        // By this one it is known that it may be replaced.
        metadata.set("pajamas.version", env!("CARGO_PKG_VERSION"));
        let mut specs = Vec::new();
        for (name, sums) in &self.sums {
            let matrices = sums.counts.len() as u64;
            let spec = |ending, columns| TensorSpec {
                name: format!("{name}{ending}"),
                shape: vec![columns, matrices],
                ggml_type: GgmlType::F32,
            };
            specs.extend([spec(SUMS_ENDING, sums.squares.len() as u64 / matrices.max(1)), spec(COUNTS_ENDING, 1)]);
        }
        let mut writer = GgufWriter::create(path, &metadata, &specs)?;
        let bytes = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        for sums in self.sums.values() {
            writer.write(&bytes(&mut sums.squares.iter().copied()))?;
            writer.end_tensor()?;
            writer.write(&bytes(&mut sums.counts.iter().map(|count| *count as f32)))?;
            writer.end_tensor()?;
        }
        writer.finish().map(|_| ())
    }
}

fn invalid(path: &Path, what: &str) -> Error {
    Error::invalid_model(format!("`{}` is no usable importance matrix: {what}", path.display()))
        .with_hint("llama-imatrix makes one, and so does `--calibration TEXT`")
}

fn named(error: Error, path: &Path) -> Error {
    invalid(path, &error.message)
}

struct Reader<'a> {
    rest: &'a [u8],
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (now, rest) = self.rest.split_at_checked(count).ok_or_else(|| {
            invalid(self.path, &format!("it ends where {count} more bytes are needed, {} are left", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(now)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sums;
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.imatrix.gguf");
        let made = ImportanceMatrix {
            datasets: vec!["text.txt".into()],
            chunk_count: 3,
            chunk_tokens: 512,
            ..ImportanceMatrix::new(sums(&[("a", &[1.0, 2.0], &[4]), ("b", &[1.0, 2.0, 3.0, 4.0], &[1, 0])])).unwrap()
        };
        made.write(&path).unwrap();
        assert_eq!(ImportanceMatrix::read(&path).unwrap(), made);
    }

    fn legacy() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(b"a");
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(8_f32.to_le_bytes());
        bytes.extend(2_f32.to_le_bytes());
        bytes
    }

    #[test]
    fn the_older_format_is_read_and_each_defect_is_named() {
        let parse = |bytes: &[u8]| ImportanceMatrix::parse_legacy(bytes, Path::new("m.dat"));
        let matrix = parse(&legacy()).expect("sound");
        assert_eq!(matrix.get("a"), Some(&[2.0, 0.5][..]));
        let error = |bytes: &[u8]| parse(bytes).unwrap_err().message;
        for length in 0..legacy().len() {
            assert!(error(&legacy()[..length]).contains("more bytes are needed"), "{length}");
        }
        assert!(error(&0_u32.to_le_bytes()).contains("claims 0 entries"));
        assert!(error(&u32::MAX.to_le_bytes()).contains("claims 4294967295 entries"));
        let mut long = legacy();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(error(&long).contains("a name of 4294967295 bytes"));
        let mut nan = legacy();
        nan[17..21].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(error(&nan).contains("not finite"));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let spec = TensorSpec { name: "a.weight".into(), shape: vec![1], ggml_type: GgmlType::F32 };
        let mut writer = GgufWriter::create(&path, &Metadata::default(), &[spec]).unwrap();
        writer.write(&[0; 4]).unwrap();
        writer.end_tensor().unwrap();
        writer.finish().unwrap();
        assert!(ImportanceMatrix::read(&path).unwrap_err().message.contains("it holds `a.weight`"));
        assert!(ImportanceMatrix::read(dir.path()).unwrap_err().message.contains("no regular file"));
        assert!(ImportanceMatrix::read(&dir.path().join("none")).is_err());
    }
}
