//! The CUDA backend where there is no GPU: it loads, and says what is missing. What it says of drivers that fall short is
//! tested with made-up ones in plugins/nvidia/tests, which needs no CUDA.

use pajamas_tests::{Home, Run, not_run};

fn home() -> Option<Home> {
    Home::with_gguf_cpu_and("gguf_cuda", "plugin-cuda")
}

#[test]
fn it_is_linked_to_nothing_of_nvidias() {
    let Some(home) = home() else { return };
    let info = home.run(["plugins", "info", "gguf-cuda", "--json"]).json();
    let needs = info["needs"].as_array().unwrap_or_else(|| panic!("{info:#}"));
    let of_nvidias = |name: &serde_json::Value| {
        let name = name.as_str().unwrap();
        ["libcu", "libnv"].iter().any(|prefix| name.starts_with(prefix))
    };
    assert!(!needs.is_empty() && !needs.iter().any(of_nvidias), "{needs:?}");
}

#[test]
fn without_a_driver_the_list_and_the_doctor_say_so_and_the_cpu_takes_over_or_with_strict_nobody() {
    let Some(home) = home() else { return };
    let list = home.run(["plugins", "list", "--json"]).json();
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == "gguf-cuda").unwrap();
    if row["status"] == "available" {
        not_run("this machine has an NVIDIA GPU");
        return;
    }
    assert_eq!(row["status"], "unavailable", "{row}");
    let reason = row["reason"].as_str().unwrap();
    let doctor = home.run(["doctor", "--json"]).json().to_string();
    assert!(doctor.contains(&reason.replace('"', "\\\"")), "{doctor}");
    let model = home.quantized("Q8_0");
    let args = ["run", model.to_str().unwrap(), "-b", "gguf-cuda", "-p", "What does a cow say?", "-t", "0"];
    let fallen: Run = home.run(args);
    assert_eq!(fallen.succeeded().stdout, "A cow says moo.\n");
    assert!(fallen.stderr.contains(reason) && fallen.stderr.contains("running on `gguf-cpu`"), "{fallen:?}");
    let strict = home.run(args.iter().chain(&["--strict"]));
    assert!(strict.code == Some(1) && strict.stderr.contains(reason), "{strict:?}");
}
