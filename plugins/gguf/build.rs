//! Tells the manifest which CPU features llama.cpp is compiled for: the same variables steer its build.

fn main() {
    const FEATURES: [(&str, &str); 11] = [
        ("GGML_SSE42", "sse4.2"),
        ("GGML_AVX", "avx"),
        ("GGML_AVX2", "avx2"),
        ("GGML_FMA", "fma"),
        ("GGML_F16C", "f16c"),
        ("GGML_BMI2", "bmi2"),
        ("GGML_AVX512", "avx512f,avx512cd,avx512vl,avx512dq,avx512bw"),
        ("GGML_AVX512_VBMI", "avx512vbmi"),
        ("GGML_AVX512_VNNI", "avx512vnni"),
        ("GGML_AVX512_BF16", "avx512bf16"),
        ("GGML_AVX_VNNI", "avxvnni"),
    ];
    println!("cargo::rerun-if-changed=build.rs");
    let x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let mut features = Vec::new();
    for (variable, feature) in FEATURES {
        println!("cargo::rerun-if-env-changed={variable}");
        if x86_64 && std::env::var(variable).is_ok_and(|value| value == "ON") {
            features.push(feature);
        }
    }
    println!("cargo::rustc-env=PAJAMAS_CPU_FEATURES={}", features.join(","));
}
