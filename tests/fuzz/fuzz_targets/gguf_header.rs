//! A GGUF file of a claimed size: whatever is accepted as complete has every tensor inside of it, aligned.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas_fuzz::{accepted, claimed_size, path};
use pajamas_gguf_file::GgufFile;
use pajamas_plugin_api::ErrorKind;

fuzz_target!(|input: &[u8]| {
    let Some((claimed, file)) = claimed_size(input) else { return };
    check(file, file.len() as u64);
    // The file may be larger than what is here of it, for data is not read.
    if claimed > file.len() as u64 {
        check(file, claimed);
    }
});

fn check(file: &[u8], file_bytes: u64) {
    let read = GgufFile::parse(file, file_bytes, path());
    if file_bytes > file.len() as u64 && read.as_ref().is_err_and(|error| error.kind == ErrorKind::Io) {
        return; // There is no more of it.
    }
    let Some(gguf) = accepted(read) else { return };
    assert!(gguf.needed_bytes() >= gguf.data_offset());
    let _ = gguf.architecture();
    for (key, value) in gguf.metadata().iter() {
        assert!(gguf.metadata().get(key).is_some_and(|found| std::ptr::eq(found, value)), "`{key}` is there twice");
        let (Some(text), Some(offset)) = (value.as_str(), gguf.string_offset(key)) else { continue };
        // Validating writes its result there.
        if let Some(bytes) = file.get(offset as usize..).and_then(|rest| rest.get(..text.len())) {
            assert_eq!(bytes, text.as_bytes(), "`{key}` lies elsewhere");
        }
    }
    if accepted(gguf.check_complete()).is_none() {
        return;
    }
    for tensor in gguf.tensors() {
        assert_eq!(tensor.ggml_type.tensor_bytes(&tensor.shape), Some(tensor.size_bytes));
        assert!(tensor.offset >= gguf.data_offset() && tensor.offset + tensor.size_bytes <= file_bytes);
    }
}
