//! `model.safetensors.index.json` in a folder with two shards: what opens has each tensor once, in its own shard.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz::accepted_in;
use pajamas_hf_model::HfModel;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::sync::LazyLock;

/// A folder in `TMPDIR`, which whoever runs this cleans up, and the index in it. The file stays open: some file systems
/// wait for the disk where one that was emptied is closed.
static FOLDER: LazyLock<(PathBuf, File)> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("pajamas-weight-index-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("a file");
    write("config.json", b"{}");
    write("1.safetensors", &shard(&["a", "b"]));
    write("2.safetensors", &shard(&["c"]));
    let index = File::create(folder.join("model.safetensors.index.json")).expect("the index");
    (folder, index)
});

/// A safetensors file whose tensors are single bytes.
fn shard(names: &[&str]) -> Vec<u8> {
    let entry = |(at, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{}]}}"#, at + 1)
    };
    let header = format!("{{{}}}", names.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; names.len()]].concat()
}

fuzz_target!(|input: &[u8]| {
    let (folder, mut index) = (FOLDER.0.as_path(), &FOLDER.1);
    index
        .rewind()
        .and_then(|()| index.write_all(input))
        .and_then(|()| index.set_len(input.len() as u64))
        .expect("the index");
    let Some(model) = accepted_in(folder, HfModel::open(folder)) else { return };
    for tensor in model.tensors() {
        assert_eq!(tensor.file().parent(), Some(folder));
        assert_eq!(tensor.read(0..1).expect("its byte"), [0]);
    }
    let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name()).collect();
    assert!([&["a", "b", "c"][..], &["a", "b"], &["c"]].contains(&names.as_slice()), "{names:?}");
});
