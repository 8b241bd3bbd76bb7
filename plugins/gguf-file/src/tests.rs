//! A round trip, and one test per kind of damage.

use super::*;
use pajamas_plugin_api::{ErrorKind, Result};
use std::path::Path;

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "qwen2");
    metadata.set("a.u32", 7_u32);
    metadata.set("a.f32", 0.5_f32);
    metadata.set("a.bool", true);
    metadata.set("a.strings", Value::strings(["one", "", "drei"]));
    metadata.set("a.numbers", Value::i32s([-1, 2]));
    metadata.set("a.empty", Value::Array(ValueType::String, Vec::new()));
    metadata.set("a.i64", Value::I64(-5));
    metadata
}

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec { name: "x.weight".into(), shape: vec![32, 2], ggml_type: GgmlType::Q8_0 },
        TensorSpec { name: "y.weight".into(), shape: vec![3], ggml_type: GgmlType::F32 },
    ]
}

/// A small file's bytes.
fn file() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut writer = GgufWriter::create(&path, &metadata(), &specs()).unwrap();
    assert_eq!(writer.next_tensor(), Some("x.weight"));
    writer.write(&[1; 40]).unwrap();
    writer.write(&[2; 28]).unwrap();
    writer.end_tensor().unwrap();
    writer.write(&[3; 12]).unwrap();
    writer.end_tensor().unwrap();
    assert_eq!(writer.next_tensor(), None);
    let size = writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(size, bytes.len() as u64);
    bytes
}

fn parse(bytes: &[u8]) -> Result<GgufFile> {
    GgufFile::parse(bytes, bytes.len() as u64, Path::new("some/m.gguf"))
}

/// The message of a refusal, which must name the file and be of kind `InvalidModel`.
fn refusal(bytes: &[u8]) -> String {
    let error = parse(bytes).and_then(|file| file.check_complete()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidModel);
    assert!(error.message.contains("some/m.gguf"), "{error}");
    error.message
}

/// A header with `metadata_count` keys whose bytes are `rest`.
fn header(tensor_count: u64, metadata_count: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensor_count.to_le_bytes());
    bytes.extend(metadata_count.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn key(name: &str, value_type: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend(value_type.to_le_bytes());
    bytes.extend(value);
    bytes
}

fn tensor(name: &str, shape: &[u64], ggml_type: u32, offset: u64) -> Vec<u8> {
    let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
    bytes.extend(ggml_type.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn what_is_written_is_read() {
    let bytes = file();
    let read = parse(&bytes).unwrap();
    assert_eq!(read.version(), 3);
    assert_eq!(read.architecture(), "qwen2");
    assert_eq!(read.metadata(), &metadata());
    let found: Vec<_> = read.tensors().iter().map(|t| (t.name.as_str(), t.shape.clone(), t.ggml_type)).collect();
    let expected: Vec<_> = specs().into_iter().map(|t| (t.name, t.shape, t.ggml_type)).collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(&expected) {
        assert_eq!(found, (expected.0.as_str(), expected.1.clone(), expected.2));
    }
    for tensor in read.tensors() {
        assert_eq!(tensor.offset % 32, 0);
    }
    let y = &read.tensors()[1];
    assert_eq!(&bytes[y.offset as usize..][..y.size_bytes as usize], &[3; 12]);
    read.check_complete().unwrap();
}

#[test]
fn a_cut_at_any_byte_is_called_truncated() {
    let bytes = file();
    let needed = parse(&bytes).unwrap().needed_bytes() as usize;
    for length in 4..needed {
        let message = refusal(&bytes[..length]);
        assert!(message.contains("truncated"), "{length}: {message}");
        assert!(message.ends_with(&format!("the file has {length}")), "{length}: {message}");
    }
    // What follows the last tensor is padding, which some writers leave out.
    parse(&bytes[..needed]).unwrap().check_complete().unwrap();
}

#[test]
fn no_single_byte_can_make_it_panic() {
    let bytes = file();
    for position in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] = value;
            let _ = parse(&damaged).and_then(|file| file.check_complete());
        }
    }
}

#[test]
fn other_files_are_refused() {
    assert!(refusal(b"PK\x03\x04 a zip file").contains("is not a GGUF file"));
    assert!(refusal(b"GGUF\x01\0\0\0........").contains("version 1"));
    assert!(refusal(b"GGUF\x63\0\0\0........").contains("version 99"));
    assert!(refusal(b"GGUF\0\0\0\x03........").contains("big-endian"));
}

#[test]
fn enormous_counts_are_refused() {
    assert!(refusal(&header(u64::MAX, 0, &[])).contains("tensors, at most"));
    assert!(refusal(&header(0, u64::MAX, &[])).contains("metadata keys, at most"));
    assert!(refusal(&header(0, 1, &u64::MAX.to_le_bytes())).contains("bytes of a key, at most"));
    let long_string = key("k", 8, &u64::MAX.to_le_bytes());
    assert!(refusal(&header(0, 1, &long_string)).contains("bytes of a string, at most"));
    let mut array = 8_u32.to_le_bytes().to_vec();
    array.extend(u64::MAX.to_le_bytes());
    assert!(refusal(&header(0, 1, &key("k", 9, &array))).contains("elements of an array, at most"));
}

#[test]
fn lengths_beyond_the_file_are_refused_before_memory_is_taken() {
    let string = key("k", 8, &(60_u64 << 20).to_le_bytes());
    assert!(refusal(&header(0, 1, &string)).contains("truncated"));
    let mut array = 4_u32.to_le_bytes().to_vec();
    array.extend((7_u64 << 20).to_le_bytes());
    assert!(refusal(&header(0, 1, &key("k", 9, &array))).contains("truncated"));
}

#[test]
fn damaged_metadata_is_refused() {
    assert!(refusal(&header(0, 1, &key("k", 13, &[]))).contains("13 is no metadata type"));
    assert!(refusal(&header(0, 1, &key("k", 7, &[2]))).contains("2 is no boolean"));
    let twice = [key("k", 0, &[1]), key("k", 0, &[1])].concat();
    assert!(refusal(&header(0, 2, &twice)).contains("there twice"));
    let mut not_text = 1_u64.to_le_bytes().to_vec();
    not_text.push(0xff);
    assert!(refusal(&header(0, 1, &key("k", 8, &not_text))).contains("not UTF-8"));
    let level = [9_u32.to_le_bytes().as_slice(), &1_u64.to_le_bytes()].concat();
    assert!(refusal(&header(0, 1, &key("k", 9, &level.repeat(9)))).contains("nest deeper"));
    for alignment in [0_u32, 3, 1 << 30] {
        let bytes = key("general.alignment", 4, &alignment.to_le_bytes());
        assert!(refusal(&header(0, 1, &bytes)).contains("general.alignment"));
    }
}

#[test]
fn damaged_tensors_are_refused() {
    assert!(refusal(&header(1, 0, &tensor("t", &[1; 5], 0, 0))).contains("5 dimensions"));
    assert!(refusal(&header(1, 0, &tensor("t", &[1], 4, 0))).contains("type 4, which is not known"));
    assert!(refusal(&header(1, 0, &tensor("t", &[0], 0, 0))).contains("cannot have shape"));
    assert!(refusal(&header(1, 0, &tensor("t", &[33], 8, 0))).contains("cannot have shape"));
    assert!(refusal(&header(1, 0, &tensor("t", &[1 << 40, 1 << 40], 0, 0))).contains("cannot have shape"));
    assert!(refusal(&header(1, 0, &tensor("t", &[1], 0, 8))).contains("no multiple of 32"));
    assert!(refusal(&header(1, 0, &tensor("t", &[1], 0, u64::MAX - 31))).contains("more bytes than can be counted"));
    let twice = [tensor("t", &[1], 0, 0), tensor("t", &[1], 0, 32)].concat();
    assert!(refusal(&header(2, 0, &twice)).contains("there twice"));
}

#[test]
fn headers_larger_than_any_are_refused() {
    // Two strings that are each allowed, in a file that is large enough for them.
    let string = |name: &str| key(name, 8, &(reader::STRING_BYTES_MAX).to_le_bytes());
    let zeroes = || std::io::Read::take(std::io::repeat(0), reader::STRING_BYTES_MAX);
    let (first, second) = (header(0, 3, &string("a")), string("b"));
    let source = std::io::Read::chain(std::io::Read::chain(&first[..], zeroes()), &second[..]);
    let source = std::io::Read::chain(source, std::io::repeat(0));
    let error = GgufFile::parse(source, 1 << 40, Path::new("some/m.gguf")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidModel);
    assert!(error.message.ends_with("`some/m.gguf` is damaged: its header has more than 134217728 bytes"), "{error}");
}

#[test]
fn names_are_short_text() {
    let long = (reader::NAME_BYTES_MAX + 1).to_le_bytes();
    assert!(refusal(&header(0, 1, &long)).contains("65536 bytes of a key, at most 65535 are allowed"));
    assert!(refusal(&header(1, 0, &long)).contains("65536 bytes of a tensor's name, at most 65535 are allowed"));
    let not_text = [&1_u64.to_le_bytes()[..], &[0xff]].concat();
    assert!(refusal(&header(0, 1, &not_text)).contains("a key is not UTF-8 text"));
    assert!(refusal(&header(1, 0, &not_text)).contains("a tensor's name is not UTF-8 text"));
}

#[test]
fn what_is_no_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = GgufFile::open(dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidModel);
    assert!(error.message.contains("is not a regular file"), "{error}");
    let missing = dir.path().join("m.gguf");
    let error = GgufFile::open(&missing).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Io);
    assert!(error.message.contains("m.gguf"), "{error}");
}

#[test]
fn files_that_shrink_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let bytes = file();
    // Its end is gone before it is opened: the header is whole.
    std::fs::write(&path, &bytes[..bytes.len() - 32]).unwrap();
    let cut = GgufFile::open(&path).unwrap();
    let error = cut.read_tensor(&cut.tensors()[1]).unwrap_err();
    assert!(error.message.contains("is truncated: it needs"), "{error}");
    // Its header ends while it is read.
    let error = GgufFile::parse(&bytes[..30], bytes.len() as u64, &path).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Io);
    assert!(error.message.contains("m.gguf"), "{error}");
}

#[test]
fn a_tensor_gets_exactly_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut writer = GgufWriter::create(&path, &metadata(), &specs()).unwrap();
    assert!(writer.write(&[0; 69]).unwrap_err().message.contains("68 were promised"));
    writer.write(&[0; 67]).unwrap();
    assert!(writer.end_tensor().unwrap_err().message.contains("got 67 bytes"));
    assert!(writer.finish().unwrap_err().message.contains("`x.weight` was not written"));
    let left_over = GgufFile::open(&path).and_then(|file| file.check_complete());
    assert!(left_over.unwrap_err().message.contains("truncated"));
    let impossible = [TensorSpec { name: "z".into(), shape: vec![33], ggml_type: GgmlType::Q8_0 }];
    assert!(GgufWriter::create(&path, &metadata(), &impossible).is_err());
}
