//! Perplexity on held-out text through `logits`: the F16 file against transformers, each method against F16.

use pajamas_tests::{Home, built_library, golden, load_exact, pajama_tiny, perplexity, plugin};

#[test]
fn f16_is_within_half_a_percent_of_transformers_and_every_method_within_five() {
    let home = Home::with_gguf_cpu();
    let plugin = plugin(&built_library("gguf_cpu"));
    let golden = golden("perplexity.json");
    let reference = golden["perplexity"].as_f64().unwrap();
    let number = |key: &str| usize::try_from(golden[key].as_u64().unwrap()).unwrap();
    let text = std::fs::read_to_string(pajama_tiny().join("validation.txt")).unwrap();
    let mut rows = Vec::new();
    for method in ["F16", "BF16", "F32", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S"] {
        let file = home.quantized(method);
        let model = load_exact(&plugin, &file);
        let tokens = model.tokenize(&text, false, false).unwrap();
        assert_eq!(tokens.len(), number("file_tokens"));
        let value = perplexity(&model, &tokens[..number("tokens")], number("window"));
        let change = (value / reference - 1.0) * 100.0;
        rows.push((method, std::fs::metadata(&file).unwrap().len(), value, change));
    }
    println!("transformers: perplexity {reference:.4}\n| method | bytes | perplexity | change |\n|---|---|---|---|");
    for (method, bytes, value, change) in &rows {
        println!("| {method} | {bytes} | {value:.4} | {change:+.2} % |");
    }
    for (method, _, _, change) in rows {
        let limit = if matches!(method, "F16" | "BF16" | "F32") { 0.5 } else { 5.0 };
        assert!(change.abs() < limit, "{method}: {change:+.2} %");
    }
}
