//! How fast models are on every backend that can run them.
//!
//!     cargo run --release --example benchmark -- MODEL...

use pajamas::{Pajamas, report::Outcome};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pajamas = Pajamas::new()?;
    let work = pajamas.benchmark(std::env::args().skip(1)).backend("all");
    let report = work.prompt_tokens(&[128]).generate_tokens(&[32]).repetitions(3).run()?;
    for run in &report.runs {
        let backend = run.backend.as_deref().unwrap_or("no backend");
        if let Some(error) = &run.error {
            println!("{} on {backend}: {error}", run.model);
        }
        for test in &run.tests {
            if let Outcome::Measured(measured) = &test.outcome {
                let rate = &measured.tokens_per_second;
                let deviation = rate.standard_deviation.unwrap_or(0.0);
                println!("{} on {backend}: {} {:.1} ± {deviation:.1} tokens/s", run.model, test.test, rate.mean);
            }
        }
    }
    Ok(())
}
