//! Makes a model small, sees how good it still is, and streams an answer.
//!
//!     cargo run --release --example quick_start -- MODEL [QUESTION]

use pajamas::{Observer, Pajamas, ProgressUpdate};
use std::io::Write;

/// Tells on stderr what takes so long.
struct OnStderr;

impl Observer for OnStderr {
    fn note(&self, message: &str) {
        eprintln!("{message}");
    }

    fn progress(&self, update: &ProgressUpdate) {
        eprint!("\r{} {:3.0} % ", update.stage, update.fraction * 100.0);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: quick_start MODEL [QUESTION]")?;
    let question = arguments.next().unwrap_or_else(|| "What is the capital of France?".into());

    let pajamas = Pajamas::new()?;
    let made = pajamas.quantize(model).method("Q4_K_M").observer(&OnStderr).run()?;
    eprintln!("\r{}: {:.2} times smaller", made.artifact.path.display(), made.artifact.ratio);
    if let Some(comparison) = made.validation.as_ref().and_then(|report| report.comparison.as_ref()) {
        eprintln!("mean KL divergence from the source: {:.5}", comparison.kl_divergence.mean);
    }

    let model = pajamas.load(&made).run()?;
    let mut answer = model.chat(question).temperature(0.0).stream();
    for piece in &mut answer {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!();
    if let Some(result) = answer.result() {
        eprintln!("{:.0} tokens per second on {}", result.stats.tokens_per_second, model.backend());
    }
    Ok(())
}
