//! Compiles mlx-c against an unpacked MLX wheel and writes the bindings.

use std::path::{Path, PathBuf};

fn main() {
    // Where these lie, only tools/build-plugin-mlx knows.
    let source = folder("PAJAMAS_MLX_C");
    let mlx = folder("PAJAMAS_MLX");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cmake");
    println!("cargo::rerun-if-changed={}", mlx.join("include/mlx/version.h").display());

    let cmake = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("cmake");
    let built = cmake::Config::new(&source)
        .profile("Release")
        .define("MLX_C_BUILD_EXAMPLES", "OFF")
        .define("MLX_C_USE_SYSTEM_MLX", "ON")
        .define("MLX_DIR", &cmake)
        .define("PAJAMAS_MLX", &mlx)
        .build_target("mlxc")
        .build();

    println!("cargo::rustc-link-search=native={}", built.join("build").display());
    println!("cargo::rustc-link-lib=static=mlxc");
    println!("cargo::rustc-link-search=native={}", mlx.join("lib").display());
    println!("cargo::rustc-link-lib=dylib=mlx");
    println!("cargo::rustc-link-lib=dylib=stdc++");
    write_bindings(&source);
}

/// The folder that a variable of `tools/build-plugin-mlx` names.
fn folder(variable: &str) -> PathBuf {
    println!("cargo::rerun-if-env-changed={variable}");
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set: build the MLX plugin with tools/build-plugin-mlx"),
    }
}

/// The published crate's bindings: all of mlx-c's headers, with its settings.
fn write_bindings(source: &Path) {
    let mut headers: Vec<PathBuf> = std::fs::read_dir(source.join("mlx/c"))
        .expect("mlx-c has its headers in mlx/c")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    headers.sort();
    let builder = bindgen::Builder::default()
        .rust_target("1.73.0".parse().expect("a version"))
        .clang_arg(format!("-I{}", source.display()))
        .blocklist_function("malloc")
        .blocklist_function("realloc");
    let builder = headers.iter().fold(builder, |builder, header| builder.header(header.to_string_lossy()));
    let bindings = builder.generate().expect("bindgen reads mlx-c's headers");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR is writable");
}
