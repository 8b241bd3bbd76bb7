//! Our files and our engine against transformers: tokens, greedy answers, teacher-forced choices.

use pajamas_plugin_api::{CancelToken, GenerateRequest, Prompt, Sampling};
use pajamas_tests::{Home, built_library, golden, ids, load_exact, plugin, teacher_forced};

/// Where transformers' two best logits lie closer than this, F16 weights may turn the choice.
const MARGIN: f64 = 0.05;

#[test]
fn tokens_are_those_of_the_models_own_tokenizer() {
    let home = Home::with_gguf_cpu();
    let model = load_exact(&plugin(&built_library("gguf_cpu")), &home.quantized("F16"));
    let golden = golden("tokens.json");
    let texts = golden["texts"].as_array().unwrap();
    assert!(texts.len() >= 60);
    for entry in texts {
        let text = entry["text"].as_str().unwrap();
        assert_eq!(model.tokenize(text, false, true).unwrap(), ids(&entry["ids"]), "{text:?}");
        if entry["literal_ids"].is_array() {
            assert_eq!(model.tokenize(text, false, false).unwrap(), ids(&entry["literal_ids"]), "{text:?}");
        }
        let bytes = model.detokenize(&ids(&entry["ids"])).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
}

#[test]
fn greedy_answers_of_the_f16_file_are_those_of_transformers() {
    let home = Home::with_gguf_cpu();
    let model = load_exact(&plugin(&built_library("gguf_cpu")), &home.quantized("F16"));
    let golden = golden("greedy.json");
    let prompts = golden["prompts"].as_array().unwrap();
    assert_eq!((prompts.len(), golden["steps"].as_u64()), (10, Some(64)));
    for prompt in prompts {
        let name = prompt["name"].as_str().unwrap();
        let (start, expected) = (ids(&prompt["prompt_ids"]), ids(&prompt["ids"]));
        assert_eq!(model.tokenize(prompt["prompt"].as_str().unwrap(), true, true).unwrap(), start, "{name}");
        if prompt["kind"] == "factual" {
            let end = usize::try_from(prompt["first_eos"].as_u64().unwrap()).unwrap();
            let request = GenerateRequest {
                sampling: Sampling::greedy(),
                max_tokens: 64,
                ..GenerateRequest::new(Prompt::Tokens(start.clone()))
            };
            let answer = model.generate(&request, &CancelToken::never()).unwrap();
            assert_eq!(answer.tokens, expected[..end], "{name}: {}", answer.text);
            assert_eq!(answer.text, prompt["answer"].as_str().unwrap());
        }
        let chosen = teacher_forced(&model, &start, &expected);
        assert_eq!(chosen.len(), 64);
        for (step, (ours, theirs)) in chosen.iter().zip(&expected).enumerate() {
            let margin = prompt["margins"][step].as_f64().unwrap();
            assert!(ours == theirs || margin < MARGIN, "{name}, step {step}: {ours} not {theirs}, margin {margin}");
        }
    }
}
