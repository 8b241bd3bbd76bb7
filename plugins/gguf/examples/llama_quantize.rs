//! llama.cpp's own quantizer on a GGUF file, to measure ours against: `llama_quantize INPUT OUTPUT TYPE THREADS`.

use llama_cpp_sys_2 as sys;
use std::ffi::CString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, name, threads] = arguments.as_slice() else {
        eprintln!("usage: llama_quantize INPUT OUTPUT TYPE THREADS");
        return ExitCode::from(2);
    };
    let file_type = pajamas_gguf_file::FileType::from_name(name);
    let (Some(file_type), Ok(threads)) = (file_type, threads.parse()) else {
        eprintln!("there is no type {name}, or {threads} is no number");
        return ExitCode::from(2);
    };
    let paths = [input, output].map(|path| CString::new(path.as_str()).expect("a path without NUL"));
    // SAFETY: gives a plain value.
    let mut parameters = unsafe { sys::llama_model_quantize_default_params() };
    parameters.ftype = file_type.id;
    parameters.nthread = threads;
    // SAFETY: the paths are NUL-terminated, and the parameters point nowhere.
    let status = unsafe { sys::llama_model_quantize(paths[0].as_ptr(), paths[1].as_ptr(), &raw const parameters) };
    ExitCode::from(u8::from(status != 0))
}
