//! Compiles the one thing that cannot be said in Rust: a C++ exception.

fn main() {
    println!("cargo:rerun-if-changed=src/exception.cpp");
    cc::Build::new().cpp(true).file("src/exception.cpp").compile("misbehaving_exception");
}
