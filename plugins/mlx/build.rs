//! Names the backend, and tells the plugin where its sidecar libraries are: in `lib` beside it, wherever the bundle is.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MLX_CUDA");
    // Both of Linux's builds can be installed side by side.
    let cuda = std::env::var("MLX_CUDA").is_ok_and(|value| value != "0");
    println!("cargo::rustc-env=PAJAMAS_BACKEND_NAME={}", if cuda { "mlx-cuda" } else { "mlx" });
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // An RPATH, not a RUNPATH: it also holds for what libmlx needs in turn.
        println!("cargo::rustc-link-arg-cdylib=-Wl,-rpath,$ORIGIN/lib,--disable-new-dtags");
        // mlx-rs and mlx-sys have functions for C by name, which are for MLX and not for other plugins in the process.
        println!("cargo::rustc-link-arg-cdylib=-Wl,--exclude-libs,ALL");
    }
}
