//! Which files of a repository make the model; the rest is not fetched.

use super::remote::RemoteFile;
use crate::error::{Error, Result};
use pajamas_plugin_api::options::nearest;

/// What is read of a model beside its weights, by ending; the model card goes into the GGUF file's metadata.
const ENDINGS: [&str; 4] = [".json", ".model", ".jinja", ".txt"];
const CARD: &str = "README.md";

/// The files that make the model `reference`: configuration, tokenizer, templates, the model card, and the weights as
/// safetensors; or, in a repository of GGUF files, the one that is there or the one that is `named`, with all its parts.
///
/// # Errors
/// `ModelNotFound` where there are no such files, or several GGUF files and none is named.
pub fn select(reference: &str, files: &[RemoteFile], named: Option<&str>) -> Result<Vec<RemoteFile>> {
    let error = |reason: String, hint: String| Error::ModelNotFound { reference: reference.into(), reason, hint };
    if let Some(named) = named {
        let parts = stem(named);
        let found: Vec<_> = files.iter().filter(|file| file.name == named || same_parts(parts, &file.name)).collect();
        if found.is_empty() {
            let near = nearest(named, files.iter().map(|file| file.name.as_str()));
            return Err(error(
                format!("it has no file `{named}`"),
                near.map_or_else(
                    || "without `--file` the error lists them".into(),
                    |near| format!("did you mean `{near}`?"),
                ),
            ));
        }
        return Ok(found.into_iter().cloned().collect());
    }
    let top = || files.iter().filter(|file| !file.name.contains('/'));
    if top().any(|file| file.name == "config.json") && top().any(is_weights) {
        // Mistral's repositories have the weights twice, once for its own program.
        let named_model = top().any(|file| is_weights(file) && file.name.starts_with("model"));
        let wanted = |file: &&RemoteFile| {
            if is_weights(file) {
                return !named_model || file.name.starts_with("model");
            }
            file.name == CARD || ENDINGS.iter().any(|ending| file.name.ends_with(ending))
        };
        return Ok(top().filter(wanted).cloned().collect());
    }
    let ggufs: Vec<&RemoteFile> = files.iter().filter(|file| file.name.ends_with(".gguf")).collect();
    match ggufs.as_slice() {
        [] if files.iter().any(|file| file.name.ends_with(".bin") || file.name.ends_with(".pt")) => Err(error(
            "its weights are pickles only, which can run any code when they are read".into(),
            "look on the hub for the same model with safetensors or as GGUF".into(),
        )),
        [] => Err(error("it has neither safetensors with a config.json nor GGUF files".into(), String::new())),
        [first, rest @ ..] if rest.iter().all(|file| same_parts(stem(&first.name), &file.name)) => {
            Ok(ggufs.into_iter().cloned().collect())
        }
        [first, ..] => Err(error(
            format!(
                "it has {} GGUF files:{}",
                ggufs.len(),
                super::super::listed(ggufs.iter().map(|file| file.name.clone()))
            ),
            format!("fetch one of them: `pajamas models pull {reference} --file {}`", first.name),
        )),
    }
}

fn is_weights(file: &RemoteFile) -> bool {
    file.name.ends_with(".safetensors")
}

/// What the parts of a GGUF file have in common: `q4` of `q4-00001-of-00003.gguf`.
fn stem(name: &str) -> Option<(&str, &str)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|digit| digit.is_ascii_digit());
    (number(count) && number(part)).then_some((stem, count))
}

fn same_parts(parts: Option<(&str, &str)>, name: &str) -> bool {
    parts.is_some() && stem(name) == parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str], named: Option<&str>) -> Result<Vec<String>> {
        let file = |name: &&str| RemoteFile { name: (*name).into(), size: 1, etag: "0".repeat(40), large: false };
        let files: Vec<RemoteFile> = files.iter().map(file).collect();
        Ok(select("a/b", &files, named)?.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn of_a_model_what_it_is_read_from_and_nothing_else() {
        let all = [
            "README.md",
            "chat_template.jinja",
            "config.json",
            "consolidated.safetensors",
            "flax_model.msgpack",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "onnx/config.json",
            "picture.png",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let expected = [
            "README.md",
            "chat_template.jinja",
            "config.json",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer.model",
        ];
        assert_eq!(names(&all, None).unwrap(), expected);
        assert_eq!(names(&["config.json", "weights.safetensors"], None).unwrap().len(), 2);
    }

    #[test]
    fn of_gguf_files_the_one_with_all_its_parts() {
        let two = ["README.md", "q4-00001-of-00002.gguf", "q4-00002-of-00002.gguf", "q8.gguf"];
        assert_eq!(names(&two[..3], None).unwrap(), two[1..3]);
        assert_eq!(names(&two, Some("q4-00002-of-00002.gguf")).unwrap(), two[1..3]);
        assert_eq!(names(&two, Some("q8.gguf")).unwrap(), ["q8.gguf"]);
        let several = names(&two, None).unwrap_err();
        assert!(several.to_string().contains("3 GGUF files") && several.hint().unwrap().contains("pull a/b --file q4"));
        let slip = names(&two, Some("q8.ggu")).unwrap_err();
        assert_eq!(slip.hint().unwrap(), "did you mean `q8.gguf`?");
        assert!(names(&["config.json", "pytorch_model.bin"], None).unwrap_err().to_string().contains("pickles"));
        assert!(names(&["notes.md"], None).unwrap_err().to_string().contains("neither"));
    }
}
