//! Where CUDA's libraries lie, if they do.

use libloading::Library;
use pajamas_plugin_api::{Error, Result};
use std::path::PathBuf;

/// Opens `name` (`libcublas.so.13`): where the loader looks, in `$CUDA_PATH`, and where CUDA is installed by default.
///
/// # Errors
/// `Unsupported`, with the remedy as its hint, if it is in none of these places or cannot be loaded.
pub fn open(name: &str) -> Result<Library> {
    let major = name.rsplit('.').next().unwrap_or_default();
    // SAFETY: initializers of NVIDIA's own library run, as in every program that is linked to it.
    let mut failure = match unsafe { Library::new(name) } {
        Ok(library) => return Ok(library),
        Err(error) => crate::said(&error),
    };
    for path in folders(major).iter().map(|folder| folder.join(name)).filter(|path| path.exists()) {
        // SAFETY: as above.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok(library),
            Err(error) => failure = crate::said(&error),
        }
    }
    let reason = if failure.contains("No such file") && failure.contains(name) {
        format!("CUDA's library {name} is not found")
    } else {
        format!("CUDA's library {name} cannot be loaded: {failure}")
    };
    let package = if major == "12" { "nvidia-cublas-cu12".into() } else { format!("nvidia-cublas=={major}.*") };
    let remedy = format!(
        "install CUDA {major}'s libraries (https://developer.nvidia.com/cuda-downloads, or `pip install '{package}'` \
         and the folder with {name} in LD_LIBRARY_PATH), or name the folder of an installed CUDA with CUDA_PATH"
    );
    Err(Error::unsupported(reason).with_hint(remedy))
}

/// Where to look besides where the loader does.
fn folders(major: &str) -> Vec<PathBuf> {
    let named = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let installed = ["/usr/local/cuda".into(), format!("/usr/local/cuda-{major}"), "/opt/cuda".into()];
    let roots = named.chain(installed.map(PathBuf::from));
    roots.flat_map(|root| [root.join("lib64"), root.join("lib")]).collect()
}
