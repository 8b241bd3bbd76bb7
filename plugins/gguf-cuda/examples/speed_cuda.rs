//! `speed` of plugins/gguf with a bare llama.cpp on NVIDIA GPUs beside the plugin; the same arguments.

#[path = "../src/late.rs"]
mod late;
#[path = "../../gguf/examples/speed.rs"]
mod speed;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    late::ready()?;
    speed::main()
}
