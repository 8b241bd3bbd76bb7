//! Plugins for CPU levels on CPUs that lack them: said before anything is loaded, and what is left runs. On an emulated CPU,
//! where there is an emulator.

use pajamas_tests::{Home, Run, build_dir, built_library, library_name, not_run};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// The CPU backend for `level`, if it was built.
fn built_level(level: &str) -> Option<PathBuf> {
    let path = build_dir().join("levels").join(library_name(&format!("gguf_cpu-{level}")));
    path.exists().then_some(path)
}

/// A home with the CPU backend for x86-64-v2, and for the later levels that were built, and `pajamas` on a Nehalem, which has
/// no AVX; none, and a line that says why, where that cannot be had.
struct OldMachine(Home);

impl OldMachine {
    fn new() -> Option<Self> {
        let emulator = Command::new("qemu-x86_64").arg("--version").output().is_ok();
        let Some(oldest) = built_level("x86-64-v2").filter(|_| emulator) else {
            not_run("there is no qemu-x86_64, or `make cpu-level-x86-64-v2` was not");
            return None;
        };
        let home = Home::new();
        std::fs::copy(oldest, home.plugins().join(library_name("a_v2"))).unwrap();
        std::fs::copy(built_library("gguf_cpu"), home.plugins().join(library_name("b_v3"))).unwrap();
        if let Some(newest) = built_level("x86-64-v4") {
            std::fs::copy(newest, home.plugins().join(library_name("c_v4"))).unwrap();
        }
        // Programs that an emulated one starts are not emulated by themselves.
        let worker = home.path().join("worker");
        let real = build_dir().join("pajamas-worker");
        let script = format!("#!/bin/sh\nexec qemu-x86_64 -cpu Nehalem {} \"$@\"\n", real.display());
        std::fs::write(&worker, script).unwrap();
        std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self(home))
    }

    fn run(&self, args: &[&str]) -> Run {
        let plain = self.0.command(args);
        let mut command = Command::new("qemu-x86_64");
        command.args(["-cpu", "Nehalem"]).arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("PAJAMAS_WORKER", self.0.path().join("worker"));
        Run::from(command.output().unwrap())
    }
}

#[test]
fn on_an_old_cpu_newer_levels_are_refused_by_what_it_lacks_and_the_oldest_runs() {
    let Some(machine) = OldMachine::new() else { return };
    let list = machine.run(&["plugins", "list", "--json"]).json();
    let rows = list.as_array().unwrap();
    let row = |file: &str| rows.iter().find(|row| row["path"].as_str().unwrap().contains(file));
    assert_eq!((&rows[0]["name"], &rows[0]["status"]), (&"gguf-cpu".into(), &"available".into()), "{list:#}");
    assert!(rows[0]["path"].as_str().unwrap().contains("a_v2"), "{list:#}");
    let v3 = row("b_v3").unwrap();
    assert_eq!(v3["status"], "refused");
    let reason = v3["reason"].as_str().unwrap();
    for feature in ["avx", "avx2", "fma", "f16c", "bmi2"] {
        assert!(reason.starts_with("this CPU lacks ") && reason.contains(feature), "{reason}");
    }
    assert!(v3["remedy"].as_str().unwrap().contains("older CPU level"), "{v3}");
    match row("c_v4") {
        Some(v4) => assert!(v4["reason"].as_str().unwrap().contains("avx512f"), "{v4}"),
        None => not_run("`make cpu-level-x86-64-v4` was not"),
    }
    let maker = Home::with_gguf_cpu();
    let model = maker.quantized("Q4_K_M");
    // In the program itself, and in a worker: no instruction that the CPU lacks.
    for isolate in [&[][..], &["--isolate"]] {
        let args = ["run", model.to_str().unwrap(), "-p", "What is the capital of France?", "-t", "0"];
        let run = machine.run(&[&args, isolate].concat());
        assert_eq!(run.succeeded().stdout, "The capital of France is Paris.\n");
    }
}

#[test]
fn on_this_cpu_the_newest_level_that_it_can_run_wins() {
    let Some(oldest) = built_level("x86-64-v2") else {
        not_run("`make cpu-level-x86-64-v2` was not");
        return;
    };
    let home = Home::with_gguf_cpu();
    std::fs::copy(oldest, home.plugins().join(library_name("a_v2"))).unwrap();
    let list = home.run(["plugins", "list", "--json"]).json();
    let file = |index: usize| list[index]["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!((file(0), file(1)), (library_name("gguf_cpu"), library_name("a_v2")), "{list:#}");
    assert_eq!((&list[0]["status"], &list[1]["status"]), (&"available".into(), &"available".into()));
    let table = home.run(["plugins", "list"]).stdout;
    for name in ["gguf_cpu", "a_v2"] {
        assert!(table.contains(&format!("{}: ", library_name(name))), "which row is which file's: {table}");
    }
}
