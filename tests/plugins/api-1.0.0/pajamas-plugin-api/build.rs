//! Passes the target triple on to the crate: the manifest names it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=PAJAMAS_TARGET={}", std::env::var("TARGET").expect("cargo sets TARGET"));
}
