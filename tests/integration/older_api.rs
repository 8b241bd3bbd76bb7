//! A plugin built with the first plugin API, 1.0.0, works in today's host: tests/plugins/api-1.0.0.

use pajamas_tests::{Home, fixture};

#[test]
fn a_plugin_of_api_1_0_quantizes_and_runs_in_todays_host() {
    let home = Home::new();
    home.install("ngram_api_1_0");
    let row = &home.run(["plugins", "list", "--json"]).json()[0];
    assert_eq!((row["name"].as_str(), row["api_version"].as_str()), (Some("ngram"), Some("1.0.0")), "{row:#}");
    assert_eq!((row["status"].as_str(), row["rank"].as_u64()), (Some("available"), Some(1)), "{row:#}");
    let corpus = fixture("../../plugin-template/tests/corpus.txt");
    let made = home.run(["quantize".as_ref(), corpus.as_os_str()]);
    let model = made.succeeded().stdout.trim().to_owned();
    for isolate in [&[][..], &["--isolate"]] {
        let arguments = ["run", &model, "-p", "The moon,", "--max-tokens", "8", "--temperature", "0"];
        let run = home.run([&arguments[..], isolate].concat());
        assert_eq!(run.succeeded().stdout.trim(), "the the", "{run:#?}");
    }
    // What came with later versions is said to be absent, and does not stop anything.
    let options = home.run(["run", &model, "-p", "x", "--set", "sharpness=2", "--max-tokens", "1"]);
    options.succeeded();
}
