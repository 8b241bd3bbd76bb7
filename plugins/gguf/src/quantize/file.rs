//! A GGUF file as what is quantized.

use crate::convert::PlannedTensor;
use crate::gguf_file::{FileType, GgufFile, Metadata, TensorSpec};
use crate::rows::{OpenFile, Rows};
use pajamas_plugin_api::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// Keys of files that are one of several.
const SPLIT_KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];
/// The files that are written have the usual alignment.
const ALIGNMENT: &str = "general.alignment";

/// A GGUF file, complete.
pub(super) struct GgufSource {
    file: GgufFile,
    metadata: Metadata,
    tensors: Vec<PlannedTensor<'static>>,
}

impl GgufSource {
    /// Reads the header of `path`.
    ///
    /// # Errors
    /// `InvalidModel` for a file that is damaged or cut short; `Unsupported` for one of several.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        file.check_complete()?;
        let parts = file.metadata().get("split.count").and_then(|count| count.as_u64()).unwrap_or(1);
        if parts > 1 {
            return Err(Error::unsupported(format!("`{}` is one of {parts} files of a model", path.display()))
                .with_hint("join them with llama.cpp's `llama-gguf-split --merge`"));
        }
        let open = std::fs::File::open(path).map_err(|error| Error::io("opening", path, &error))?;
        let open = Arc::new(OpenFile { file: open, path: path.to_owned() });
        let planned = file.tensors().iter().map(|tensor| PlannedTensor {
            spec: TensorSpec { name: tensor.name.clone(), shape: tensor.shape.clone(), ggml_type: tensor.ggml_type },
            rows: Rows::of_file(&open, tensor),
        });
        let tensors = planned.collect();
        let mut metadata = file.metadata().clone();
        SPLIT_KEYS.iter().for_each(|key| metadata.remove(key));
        metadata.remove(ALIGNMENT);
        // What it tells of its own making is not true of what is made from it.
        let told: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
        told.iter().filter(|key| key.starts_with("pajamas.")).for_each(|key| metadata.remove(key));
        Ok(Self { file, metadata, tensors })
    }

    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(super) fn tensors(&self) -> &[PlannedTensor<'static>] {
        &self.tensors
    }

    pub(super) fn architecture(&self) -> &str {
        self.file.architecture()
    }

    /// Bytes of all tensors.
    pub(super) fn size_bytes(&self) -> u64 {
        self.file.tensors().iter().map(|tensor| tensor.size_bytes).sum()
    }

    /// A model that was quantized loses twice when it is quantized again; the second loss shows nowhere but in the answers.
    pub(super) fn refuse_quantized(&self) -> Result<()> {
        let Some(tensor) = self.file.tensors().iter().find(|tensor| tensor.ggml_type.block_size > 1) else {
            return Ok(());
        };
        let message = format!(
            "`{}` is quantized already (`{}` is {}); quantizing it again would add a second loss to the first",
            self.file.path().display(),
            tensor.name,
            tensor.ggml_type.name
        );
        Err(Error::unsupported(message).with_hint(
            "quantize the original instead: a Hugging Face id, its folder, or an F16, BF16 or F32 GGUF; --requantize \
             does it all the same",
        ))
    }

    /// What the file says its type is, or the type of its first matrix.
    pub(super) fn precision(&self) -> String {
        let stated = self.file.metadata().get("general.file_type").and_then(|value| value.as_u64());
        let stated = stated.and_then(|id| FileType::from_id(u32::try_from(id).ok()?));
        let matrix = || self.file.tensors().iter().find(|tensor| tensor.shape.len() > 1);
        stated.map_or_else(|| matrix().map_or("", |tensor| tensor.ggml_type.name), |file_type| file_type.name).into()
    }
}
