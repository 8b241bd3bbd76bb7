//! `speed` of plugins/gguf with a bare llama.cpp on NVIDIA GPUs beside the plugin; the same arguments.

#[path = "../src/late.rs"]
#[expect(dead_code, reason = "one GPU is measured, and nothing asks for classes")]
mod late;
#[path = "../../gguf/examples/speed.rs"]
mod speed;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    late::ready()?;
    speed::main()
}
