//! Uses a backend of one's own, straight from the folder that it was built in.
//!
//!     pajamas plugins new acme && (cd acme && cargo build --release)
//!     cargo run --release --example custom_backend -- acme/target/release acme TEXT
//!
//! A new plugin is a small language model with a quantizer that reads text files.

use pajamas::Pajamas;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name, text] = arguments.as_slice() else {
        return Err("usage: custom_backend FOLDER NAME TEXT".into());
    };
    let pajamas = Pajamas::builder().plugin_dir(folder).build()?;
    let backend = pajamas.backends().into_iter().find(|backend| backend.name == *name);
    let backend = backend.ok_or_else(|| format!("no plugin `{name}` in {folder}"))?;
    println!("{} {}: {}", backend.name, backend.version.unwrap_or_default(), backend.devices.join(", "));

    // `strict`: no other backend may answer in its place. `isolated`: it may crash.
    let model = pajamas.load(text).backend(name).strict().isolated(true).run()?;
    let answer = model.generate("Once upon a time").seed(1).max_tokens(40).run()?;
    println!("{}", answer.text);
    Ok(())
}
