//! What of NVIDIA's the plugin needs and does not carry: the driver and cuBLAS, opened when they are asked for.

use pajamas_nvidia::{Architectures, Driver, libraries};
use pajamas_plugin_api::{Error, Result};
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

/// Opens the driver and cuBLAS, once, and checks that the kernels run on this machine's GPUs.
pub fn ready() -> Result<()> {
    static READY: OnceLock<Result<()>> = OnceLock::new();
    READY.get_or_init(open).clone()
}

fn open() -> Result<()> {
    let driver = Driver::open()?;
    let (major, minor) = VERSION.split_once('.').unwrap_or((VERSION, "0"));
    let number = |text: &str| text.parse().unwrap_or(0);
    driver.check_runtime(number(major), number(minor))?;
    driver.check_architectures(&Architectures::parse(ARCHITECTURES))?;
    // Whose dependency it is. Opened first, it is found also where only this plugin looks.
    let light = libraries::open(&format!("libcublasLt.so.{major}"), None)?;
    let blas = libraries::open(&format!("libcublas.so.{major}"), None)?;
    let bind = |functions, library: &_, name: &str| {
        pajamas_late_link::bind(functions, library).map_err(|function| {
            Error::unsupported(format!("{name} has no function `{function}`"))
                .with_hint(format!("install the driver and the libraries of CUDA {VERSION}"))
        })
    };
    bind(driver::FUNCTIONS, driver.library(), "NVIDIA's driver")?;
    bind(cublas::FUNCTIONS, &blas, "cuBLAS")?;
    // Kept open: llama.cpp goes on calling them.
    std::mem::forget((driver, blas, light));
    Ok(())
}
