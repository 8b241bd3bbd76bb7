//! `pajamas sweep`: several methods measured side by side, as a table, JSON, a plot and a page.

use pajamas_tests::{Home, assert_schema, pajama_tiny};

#[test]
fn a_sweep_measures_what_validate_measures_and_draws_it() {
    let home = Home::with_gguf_cpu();
    let (folder, out) = (pajama_tiny().display().to_string(), home.path().join("out"));
    let quick = ["--tokens", "1024", "-p", "16", "-n", "8", "-r", "1"];
    let args = ["sweep", &folder, "-m", "Q2_K,Q4_K_M,Q8_0", "--keep", "--json", "-o", out.to_str().unwrap()];
    let value = home.run([args.as_slice(), &quick].concat()).json();
    assert_schema("sweep", &value);
    let rows = value["rows"].as_array().unwrap();
    let methods: Vec<_> = rows.iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["Q2_K", "Q4_K_M", "Q8_0"], "by size");
    let kld = |index: usize| rows[index]["kld"].as_f64().unwrap();
    assert!(kld(0) > kld(1) && kld(1) > kld(2));
    assert!(rows.iter().all(|row| row["pareto_quality"] == true && row["tokens_per_second"].as_f64().unwrap() > 0.0));
    let path = rows[1]["path"].as_str().unwrap();
    let again = home.run(["validate", path, "--tokens", "1024", "--json"]).json();
    assert_eq!(again["comparison"]["kl_divergence"]["mean"], rows[1]["kld"]);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("sweep.json")).unwrap(), value);
    let (plot, page) = (read("plot.svg"), read("report.html"));
    assert!(plot.starts_with("<svg") && methods.iter().all(|method| plot.contains(method)));
    assert!(page.contains(&plot) && !page.contains("http-equiv") && !page.contains("src="), "it needs nothing else");
}

#[test]
fn without_keep_nothing_is_left_and_what_is_wrong_is_said_at_once() {
    let home = Home::with_gguf_cpu();
    let folder = pajama_tiny().display().to_string();
    let run = home.run(["sweep", &folder, "-m", "Q4_0", "--tokens", "512", "-p", "8", "-n", "4", "-r", "1"]);
    let text = run.succeeded();
    assert!(text.stdout.contains("TG TOK/S") && text.stdout.trim().ends_with("report.html"), "{text:?}");
    assert!(home.listing("models").is_empty() && home.listing("cache/scratch").is_empty());
    let [dir] = home.listing("sweeps/pajama-tiny").try_into().expect("a folder for each sweep");
    assert_eq!(home.listing(&format!("sweeps/pajama-tiny/{dir}")), ["plot.svg", "report.html", "sweep.json"]);
    home.run(["sweep", &folder, "-m", "Q4_K_MM"]).misused("unknown quantization method", "did you mean `Q4_K_M`?");
    home.run(["sweep", &folder, "-f", "ggml"]).misused("no plugin makes the format `ggml`", "formats: gguf");
}
