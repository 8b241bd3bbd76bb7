//! Tells the plugin where its sidecar libraries are: in `lib` beside it, wherever the bundle is.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // An RPATH, not a RUNPATH: it also holds for what libmlx needs in turn.
        println!("cargo::rustc-link-arg-cdylib=-Wl,-rpath,$ORIGIN/lib,--disable-new-dtags");
    }
}
