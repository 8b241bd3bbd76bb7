//! The table of what can be made, and how many bits each layer gets.

use crate::affine::{Affine, GROUP_SIZES};
use crate::float_type::FloatType;
use pajamas_plugin_api::{Error, OptionKind, OptionSpec, Options, Recipe, Result};

/// The option for the weights that share a scale.
pub const GROUP_SIZE: &str = "group_size";
/// The option for the type of scales, biases and whatever is not quantized.
pub const DTYPE: &str = "dtype";

/// Weights that share a scale where nothing else is asked for, as in mlx-lm.
pub const GROUP_SIZE_DEFAULT: u32 = 64;

/// One thing that can be made.
#[derive(Debug, Clone, Copy)]
pub struct MlxRecipe {
    /// `4bit`.
    pub name: &'static str,
    /// What becomes of the layers.
    pub method: Method,
    /// With scales and biases of 16 bits in groups of 64; the mixed ones on an 8-billion-parameter Llama.
    bits_per_weight: f32,
    description: &'static str,
}

/// What becomes of the layers that can be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// All of them get the same bits.
    Uniform {
        /// Bits per number.
        bits: u32,
    },
    /// Those that matter more get more bits.
    Mixed {
        /// Bits of most layers.
        low: u32,
        /// Bits of the output, and of some value and down projections.
        high: u32,
    },
    /// None is quantized; all are stored as this type.
    Float(FloatType),
}

const fn uniform(name: &'static str, bits: u32, bits_per_weight: f32, description: &'static str) -> MlxRecipe {
    MlxRecipe { name, method: Method::Uniform { bits }, bits_per_weight, description }
}

const fn mixed(name: &'static str, low: u32, high: u32, bits_per_weight: f32, description: &'static str) -> MlxRecipe {
    MlxRecipe { name, method: Method::Mixed { low, high }, bits_per_weight, description }
}

const fn float(
    name: &'static str,
    float_type: FloatType,
    bits_per_weight: f32,
    description: &'static str,
) -> MlxRecipe {
    MlxRecipe { name, method: Method::Float(float_type), bits_per_weight, description }
}

/// The default first.
pub const RECIPES: [MlxRecipe; 13] = [
    uniform("4bit", 4, 4.5, "The balance of size and quality that suits most uses."),
    uniform("8bit", 8, 8.5, "As good as the original, at about half its size."),
    uniform("6bit", 6, 6.5, "Hard to tell from the original."),
    uniform("5bit", 5, 5.5, "Closer to the original than 4bit for a fifth more memory."),
    uniform("3bit", 3, 3.5, "Noticeably worse than 4bit; for models that would not fit otherwise."),
    uniform("2bit", 2, 2.5, "A high loss; for experiments and very large models."),
    mixed("mixed_2_6", 2, 6, 3.26, "Two bits, and six where they matter most; better than 3bit in places."),
    mixed("mixed_3_4", 3, 4, 3.69, "Three bits, and four where they matter most."),
    mixed("mixed_3_6", 3, 6, 4.07, "Three bits, and six where they matter most; smaller than 4bit."),
    mixed("mixed_4_6", 4, 6, 4.88, "Four bits, and six where they matter most; better than 4bit."),
    float("bf16", FloatType::Bf16, 16.0, "Brain floats, what most models are published in; not quantized."),
    float("f16", FloatType::F16, 16.0, "Half precision, not quantized."),
    float("f32", FloatType::F32, 32.0, "Single precision, not quantized; for references and tests."),
];

impl MlxRecipe {
    /// The recipe of that name, in any case.
    ///
    /// # Errors
    /// `Unsupported`, with the names that there are.
    pub fn find(name: &str) -> Result<Self> {
        RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name)).copied().ok_or_else(|| {
            let names: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
            Error::unsupported(format!(
                "there is no MLX method `{}`; there are {}",
                name.escape_debug(),
                names.join(", ")
            ))
        })
    }
}

/// All of them, as the plugin API's.
pub fn all() -> Vec<Recipe> {
    let words: Vec<String> = GROUP_SIZES.iter().map(u32::to_string).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let options = vec![
        OptionSpec::new(
            GROUP_SIZE,
            OptionKind::choice(&words),
            &GROUP_SIZE_DEFAULT.to_string(),
            "Weights that share a scale: fewer are closer to the original and take more memory.",
        ),
        OptionSpec::new(
            DTYPE,
            OptionKind::choice(&FloatType::ALL.map(FloatType::word)),
            "",
            "The type of scales, biases and whatever is not quantized; the source's where it is not set.",
        ),
    ];
    let recipe = |recipe: &MlxRecipe| {
        let options = if matches!(recipe.method, Method::Float(_)) { Vec::new() } else { options.clone() };
        Recipe::new(recipe.name, "mlx", recipe.bits_per_weight, recipe.description)
            .from_sources(&["huggingface", "mlx"])
            .with_options(options)
            .folder()
    };
    RECIPES.iter().map(recipe).collect()
}

/// A recipe with its options: all that decides what becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What becomes of the layers.
    pub method: Method,
    /// Weights that share a scale, one of [`GROUP_SIZES`].
    pub group_size: u32,
    /// The type of whatever is not quantized, where the user chose one.
    pub dtype: Option<FloatType>,
}

impl Choice {
    /// Reads the name of a recipe and the options given with it.
    ///
    /// # Errors
    /// `Unsupported` for an unknown recipe, `InvalidRequest` for an option that it does not take or a value that the
    /// option does not have.
    pub fn read(recipe: &str, options: &Options) -> Result<Self> {
        let recipe = MlxRecipe::find(recipe)?;
        let specs = all().into_iter().find(|known| known.name == recipe.name).map(|known| known.options);
        pajamas_plugin_api::options::check(&specs.unwrap_or_default(), options)?;
        Ok(Self {
            method: recipe.method,
            group_size: options
                .text(GROUP_SIZE)
                .and_then(|size| size.parse().ok())
                .filter(|size| GROUP_SIZES.contains(size))
                .unwrap_or(GROUP_SIZE_DEFAULT),
            dtype: options.text(DTYPE).and_then(FloatType::from_word),
        })
    }

    /// How the layer `path` of a model with `layer_count` blocks is quantized where its rows allow it; none for not
    /// at all.
    pub fn affine(&self, path: &str, layer_count: u64) -> Option<Affine> {
        let bits = match self.method {
            Method::Float(_) => return None,
            Method::Uniform { bits } => bits,
            Method::Mixed { low, high } => {
                if matters_more(path, layer_count) {
                    high
                } else {
                    low
                }
            }
        };
        Affine::new(bits, self.group_size)
    }
}

/// Which layers of a mixed recipe get more bits: the output, and the value and down projections of the first eighth,
/// of the last eighth and of each third block between. mlx-lm's rule, which follows llama.cpp's for Q4_K_M.
fn matters_more(path: &str, layer_count: u64) -> bool {
    if path.contains("lm_head") {
        return true;
    }
    if !path.contains("v_proj") && !path.contains("down_proj") {
        return false;
    }
    let index: u64 = path.split('.').nth(2).and_then(|part| part.parse().ok()).unwrap_or(0);
    let eighth = layer_count / 8;
    index < eighth || index >= 7 * layer_count / 8 || (index - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::OptionValue;

    #[test]
    fn names_are_found_in_any_case_and_are_unique() {
        assert_eq!(MlxRecipe::find("Mixed_3_6").unwrap().method, Method::Mixed { low: 3, high: 6 });
        let error = MlxRecipe::find("q4_k_m").unwrap_err();
        assert!(error.message.contains("`q4_k_m`; there are 4bit, 8bit"), "{error}");
        let mut names: Vec<_> = all().into_iter().map(|recipe| recipe.name).collect();
        assert_eq!(names[0], "4bit");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), RECIPES.len());
    }

    #[test]
    fn options_are_read_and_checked() {
        let options = |pairs: &[(&str, &str)]| -> Options {
            pairs.iter().map(|(name, value)| (*name, OptionValue::Text((*value).into()))).collect()
        };
        let choice = Choice::read("8bit", &options(&[])).unwrap();
        assert_eq!((choice.group_size, choice.dtype), (64, None));
        let choice = Choice::read("8bit", &options(&[("group_size", "128"), ("dtype", "float16")])).unwrap();
        assert_eq!((choice.group_size, choice.dtype), (128, Some(FloatType::F16)));
        assert!(Choice::read("8bit", &options(&[("group_size", "48")])).is_err());
        assert!(Choice::read("bf16", &options(&[("dtype", "float16")])).is_err());
    }

    #[test]
    fn the_stated_bits_per_weight_are_those_of_a_llama_8b() {
        let (hidden, wide, kv, vocabulary, layers) = (4096_u64, 14_336_u64, 1024_u64, 128_256_u64, 32_u64);
        let mut matrices =
            vec![("model.embed_tokens".to_owned(), vocabulary * hidden), ("lm_head".to_owned(), vocabulary * hidden)];
        for layer in 0..layers {
            for (path, rows, columns) in [
                ("self_attn.q_proj", hidden, hidden),
                ("self_attn.k_proj", kv, hidden),
                ("self_attn.v_proj", kv, hidden),
                ("self_attn.o_proj", hidden, hidden),
                ("mlp.gate_proj", wide, hidden),
                ("mlp.down_proj", hidden, wide),
                ("mlp.up_proj", wide, hidden),
            ] {
                matrices.push((format!("model.layers.{layer}.{path}"), rows * columns));
            }
        }
        let weights: u64 = matrices.iter().map(|(_, weights)| weights).sum();
        for recipe in RECIPES {
            let choice = Choice { method: recipe.method, group_size: 64, dtype: None };
            let Method::Float(float_type) = recipe.method else {
                // A scale and a bias of 16 bits each for 64 weights are half a bit for each.
                let bits = |(path, weights): &(String, u64)| {
                    f64::from(choice.affine(path, layers).unwrap().bits()) * *weights as f64
                };
                let mean = matrices.iter().map(bits).sum::<f64>() / weights as f64 + 0.5;
                assert!((mean - f64::from(recipe.bits_per_weight)).abs() < 0.005, "{}: {mean}", recipe.name);
                continue;
            };
            assert_eq!(recipe.bits_per_weight, float_type.size_bytes() as f32 * 8.0);
        }
    }

    #[test]
    fn a_third_of_the_middle_and_both_ends_matter_more() {
        let more: Vec<u64> =
            (0..16).filter(|layer| matters_more(&format!("model.layers.{layer}.mlp.down_proj"), 16)).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert!(!matters_more("model.layers.0.mlp.up_proj", 16) && !matters_more("model.embed_tokens", 16));
    }
}
