//! Tells what format a model on disk has, from as little of it as can be read.

use super::safetensors;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A folder in Hugging Face's layout: to be quantized.
pub const HUGGING_FACE: &str = "huggingface";
/// A GGUF file.
pub const GGUF: &str = "gguf";
/// A folder in MLX's layout: Hugging Face's, with weights that MLX has quantized or written.
pub const MLX: &str = "mlx";

/// The format of the model at `path`: one of the constants, else what its extension says, in lower case.
///
/// # Errors
/// When nothing there tells.
pub fn detect(path: &Path) -> Result<String> {
    if path.is_dir() { of_folder(path) } else { of_file(path) }
}

fn of_folder(path: &Path) -> Result<String> {
    if path.join("config.json").is_file() {
        return Ok(if is_mlx(path) { MLX } else { HUGGING_FACE }.into());
    }
    // `Qwen2.5-7B` is no model in the format `5-7b`.
    let named = extension(path).filter(|extension| extension.starts_with(|c: char| c.is_ascii_alphabetic()));
    named.ok_or_else(|| Error::Invalid {
        path: path.to_owned(),
        message: "this folder is no Hugging Face model: it has no config.json".into(),
        hint: "give the folder that holds config.json, tokenizer.json and the .safetensors files".into(),
    })
}

fn of_file(path: &Path) -> Result<String> {
    let not_a_model = |message: &str| Error::Invalid {
        path: path.to_owned(),
        message: message.into(),
        hint: "give a GGUF file, or the folder of a Hugging Face or MLX model".into(),
    };
    // Opening a pipe or a device would wait for somebody, or worse.
    if !std::fs::metadata(path).map_err(Error::io("reading", path))?.is_file() {
        return Err(not_a_model("this is neither a file nor a folder"));
    }
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    if file.read_exact(&mut magic).is_ok() && &magic == b"GGUF" {
        return Ok(GGUF.into());
    }
    match extension(path) {
        // Parts of a model, each of them.
        Some(part) if matches!(part.as_str(), "safetensors" | "json") => Err(Error::Invalid {
            path: path.to_owned(),
            message: "this is one file of a model that is a folder".into(),
            hint: format!("give its folder: `{}`", path.parent().unwrap_or(path).display()),
        }),
        Some(extension) if !matches!(extension.as_str(), GGUF | HUGGING_FACE | MLX) => Ok(extension),
        _ => Err(not_a_model("this is no GGUF file")),
    }
}

fn extension(path: &Path) -> Option<String> {
    let extension = path.extension()?.to_str()?.to_lowercase();
    extension.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-').then_some(extension)
}

/// mlx-lm writes `quantization` into config.json where it has quantized, and `"format": "mlx"` into the header of every
/// weight file, quantized or not.
fn is_mlx(folder: &Path) -> bool {
    let config = safetensors::read_capped(&folder.join("config.json")).ok().flatten();
    let config = config.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    config.is_some_and(|config| config["quantization"].is_object())
        || first_weights(folder)
            .and_then(|path| safetensors::read_metadata(&path).ok())
            .is_some_and(|metadata| metadata.get("format").is_some_and(|format| format == MLX))
}

fn first_weights(folder: &Path) -> Option<PathBuf> {
    let paths = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "safetensors") && path.is_file()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safetensors(header: &str) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
    }

    #[test]
    fn files_and_folders_are_what_their_first_bytes_say() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        assert_eq!(detect(&file("a.bin", b"GGUF....")).unwrap(), "gguf");
        assert_eq!(detect(&file("b.NGRAM", b"...")).unwrap(), "ngram");
        for name in ["c.gguf", "c.mlx", "c"] {
            assert!(detect(&file(name, b"no model")).unwrap_err().to_string().contains("no GGUF file"), "{name}");
        }
        for name in ["part/model.safetensors", "part/config.json"] {
            let hint = detect(&file(name, b"{}")).unwrap_err().hint().unwrap();
            assert_eq!(hint, format!("give its folder: `{}`", dir.path().join("part").display()));
        }
        assert_eq!(detect(file("hf/config.json", b"{}").parent().unwrap()).unwrap(), "huggingface");
        assert_eq!(detect(file("q/config.json", br#"{"quantization":{"bits":4}}"#).parent().unwrap()).unwrap(), "mlx");
        file("w/model.safetensors", &safetensors(r#"{"__metadata__":{"format":"mlx"}}"#));
        assert_eq!(detect(file("w/config.json", b"{}").parent().unwrap()).unwrap(), "mlx");
        file("pt/model.safetensors", &safetensors(r#"{"__metadata__":{"format":"pt"}}"#));
        assert_eq!(detect(file("pt/config.json", b"{}").parent().unwrap()).unwrap(), "huggingface");
        assert_eq!(detect(file("x.acme/part", b"").parent().unwrap()).unwrap(), "acme");
        assert!(detect(file("empty/part", b"").parent().unwrap()).is_err());
        assert!(detect(file("Qwen2.5-7B/part", b"").parent().unwrap()).is_err());
    }

    #[test]
    fn damaged_headers_say_nothing_and_break_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), b"{").unwrap();
        for bytes in [&b""[..], b"1234", &[0xff; 8], &safetensors("{")[..]] {
            std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
            assert_eq!(detect(dir.path()).unwrap(), "huggingface");
        }
    }
}
