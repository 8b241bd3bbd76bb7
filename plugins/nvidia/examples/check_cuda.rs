//! Says whether this machine could run kernels for GPUs from Turing on, built with CUDA 13.0: `ready`, or `REASON | REMEDY`.

use pajamas_nvidia::{Architectures, Driver, libraries};

fn main() {
    match check() {
        Ok(()) => println!("ready"),
        Err(error) => println!("{error} | {}", error.hint.as_deref().unwrap_or_default()),
    }
}

fn check() -> pajamas_plugin_api::Result<()> {
    let driver = Driver::open()?;
    driver.check_runtime(13, 0)?;
    for gpu in driver.without_code(&Architectures::parse("75-real;90-virtual"))? {
        println!("{} is not used", gpu.name);
    }
    std::mem::forget(libraries::open("libcublas.so.13")?);
    Ok(())
}
