//! Makes an MLX folder from a Hugging Face folder, without the host: for measurements and comparisons.
//!
//!     cargo run --release -p pajamas-mlx-folder --example convert -- SRC DST --recipe 4bit --group_size 64 --threads 2

use pajamas_mlx_folder::MlxQuantizer;
use pajamas_plugin_api::{CancelToken, Error, OptionValue, Progress, QuantizeJob, Quantizer, Result};
use std::time::Instant;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, output, settings @ ..] = arguments.as_slice() else {
        return Err(Error::invalid_request("usage: convert SRC DST [--recipe NAME] [--threads N] [--OPTION VALUE]…"));
    };
    let mut job = QuantizeJob::new(source, "4bit", output, std::env::temp_dir());
    for pair in settings.chunks(2) {
        let [name, value] = pair else {
            return Err(Error::invalid_request(format!("`{}` needs a value", pair.join(" "))));
        };
        match name.trim_start_matches('-') {
            "recipe" => job.recipe = value.clone(),
            "threads" => job.threads = value.parse().ok(),
            name => job.options.set(name.replace('-', "_"), OptionValue::Text(value.clone())),
        }
    }
    let begun = Instant::now();
    let report = MlxQuantizer.quantize(&job, &Progress::default(), &CancelToken::never())?;
    println!("{report:#?}\n{:.2} s", begun.elapsed().as_secs_f64());
    Ok(())
}
