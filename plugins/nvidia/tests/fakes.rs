//! What is said where NVIDIA's driver or libraries are missing, broken, too old, or see no GPU: made-up ones, compiled here,
//! take their place. A program asks them, since the loader keeps what a process has opened.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

/// A driver that answers as the variables say.
const DRIVER: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    static int number(const char * name, int otherwise) {
        const char * value = getenv(name);
        return value ? atoi(value) : otherwise;
    }
    #ifndef WITHOUT_INIT
    int cuInit(unsigned flags) { return number("FAKE_INIT", 0); }
    #endif
    int cuDriverGetVersion(int * version) { *version = number("FAKE_VERSION", 13000); return 0; }
    int cuDeviceGetCount(int * count) { *count = number("FAKE_COUNT", 1); return 0; }
    int cuDeviceGet(int * device, int index) { *device = index; return 0; }
    int cuDeviceGetName(char * name, int size, int device) { snprintf(name, size, "Fake GPU %d", device); return 0; }
    int cuDeviceGetAttribute(int * value, int attribute, int device) {
        int capability = number("FAKE_CAPABILITY", 90);
        if (device == 1) capability = number("FAKE_SECOND_CAPABILITY", capability);
        *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
        return 0;
    }
    int cuGetErrorString(int code, const char ** text) { *text = "a made-up error"; return 0; }
"#;

fn compile(source: &str, library: &Path, flags: &[&str]) {
    let file = library.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(&file).args(flags).status();
    assert!(status.expect("a C compiler").success());
}

/// What examples/check_cuda.rs says where libraries are found in `folder`: `reason | remedy`, or `ready`.
fn answer(folder: &Path, variables: &[(&str, &str)]) -> String {
    let built = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/check_cuda");
    let mut command = Command::new(built);
    for name in ["CUDA_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"] {
        command.env_remove(name);
    }
    let output = command.env("LD_LIBRARY_PATH", folder).envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[track_caller]
fn says(folder: &Path, variables: &[(&str, &str)], reason: &str, remedy: &str) {
    let answer = answer(folder, variables);
    assert!(answer.split_once(" | ").is_some_and(|(r, h)| r.contains(reason) && h.contains(remedy)), "{answer}");
}

#[test]
fn each_way_in_which_the_driver_falls_short_has_its_reason_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    compile(DRIVER, &dir.path().join("libcuda.so.1"), &[]);
    let says = |variables: &[(&str, &str)], reason, remedy| says(dir.path(), variables, reason, remedy);
    says(&[("FAKE_INIT", "100")], "NVIDIA's driver is here, and sees no GPU", "nvidia-smi");
    says(&[("FAKE_COUNT", "0")], "NVIDIA's driver is here, and sees no GPU", "nvidia-smi");
    let hidden = [("FAKE_COUNT", "0"), ("CUDA_VISIBLE_DEVICES", "-1")];
    says(&hidden, "CUDA_VISIBLE_DEVICES=`-1` leaves this process no NVIDIA GPU", "unset CUDA_VISIBLE_DEVICES");
    says(&[("FAKE_INIT", "803")], "the kernel still runs the old one", "restart");
    says(&[("FAKE_INIT", "999")], "does not start (cuInit: 999, a made-up error)", "nvidia_uvm");
    says(
        &[("FAKE_VERSION", "12040")],
        "runs CUDA 12.4 at the most, and this plugin was built with 13.0",
        "580 or later",
    );
    let old = "was built for compute capability 7.x from 7.5 on, 9.0 and later; Fake GPU 0 has compute capability 6.1";
    says(&[("FAKE_CAPABILITY", "61")], old, "CUDA_ARCHITECTURES=61-real, with CUDA 12");
    says(&[("FAKE_CAPABILITY", "86")], "has compute capability 8.6", "CUDA_ARCHITECTURES=86-real");
    let second = [("FAKE_COUNT", "2"), ("FAKE_SECOND_CAPABILITY", "61")];
    says(&second, "Fake GPU 1 is not used", "");
    says(&[], "CUDA's library libcublas.so.13 is not found", "nvidia-cublas==13");
    says(&[("FAKE_CAPABILITY", "120"), ("FAKE_VERSION", "13010")], "libcublas.so.13 is not found", "CUDA_PATH");
}

#[test]
fn with_all_of_it_the_answer_is_yes_also_where_cuda_path_leads_to_the_libraries() {
    let dir = tempfile::tempdir().unwrap();
    compile(DRIVER, &dir.path().join("libcuda.so.1"), &[]);
    let cuda = dir.path().join("cuda");
    std::fs::create_dir_all(cuda.join("lib64")).unwrap();
    compile("int made_up;", &cuda.join("lib64/libcublas.so.13"), &[]);
    assert_eq!(answer(dir.path(), &[("CUDA_PATH", cuda.to_str().unwrap())]), "ready");
    std::fs::write(cuda.join("lib64/libcublas.so.13"), "no library").unwrap();
    says(dir.path(), &[("CUDA_PATH", cuda.to_str().unwrap())], "libcublas.so.13 cannot be loaded", "install CUDA 13");
    compile("int made_up;", &dir.path().join("libcublas.so.13"), &[]);
    assert_eq!(answer(dir.path(), &[]), "ready", "where the loader looks");
}

#[test]
fn no_driver_half_a_driver_and_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    if !Path::new("/proc/driver/nvidia/version").exists() {
        let answer = answer(dir.path(), &[]);
        assert!(answer.contains("libcuda.so.1 is not found"), "{answer}");
    }
    compile(DRIVER, &dir.path().join("libcuda.so.1"), &["-DWITHOUT_INIT"]);
    says(dir.path(), &[], "has no function `cuInit`", "install NVIDIA's driver");
    std::fs::write(dir.path().join("libcuda.so.1"), "no library").unwrap();
    says(dir.path(), &[], "NVIDIA's driver cannot be loaded", "install NVIDIA's driver");
}
