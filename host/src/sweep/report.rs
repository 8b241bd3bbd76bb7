//! A sweep as one page that needs nothing else: the plot, the table, and how it was measured.

use super::{Sweep, plot};
use crate::error::{Error, Result};
use crate::text::size;
use minijinja::{AutoEscape, Environment, context};

const TEMPLATE: &str = include_str!("report.html");

/// The page.
///
/// # Errors
/// Those of the plot.
pub fn html(sweep: &Sweep) -> Result<String> {
    let plot = plot::svg(sweep)?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("size", size);
    environment.add_filter("change", super::change);
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    let rendered = environment.render_str(TEMPLATE, context! { sweep, plot });
    rendered
        .map_err(|error| Error::Refused { message: format!("writing the report failed: {error}"), hint: String::new() })
}
