//! The table of what can be made: llama.cpp's file types.

use super::settings;
use llama_cpp_sys_2 as sys;
use pajamas_plugin_api::{Error, Recipe, Result};

/// One file type of llama.cpp.
#[derive(Debug, Clone, Copy)]
pub(super) struct GgufRecipe {
    pub(super) name: &'static str,
    /// llama.cpp's number for it.
    pub(super) file_type: sys::llama_ftype,
    /// On an 8-billion-parameter Llama, whose embedding and output tensors are stored finer than the rest.
    bits_per_weight: f32,
    description: &'static str,
}

const fn recipe(
    name: &'static str,
    file_type: sys::llama_ftype,
    bits_per_weight: f32,
    description: &'static str,
) -> GgufRecipe {
    GgufRecipe { name, file_type, bits_per_weight, description }
}

/// The default first, then the short list, then the rest, about from large to small.
const RECIPES: [GgufRecipe; 35] = [
    recipe("Q4_K_M", sys::LLAMA_FTYPE_MOSTLY_Q4_K_M, 4.89, "The balance of size and quality that suits most uses."),
    recipe("Q4_K_S", sys::LLAMA_FTYPE_MOSTLY_Q4_K_S, 4.67, "A little smaller than Q4_K_M, a little worse."),
    recipe(
        "Q5_K_M",
        sys::LLAMA_FTYPE_MOSTLY_Q5_K_M,
        5.70,
        "Closer to the original than Q4_K_M for a sixth more memory.",
    ),
    recipe("Q6_K", sys::LLAMA_FTYPE_MOSTLY_Q6_K, 6.56, "Hard to tell from the original."),
    recipe("Q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0, 8.50, "As good as the original, at about half the size of F16."),
    recipe(
        "IQ4_XS",
        sys::LLAMA_FTYPE_MOSTLY_IQ4_XS,
        4.46,
        "The smallest with four bits; slower than Q4_K_S on some CPUs.",
    ),
    recipe("F16", sys::LLAMA_FTYPE_MOSTLY_F16, 16.0, "Half precision, not quantized."),
    recipe(
        "BF16",
        sys::LLAMA_FTYPE_MOSTLY_BF16,
        16.0,
        "Brain floats, what most models are published in; not quantized.",
    ),
    recipe("F32", sys::LLAMA_FTYPE_ALL_F32, 32.0, "Single precision, not quantized; for references and tests."),
    recipe("Q5_1", sys::LLAMA_FTYPE_MOSTLY_Q5_1, 6.04, "An older five-bit type; Q5_K_M is better and smaller."),
    recipe("Q5_0", sys::LLAMA_FTYPE_MOSTLY_Q5_0, 5.57, "An older five-bit type; Q5_K_S is better."),
    recipe("Q5_K_S", sys::LLAMA_FTYPE_MOSTLY_Q5_K_S, 5.57, "A little smaller than Q5_K_M, a little worse."),
    recipe("Q4_1", sys::LLAMA_FTYPE_MOSTLY_Q4_1, 5.10, "An older four-bit type; Q4_K_M is better and smaller."),
    recipe(
        "IQ4_NL",
        sys::LLAMA_FTYPE_MOSTLY_IQ4_NL,
        4.68,
        "Four bits on a curve; for models whose rows no 256 divides.",
    ),
    recipe("Q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0, 4.64, "The oldest four-bit type; quick where hardware knows it."),
    recipe("Q3_K_L", sys::LLAMA_FTYPE_MOSTLY_Q3_K_L, 4.30, "The best of the three-bit types."),
    recipe("Q3_K_M", sys::LLAMA_FTYPE_MOSTLY_Q3_K_M, 4.00, "Three bits; noticeably worse than four."),
    recipe("Q3_K_S", sys::LLAMA_FTYPE_MOSTLY_Q3_K_S, 3.64, "The smallest of the three-bit types, with a high loss."),
    recipe("Q2_K", sys::LLAMA_FTYPE_MOSTLY_Q2_K, 3.16, "Two bits, for large models that would not fit otherwise."),
    recipe("MXFP4_MOE", sys::LLAMA_FTYPE_MOSTLY_MXFP4_MOE, 8.50, "Experts in MXFP4, the rest in Q8_0; for gpt-oss."),
    recipe(
        "IQ3_M",
        sys::LLAMA_FTYPE_MOSTLY_IQ3_M,
        3.76,
        "Three bits on a grid, mixed; better than Q3_K_M with an importance matrix.",
    ),
    recipe(
        "IQ3_S",
        sys::LLAMA_FTYPE_MOSTLY_IQ3_S,
        3.66,
        "Three bits on a grid; better than Q3_K_S with an importance matrix.",
    ),
    recipe("IQ3_XS", sys::LLAMA_FTYPE_MOSTLY_IQ3_XS, 3.50, "Between IQ3_XXS and IQ3_S. Needs an importance matrix."),
    recipe("Q2_K_S", sys::LLAMA_FTYPE_MOSTLY_Q2_K_S, 2.97, "Smaller than Q2_K. Needs an importance matrix."),
    recipe(
        "IQ3_XXS",
        sys::LLAMA_FTYPE_MOSTLY_IQ3_XXS,
        3.25,
        "Three bits on a coarse grid. Needs an importance matrix.",
    ),
    recipe("Q2_0", sys::LLAMA_FTYPE_MOSTLY_Q2_0, 2.68, "Two bits in plain blocks; for models trained for it."),
    recipe("IQ2_M", sys::LLAMA_FTYPE_MOSTLY_IQ2_M, 2.93, "Two bits on a grid, mixed. Needs an importance matrix."),
    recipe("IQ2_S", sys::LLAMA_FTYPE_MOSTLY_IQ2_S, 2.74, "Smaller than IQ2_M. Needs an importance matrix."),
    recipe("IQ2_XS", sys::LLAMA_FTYPE_MOSTLY_IQ2_XS, 2.59, "Smaller than IQ2_S. Needs an importance matrix."),
    recipe("IQ2_XXS", sys::LLAMA_FTYPE_MOSTLY_IQ2_XXS, 2.38, "Smaller than IQ2_XS. Needs an importance matrix."),
    recipe(
        "IQ1_M",
        sys::LLAMA_FTYPE_MOSTLY_IQ1_M,
        2.15,
        "Under two bits, with a severe loss. Needs an importance matrix.",
    ),
    recipe(
        "IQ1_S",
        sys::LLAMA_FTYPE_MOSTLY_IQ1_S,
        2.00,
        "The smallest, with the worst loss. Needs an importance matrix.",
    ),
    recipe("TQ2_0", sys::LLAMA_FTYPE_MOSTLY_TQ2_0, 2.52, "Ternary weights in two bits; for models trained for it."),
    recipe("TQ1_0", sys::LLAMA_FTYPE_MOSTLY_TQ1_0, 2.19, "Ternary weights packed; for models trained for it."),
    recipe("Q1_0", sys::LLAMA_FTYPE_MOSTLY_Q1_0, 1.48, "One bit; for models trained for it."),
];

impl GgufRecipe {
    /// The recipe of that name, in any case.
    ///
    /// # Errors
    /// `Unsupported`, with the names that there are.
    pub(super) fn find(name: &str) -> Result<Self> {
        RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name)).copied().ok_or_else(|| {
            let names: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
            Error::unsupported(format!("there is no GGUF method `{name}`; there are {}", names.join(", ")))
        })
    }
}

/// All of them, as the plugin API's.
pub(super) fn all() -> Vec<Recipe> {
    let recipe = |r: &GgufRecipe| {
        Recipe::new(r.name, "gguf", r.bits_per_weight, r.description)
            .from_sources(&["huggingface", "gguf", "mlx"])
            .with_options(settings::specs())
            .with_dry_run()
    };
    RECIPES.iter().map(recipe).collect()
}

#[cfg(test)]
mod tests {
    use super::super::importance::ImportanceMatrix;
    use super::super::settings::Settings;
    use super::super::types;
    use super::*;
    use crate::gguf_file::{GgmlType, Metadata, TensorSpec};

    /// Metadata and tensors of Llama 3.1 8B in bfloat16.
    fn llama_8b() -> (Metadata, Vec<TensorSpec>) {
        const LAYERS: u32 = 32;
        let mut metadata = Metadata::default();
        metadata.set("general.architecture", "llama");
        for (key, value) in [
            ("block_count", LAYERS),
            ("context_length", 131_072),
            ("embedding_length", 4096),
            ("feed_forward_length", 14_336),
            ("attention.head_count", 32),
            ("attention.head_count_kv", 8),
            ("vocab_size", 128_256),
            ("rope.dimension_count", 128),
        ] {
            metadata.set(format!("llama.{key}"), value);
        }
        metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
        let matrix =
            |name: String, shape: [u64; 2]| TensorSpec { name, shape: shape.into(), ggml_type: GgmlType::BF16 };
        let norm = |name: String| TensorSpec { name, shape: vec![4096], ggml_type: GgmlType::F32 };
        let mut tensors = vec![
            matrix("token_embd.weight".into(), [4096, 128_256]),
            matrix("output.weight".into(), [4096, 128_256]),
            norm("output_norm.weight".into()),
        ];
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("attn_q", [4096, 4096]),
                ("attn_k", [4096, 1024]),
                ("attn_v", [4096, 1024]),
                ("attn_output", [4096, 4096]),
                ("ffn_gate", [4096, 14_336]),
                ("ffn_up", [4096, 14_336]),
                ("ffn_down", [14_336, 4096]),
            ] {
                tensors.push(matrix(format!("blk.{layer}.{name}.weight"), shape));
            }
            tensors.extend(["attn_norm", "ffn_norm"].map(|name| norm(format!("blk.{layer}.{name}.weight"))));
        }
        (metadata, tensors)
    }

    #[test]
    fn bits_per_weight_are_those_of_an_8b_llama() {
        let dir = tempfile::tempdir().unwrap();
        let (metadata, tensors) = llama_8b();
        let weights: u64 = tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        let mut wrong = Vec::new();
        for recipe in RECIPES {
            // Those that need an importance matrix choose their types knowing that there is one.
            let matrix = recipe.description.contains("Needs").then(ImportanceMatrix::default);
            let settings = Settings::default();
            let decided = types::decide(&metadata, &tensors, recipe.file_type, &settings, matrix.as_ref(), dir.path());
            let decided = decided.unwrap_or_else(|error| panic!("{}: {error}", recipe.name));
            let bytes: u64 =
                decided.iter().map(|it| it.ggml_type.tensor_bytes(&tensors[it.tensor].shape).unwrap()).sum();
            let bits = bytes as f32 * 8.0 / weights as f32;
            if (bits - recipe.bits_per_weight).abs() > 0.006 {
                wrong.push(format!("{} has {bits:.2}, not {:.2}", recipe.name, recipe.bits_per_weight));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn names_are_found_in_any_case_and_are_unique() {
        assert_eq!(GgufRecipe::find("q4_k_m").expect("the default").file_type, sys::LLAMA_FTYPE_MOSTLY_Q4_K_M);
        assert!(GgufRecipe::find("Q9").unwrap_err().message.contains("Q4_K_M"));
        let mut names: Vec<_> = all().into_iter().map(|recipe| recipe.name).collect();
        assert_eq!(names[0], "Q4_K_M");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), RECIPES.len());
    }
}
