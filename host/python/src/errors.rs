//! The library's errors as Python's exceptions: `pajamas._errors.of` knows which is which.

use pyo3::prelude::*;

/// The exception for `error`.
pub fn exception(py: Python<'_>, error: &pajamas::Error) -> PyErr {
    let made = py
        .import("pajamas._errors")
        .and_then(|errors| errors.getattr("of")?.call1((error.kind(), error.to_string(), error.hint())));
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// For `map_err`.
pub fn of(py: Python<'_>) -> impl Fn(pajamas::Error) -> PyErr + '_ {
    move |error| exception(py, &error)
}
