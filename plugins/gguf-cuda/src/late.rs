//! What of NVIDIA's the plugin needs and does not carry: the driver and cuBLAS, opened when they are asked for.

use pajamas_nvidia::{Architectures, Driver, libraries};
use pajamas_plugin_api::{DeviceClass, Error, LogLevel, Result, host};
use std::sync::OnceLock;

/// For which GPUs the kernels were compiled, and with which CUDA.
const ARCHITECTURES: &str = env!("PAJAMAS_CUDA_ARCHITECTURES");
const VERSION: &str = env!("PAJAMAS_CUDA_VERSION");

pajamas_late_link::late_functions! {
    /// The driver's functions that llama.cpp calls by name. The CUDA runtime, which is inside the plugin, opens it by itself.
    mod driver {
        cuDeviceGet, cuDeviceGetAttribute, cuGetErrorString, cuMemAddressFree, cuMemAddressReserve, cuMemCreate,
        cuMemGetAllocationGranularity, cuMemMap, cuMemRelease, cuMemSetAccess, cuMemUnmap,
    }
}

pajamas_late_link::late_functions! {
    /// The functions of cuBLAS that llama.cpp calls.
    mod cublas {
        cublasCreate_v2, cublasDestroy_v2, cublasGemmBatchedEx, cublasGemmEx, cublasGemmStridedBatchedEx,
        cublasGetStatusString, cublasSetMathMode, cublasSetStream_v2, cublasSetWorkspace_v2, cublasSgemmBatched,
        cublasSgemmStridedBatched, cublasSgemm_v2, cublasStrsmBatched,
    }
}

/// The names of the GPUs for which there are no kernels, or why none can be used.
static READY: OnceLock<Result<Vec<String>>> = OnceLock::new();

/// Opens the driver and cuBLAS, once, and checks that the kernels run on this machine's GPUs.
pub fn ready() -> Result<()> {
    READY.get_or_init(open).as_ref().map(|_| ()).map_err(Clone::clone)
}

/// None for a GPU for which there are no kernels.
pub fn class(description: &str, class: DeviceClass) -> Option<DeviceClass> {
    let without = READY.get().and_then(|ready| ready.as_ref().ok())?;
    (!without.iter().any(|name| name == description)).then_some(class)
}

fn open() -> Result<Vec<String>> {
    let driver = Driver::open()?;
    let (major, minor) = VERSION.split_once('.').unwrap_or((VERSION, "0"));
    let number = |text: &str| text.parse().unwrap_or(0);
    driver.check_runtime(number(major), number(minor))?;
    let without: Vec<String> =
        driver.without_code(&Architectures::parse(ARCHITECTURES))?.iter().map(|gpu| gpu.name.clone()).collect();
    for name in &without {
        host().log(LogLevel::Warn, "gguf_cuda", &format!("{name} is not used: this plugin was not built for it"));
    }
    // Whose dependency it is. Opened first, it is found also where only this plugin looks.
    let light = libraries::open(&format!("libcublasLt.so.{major}"))?;
    let blas = libraries::open(&format!("libcublas.so.{major}"))?;
    let bind = |functions, library: &_, name: &str| {
        pajamas_late_link::bind(functions, library).map_err(|function| {
            Error::unsupported(format!("{name} has no function `{function}`"))
                .with_hint(format!("install the driver and the libraries of CUDA {VERSION}"))
        })
    };
    bind(driver::FUNCTIONS, driver.library(), "NVIDIA's driver")?;
    bind(cublas::FUNCTIONS, &blas, "cuBLAS")?;
    // Kept open: llama.cpp goes on calling them.
    std::mem::forget((blas, light));
    Ok(without)
}
