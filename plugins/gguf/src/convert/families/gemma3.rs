//! Gemma 3, its language model: like Gemma 2, with normalised heads and two rotary bases. What sees is left out.

use super::decoder::{self, Decoder, PLAIN};
use super::{Family, SpacePrefix, TensorRule, gemma2};
use crate::gguf_file::Metadata;
use pajamas_hf_model::{Config, HfModel};
use pajamas_plugin_api::{Error, Result};
use std::borrow::Cow;

/// See the module.
pub(super) struct Gemma3;

impl Family for Gemma3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"]
    }

    fn gguf_architecture(&self) -> &'static str {
        "gemma3"
    }

    fn activation(&self) -> (&'static str, &'static [&'static str]) {
        ("hidden_activation", &["gelu_pytorch_tanh"])
    }

    fn tensors(&self, source: &HfModel) -> Result<Vec<TensorRule>> {
        let config = source.config();
        if config.float("attn_logit_softcapping").is_some() {
            return Err(Error::unsupported(format!(
                "`{}` caps the logits of attention, which llama.cpp does not know for Gemma 3",
                config.path().display()
            )));
        }
        let sizes = (config.hidden_size()?, config.intermediate_size()?);
        let decoder = Decoder { norms: gemma2::NORMS, norms_plus_one: true, q_k_norms: true, ..PLAIN };
        decoder.tensors(source, |layer, rules| {
            decoder::gated(rules, layer, ("mlp", ""), sizes, false);
            Ok(())
        })
    }

    fn add_metadata(&self, config: &Config, metadata: &mut Metadata) -> Result<()> {
        if let Some(cap) = config.float("final_logit_softcapping") {
            metadata.set("gemma3.final_logit_softcapping", cap as f32);
        }
        if config.number("sliding_window_pattern")? != Some(1) {
            let window = config.number("sliding_window")?.unwrap_or(4096);
            metadata.set("gemma3.attention.sliding_window", window as u32);
        }
        Ok(())
    }

    fn space_prefix(&self) -> SpacePrefix {
        SpacePrefix::Never
    }

    fn tensor_name<'n>(&self, name: &'n str) -> Option<Cow<'n, str>> {
        if ["vision_tower.", "multi_modal_projector."].iter().any(|part| name.contains(part)) {
            return None;
        }
        match name.split_once("language_model.") {
            Some((before, after)) => Some(format!("{before}{after}").into()),
            None => Some(name.into()),
        }
    }

    fn notes(&self, config: &Config) -> Vec<String> {
        match config.raw().get("vision_config") {
            Some(_) => vec!["only the language model is converted: it cannot see images".into()],
            None => Vec::new(),
        }
    }
}
