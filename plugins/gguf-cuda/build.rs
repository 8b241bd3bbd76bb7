//! Tells the plugin for which GPUs, and with which CUDA, its kernels are compiled: tools/build-plugin-cuda sets both.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (variable, default) in [("PAJAMAS_CUDA_ARCHITECTURES", ""), ("PAJAMAS_CUDA_VERSION", "0.0")] {
        println!("cargo::rerun-if-env-changed={variable}");
        let value = std::env::var(variable).unwrap_or_else(|_| default.into());
        println!("cargo::rustc-env={variable}={value}");
    }
}
