//! The options of a GGUF recipe: what they are called, and what a job's values of them mean.

use crate::gguf_file::GgmlType;
use pajamas_plugin_api::options::nearest;
use pajamas_plugin_api::{Error, OptionKind, OptionSpec, Options, Result};
use std::ffi::CString;
use std::path::PathBuf;

const LEAVE_OUTPUT_TENSOR: &str = "leave_output_tensor";
const OUTPUT_TENSOR_TYPE: &str = "output_tensor_type";
const TOKEN_EMBEDDING_TYPE: &str = "token_embedding_type";
const TENSOR_TYPES: &str = "tensor_types";
const PURE: &str = "pure";
const REQUANTIZE: &str = "requantize";
const PRE_TOKENIZER: &str = "pre_tokenizer";
const IMATRIX: &str = "imatrix";
const CALIBRATION: &str = "calibration";
const CALIBRATION_TOKENS: &str = "calibration_tokens";

/// Types that a tensor can be given by name: those that llama.cpp's quantizer writes.
const TYPES: [GgmlType; 27] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q8_0,
    GgmlType::Q6_K,
    GgmlType::Q5_K,
    GgmlType::Q5_1,
    GgmlType::Q5_0,
    GgmlType::Q4_K,
    GgmlType::Q4_1,
    GgmlType::Q4_0,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::MXFP4,
    GgmlType::Q3_K,
    GgmlType::IQ3_S,
    GgmlType::IQ3_XXS,
    GgmlType::Q2_K,
    GgmlType::IQ2_S,
    GgmlType::IQ2_XS,
    GgmlType::IQ2_XXS,
    GgmlType::IQ1_M,
    GgmlType::IQ1_S,
    GgmlType::TQ2_0,
    GgmlType::TQ1_0,
    GgmlType::Q2_0,
    GgmlType::Q1_0,
];

/// What a user chose beyond the recipe.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Settings {
    /// Whether the output tensor keeps the source's precision.
    pub(super) leave_output_tensor: bool,
    pub(super) output_tensor_type: Option<GgmlType>,
    pub(super) token_embedding_type: Option<GgmlType>,
    /// Regular expressions on tensors' names, and the types of those that they find; the first one counts.
    tensor_types: Vec<(String, GgmlType)>,
    /// Whether every tensor gets the recipe's own type.
    pub(super) pure: bool,
    /// Whether tensors that are quantized already may be quantized again.
    pub(super) requantize: bool,
    /// llama.cpp's name of the pre-tokenizer.
    pub(super) pre_tokenizer: Option<String>,
    /// A file with an importance matrix.
    pub(super) imatrix: Option<PathBuf>,
    /// A file of text to make an importance matrix with.
    pub(super) calibration: Option<PathBuf>,
    /// Tokens of that text to read, at the most.
    pub(super) calibration_tokens: usize,
}

/// The options that every recipe takes.
pub(super) fn specs() -> Vec<OptionSpec> {
    let option = OptionSpec::new;
    vec![
        option(LEAVE_OUTPUT_TENSOR, OptionKind::Bool, "false", "Keep the output tensor at the source's precision."),
        option(OUTPUT_TENSOR_TYPE, OptionKind::Text, "", "The type of the output tensor: `Q8_0`, …"),
        option(TOKEN_EMBEDDING_TYPE, OptionKind::Text, "", "The type of the embedding: `Q8_0`, …"),
        option(
            TENSOR_TYPES,
            OptionKind::Text,
            "",
            "Types of tensors by regular expressions on their names, `PATTERN=TYPE;PATTERN=TYPE`; the first that fits counts.",
        ),
        option(PURE, OptionKind::Bool, "false", "Give every tensor the method's own type, without a mixture."),
        option(
            REQUANTIZE,
            OptionKind::Bool,
            "false",
            "Quantize tensors that are quantized already; both losses add up.",
        ),
        option(
            PRE_TOKENIZER,
            OptionKind::Text,
            "",
            "llama.cpp's name of the pre-tokenizer, where it is not recognised.",
        ),
        option(
            IMATRIX,
            OptionKind::Text,
            "",
            "A file with an importance matrix, as llama.cpp writes it (GGUF or legacy).",
        ),
        option(CALIBRATION, OptionKind::Text, "", "A file of text that the model reads to make an importance matrix."),
        option(
            CALIBRATION_TOKENS,
            OptionKind::Int { min: 512, max: 1 << 30 },
            "1073741824",
            "Tokens of that text to read, at the most.",
        ),
    ]
}

impl Settings {
    /// What `options`, checked against [`specs`], say.
    ///
    /// # Errors
    /// `InvalidRequest` for types that there are not, and options that contradict each other.
    pub(super) fn read(options: &Options) -> Result<Self> {
        let text = |name: &str| options.text(name).filter(|text| !text.is_empty());
        let flag = |name: &str| options.bool(name).unwrap_or(false);
        let settings = Self {
            leave_output_tensor: flag(LEAVE_OUTPUT_TENSOR),
            output_tensor_type: text(OUTPUT_TENSOR_TYPE).map(named_type).transpose()?,
            token_embedding_type: text(TOKEN_EMBEDDING_TYPE).map(named_type).transpose()?,
            tensor_types: text(TENSOR_TYPES).map(overrides).transpose()?.unwrap_or_default(),
            pure: flag(PURE),
            requantize: flag(REQUANTIZE),
            pre_tokenizer: text(PRE_TOKENIZER).map(str::to_owned),
            imatrix: text(IMATRIX).map(PathBuf::from),
            calibration: text(CALIBRATION).map(PathBuf::from),
            calibration_tokens: options
                .int(CALIBRATION_TOKENS)
                .and_then(|tokens| usize::try_from(tokens).ok())
                .unwrap_or(usize::MAX),
        };
        let clash = |a: &str, b: &str| {
            Err(Error::invalid_request(format!("`{a}` and `{b}` cannot both be chosen")).with_hint("leave one out"))
        };
        if settings.imatrix.is_some() && settings.calibration.is_some() {
            return clash(IMATRIX, CALIBRATION);
        }
        if settings.leave_output_tensor && settings.output_tensor_type.is_some() {
            return clash(LEAVE_OUTPUT_TENSOR, OUTPUT_TENSOR_TYPE);
        }
        Ok(settings)
    }

    /// The first option that only means something where tensors are quantized, if one is set.
    pub(super) fn of_quantizing(&self) -> Option<&'static str> {
        [
            (self.leave_output_tensor, LEAVE_OUTPUT_TENSOR),
            (self.output_tensor_type.is_some(), OUTPUT_TENSOR_TYPE),
            (self.token_embedding_type.is_some(), TOKEN_EMBEDDING_TYPE),
            (!self.tensor_types.is_empty(), TENSOR_TYPES),
            (self.pure, PURE),
            (self.imatrix.is_some(), IMATRIX),
            (self.calibration.is_some(), CALIBRATION),
        ]
        .into_iter()
        .find_map(|(set, name)| set.then_some(name))
    }

    /// The first option that only means something where types are mixed, if one is set.
    pub(super) fn of_mixtures(&self) -> Option<&'static str> {
        const OTHERS: [&str; 3] = [LEAVE_OUTPUT_TENSOR, OUTPUT_TENSOR_TYPE, TOKEN_EMBEDDING_TYPE];
        self.of_quantizing().filter(|option| !OTHERS.contains(option))
    }

    /// Refuses a pattern that fits none of `names`. One that only llama.cpp's own expressions can say passes.
    ///
    /// # Errors
    /// `InvalidRequest`.
    pub(super) fn check_patterns<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Result<()> {
        for (pattern, _) in &self.tensor_types {
            let Ok(expression) = regex::Regex::new(pattern) else { continue };
            if !names.clone().any(|name| expression.is_match(name)) {
                return Err(Error::invalid_request(format!("`{}` fits the name of no tensor", pattern.escape_debug()))
                    .with_hint("--dry-run shows all of them"));
            }
        }
        Ok(())
    }

    /// The patterns as C has them.
    ///
    /// # Errors
    /// `InvalidRequest` for one that cannot be said in C.
    pub(super) fn patterns(&self) -> Result<Vec<(CString, GgmlType)>> {
        let patterns = self.tensor_types.iter().map(|(pattern, ggml_type)| {
            let pattern = CString::new(pattern.as_str())
                .map_err(|_| Error::invalid_request("a pattern of tensors' names holds a NUL"))?;
            Ok((pattern, *ggml_type))
        });
        patterns.collect()
    }
}

fn overrides(text: &str) -> Result<Vec<(String, GgmlType)>> {
    let pairs = text.split(';').filter(|pair| !pair.trim().is_empty()).map(|pair| {
        // A pattern may hold equals signs, a type does not.
        let (pattern, name) =
            pair.rsplit_once('=').filter(|(pattern, _)| !pattern.trim().is_empty()).ok_or_else(|| {
                Error::invalid_request(format!("`{pair}` is not PATTERN=TYPE"))
                    .with_hint("for example `ffn_down=Q6_K`, or `blk\\.[0-3]\\.attn_v=Q8_0`")
            })?;
        Ok((pattern.trim().to_owned(), named_type(name.trim())?))
    });
    pairs.collect()
}

fn named_type(name: &str) -> Result<GgmlType> {
    TYPES.into_iter().find(|known| known.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let names = TYPES.iter().map(|known| known.name);
        let hint = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
        };
        Error::invalid_request(format!("there is no tensor type `{}`", name.escape_debug())).with_hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::OptionValue;

    fn read(options: &[(&str, &str)]) -> Result<Settings> {
        let mut all = Options::default();
        for (name, value) in options {
            all.set(*name, OptionValue::Text((*value).into()));
        }
        Settings::read(&all)
    }

    #[test]
    fn overrides_are_patterns_with_types() {
        let settings = read(&[("tensor_types", r"blk\.[0-1]\.=q8_0; ffn_down=Q6_K;")]).expect("read");
        let expected = [(r"blk\.[0-1]\.".to_owned(), GgmlType::Q8_0), ("ffn_down".to_owned(), GgmlType::Q6_K)];
        assert_eq!(settings.tensor_types, expected);
        let hint = |error: Error| format!("{} / {}", error.message, error.hint.unwrap_or_default());
        assert!(hint(read(&[("tensor_types", "ffn_down")]).unwrap_err()).contains("is not PATTERN=TYPE"));
        assert!(hint(read(&[("tensor_types", "a=Q4_K_M")]).unwrap_err()).contains("did you mean `Q4_K`?"));
        assert!(hint(read(&[("output_tensor_type", "zz")]).unwrap_err()).contains("there are F32, F16"));
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(read(&[("imatrix", "a"), ("calibration", "b")]).unwrap_err().message.contains("cannot both"));
        assert_eq!(read(&[("imatrix", "a")]).expect("read").of_quantizing(), Some(IMATRIX));
        assert_eq!(read(&[("pre_tokenizer", "qwen2")]).expect("read").of_quantizing(), None);
    }
}
