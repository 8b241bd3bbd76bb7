//! `pajamas._native`: the library as Python's package `pajamas` uses it. What is typed, documented and friendly is written in
//! Python, on top of this.

mod errors;
mod installation;
mod model;
mod work;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    pajamas::log_if_asked();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(work::end, module)?)?;
    module.add_class::<installation::Installation>()?;
    module.add_class::<model::Model>()?;
    module.add_class::<model::Stream>()
}
