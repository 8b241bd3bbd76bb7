//! Makes one model by several methods and says what each costs and keeps.
//!
//!     cargo run --release --example batch_quantize -- MODEL METHOD...

use pajamas::{Measure, Pajamas};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: batch_quantize MODEL METHOD...")?;
    let pajamas = Pajamas::new()?;
    println!("{:<10} {:>14} {:>12} {:>10}", "method", "bytes", "KLD", "top-1");
    for method in arguments {
        // One that fails is no reason to leave out the others.
        let made = match pajamas.quantize(&model).method(&method).measure(Measure::Always).run() {
            Ok(made) => made,
            Err(error) => {
                println!("{method:<10} {error}");
                continue;
            }
        };
        let bytes = made.artifact.report.output_bytes;
        match made.validation.as_ref().and_then(|report| report.comparison.as_ref()) {
            Some(comparison) => println!(
                "{method:<10} {bytes:>14} {:>12.5} {:>8.1} %",
                comparison.kl_divergence.mean,
                comparison.top1_agreement.value * 100.0
            ),
            None => println!("{method:<10} {bytes:>14} {}", made.not_validated),
        }
    }
    Ok(())
}
