//! An installation of pajamas: making, measuring and opening models.

use crate::errors;
use crate::model::Model;
use crate::work::{self, json};
use pajamas::{Measure, Pajamas};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The settings and plugins of one installation.
#[pyclass(frozen, module = "pajamas._native")]
pub struct Installation(Pajamas);

#[pymethods]
impl Installation {
    #[new]
    #[pyo3(signature = (*, home=None, plugin_dirs=Vec::new(), prefix=None, offline=false, threads=None, backend=None))]
    fn new(
        py: Python<'_>,
        home: Option<PathBuf>,
        plugin_dirs: Vec<PathBuf>,
        prefix: Option<PathBuf>,
        offline: bool,
        threads: Option<u32>,
        backend: Option<String>,
    ) -> PyResult<Self> {
        let mut builder = Pajamas::builder().offline(offline);
        if let Some(home) = home {
            builder = builder.home(home);
        }
        if let Some(prefix) = prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        if let Some(backend) = backend {
            builder = builder.backend(backend);
        }
        builder = plugin_dirs.into_iter().fold(builder, pajamas::Builder::plugin_dir);
        builder.build().map(Self).map_err(errors::of(py))
    }

    /// Gives JSON.
    #[pyo3(signature = (model, *, method, format, options, output_dir, name, force, fit, max_kld, max_degradation, measure, text, tokens, isolated, dry_run, on_notice))]
    #[expect(clippy::too_many_arguments, reason = "one for each of Python's, all named")]
    fn quantize(
        &self,
        py: Python<'_>,
        model: String,
        method: Option<String>,
        format: Option<String>,
        options: BTreeMap<String, String>,
        output_dir: Option<PathBuf>,
        name: Option<String>,
        force: bool,
        fit: Option<u64>,
        max_kld: Option<f64>,
        max_degradation: Option<f64>,
        measure: Option<bool>,
        text: Option<PathBuf>,
        tokens: Option<usize>,
        isolated: bool,
        dry_run: bool,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let (quantized, raised) = work::run_to_its_end(py, on_notice, |observer, cancel| {
            let mut work = self.0.quantize(model).observer(observer).cancel(cancel).isolated(isolated).replace(force);
            work = set(work, method, pajamas::Quantize::method);
            work = set(work, format, pajamas::Quantize::format);
            work = options.into_iter().fold(work, |work, (name, value)| work.set(name, value));
            work = set(work, output_dir, pajamas::Quantize::output_dir);
            work = set(work, name, pajamas::Quantize::name);
            work = set(work, fit, pajamas::Quantize::fit);
            work = set(work, max_kld, pajamas::Quantize::max_kld);
            work = set(work, max_degradation, pajamas::Quantize::max_degradation);
            work = set(work, text, pajamas::Quantize::text);
            work = set(work, tokens, pajamas::Quantize::tokens);
            let measure = measure.map(|measure| if measure { Measure::Always } else { Measure::Never });
            work = set(work, measure, pajamas::Quantize::measure);
            if dry_run {
                return work.dry_run().map(|forecast| (serde_json::to_value(forecast), None));
            }
            work.run().map(|mut made| {
                let failure = made.failure.take();
                (serde_json::to_value(made), failure)
            })
        })?;
        let (made, failure) = match (quantized, raised) {
            (Ok(quantized), None) => quantized,
            (Err(error), None) => return Err(errors::exception(py, &error)),
            // Nothing was made.
            (Err(_), Some(raised)) => return Err(raised),
            (Ok((made, _)), Some(raised)) => return Err(with_made(py, raised, &made)),
        };
        match failure {
            None => json(&made.map_err(|error| PyRuntimeError::new_err(error.to_string()))?),
            Some(failure) => Err(with_made(py, errors::exception(py, &failure), &made)),
        }
    }

    #[pyo3(signature = (model, *, backend, strict, method, context_length, parallel, threads, options, isolated, on_notice))]
    #[expect(clippy::too_many_arguments, reason = "one for each of Python's, all named")]
    fn load(
        &self,
        py: Python<'_>,
        model: String,
        backend: Option<String>,
        strict: bool,
        method: Option<String>,
        context_length: Option<u32>,
        parallel: Option<u32>,
        threads: Option<u32>,
        options: BTreeMap<String, String>,
        isolated: bool,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Model> {
        let model = work::run(py, on_notice, |observer, cancel| {
            let mut work = self.0.load(model).observer(observer).cancel(cancel).isolated(isolated);
            work = set(work, backend, pajamas::Load::backend);
            work = set(work, method, pajamas::Load::method);
            work = set(work, context_length, pajamas::Load::context_length);
            work = set(work, parallel, pajamas::Load::parallel);
            work = set(work, threads, pajamas::Load::threads);
            work = options.into_iter().fold(work, |work, (name, value)| work.set(name, value));
            if strict { work.strict().run() } else { work.run() }
        })?;
        Ok(Model::new(model))
    }

    /// Gives JSON.
    #[pyo3(signature = (model, *, reference, backend, text, tokens, window, max_kld, max_degradation, isolated, on_notice))]
    #[expect(clippy::too_many_arguments, reason = "one for each of Python's, all named")]
    fn validate(
        &self,
        py: Python<'_>,
        model: String,
        reference: Option<String>,
        backend: Option<String>,
        text: Option<PathBuf>,
        tokens: Option<usize>,
        window: Option<u32>,
        max_kld: Option<f64>,
        max_degradation: Option<f64>,
        isolated: bool,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let report = work::run(py, on_notice, |observer, cancel| {
            let mut work = self.0.validate(model).observer(observer).cancel(cancel).isolated(isolated);
            work = set(work, reference, pajamas::Validate::reference);
            work = set(work, backend, pajamas::Validate::backend);
            work = set(work, text, pajamas::Validate::text);
            work = set(work, tokens, pajamas::Validate::tokens);
            work = set(work, window, pajamas::Validate::window);
            work = set(work, max_kld, pajamas::Validate::max_kld);
            set(work, max_degradation, pajamas::Validate::max_degradation).run()
        })?;
        json(&report)
    }

    /// Gives JSON.
    #[pyo3(signature = (models, *, backends, prompt_tokens, generate_tokens, depths, repetitions, method, on_notice))]
    #[expect(clippy::too_many_arguments, reason = "one for each of Python's, all named")]
    fn benchmark(
        &self,
        py: Python<'_>,
        models: Vec<String>,
        backends: Vec<String>,
        prompt_tokens: Vec<u32>,
        generate_tokens: Vec<u32>,
        depths: Vec<u32>,
        repetitions: u32,
        method: Option<String>,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let (report, raised) = work::run_to_its_end(py, on_notice, |observer, cancel| {
            let work = self.0.benchmark(models).observer(observer).cancel(cancel).repetitions(repetitions);
            let work = work.prompt_tokens(&prompt_tokens).generate_tokens(&generate_tokens).depths(&depths);
            let work = backends.into_iter().fold(work, pajamas::Benchmark::backend);
            set(work, method, pajamas::Benchmark::method).run()
        })?;
        whole_or_partial(py, report, raised)
    }

    /// Gives JSON.
    #[pyo3(signature = (model, *, methods, formats, keep, text, tokens, speed, repetitions, isolated, on_notice))]
    #[expect(clippy::too_many_arguments, reason = "one for each of Python's, all named")]
    fn sweep(
        &self,
        py: Python<'_>,
        model: String,
        methods: Vec<String>,
        formats: Vec<String>,
        keep: bool,
        text: Option<PathBuf>,
        tokens: Option<usize>,
        speed: (u32, u32),
        repetitions: Option<u32>,
        isolated: bool,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let (sweep, raised) = work::run_to_its_end(py, on_notice, |observer, cancel| {
            let work = self.0.sweep(model).observer(observer).cancel(cancel).isolated(isolated);
            let work = work.methods(methods).formats(formats).keep(keep).speed(speed.0, speed.1);
            let work = set(work, text, pajamas::SweepMethods::text);
            let work = set(work, tokens, pajamas::SweepMethods::tokens);
            set(work, repetitions, pajamas::SweepMethods::repetitions).run()
        })?;
        whole_or_partial(py, sweep, raised)
    }

    #[pyo3(signature = (reference, *, file, on_notice))]
    fn pull(
        &self,
        py: Python<'_>,
        reference: String,
        file: Option<String>,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PathBuf> {
        work::run(py, on_notice, |observer, cancel| {
            let work = self.0.pull(reference).observer(observer).cancel(cancel);
            set(work, file, pajamas::Pull::file).run()
        })
    }

    /// Gives JSON.
    fn backends(&self, py: Python<'_>, rescan: bool) -> PyResult<String> {
        let found = work::run(py, None, |_, _| Ok(if rescan { self.0.rescan() } else { self.0.backends() }))?;
        json(&found)
    }

    /// Gives JSON.
    fn hardware(&self) -> PyResult<String> {
        json(&self.0.hardware())
    }

    /// Gives JSON.
    fn models(&self, py: Python<'_>) -> PyResult<String> {
        let models = py.detach(|| self.0.models());
        let with_path = |model: &pajamas::Record| {
            let path = self.0.config().models_dir().join(&model.file);
            let mut value = serde_json::to_value(model).unwrap_or_default();
            value["path"] = path.display().to_string().into();
            value
        };
        json(&models.iter().map(with_path).collect::<Vec<_>>())
    }

    fn path_of(&self, py: Python<'_>, model: &str) -> PyResult<PathBuf> {
        py.detach(|| self.0.path_of(model)).map_err(errors::of(py))
    }
}

/// `exception`, which ended the measuring, with what was made, and is there all the same, as its attribute `_made`.
fn with_made(py: Python<'_>, exception: PyErr, made: &serde_json::Result<serde_json::Value>) -> PyErr {
    if let Ok(made) = made {
        // What cannot have attributes is raised all the same.
        let _ = json(made).and_then(|made| exception.value(py).setattr("_made", made));
    }
    exception
}

/// A report as JSON; where an exception ended the work, that, with what was measured by then as its attribute `_partial`.
fn whole_or_partial(
    py: Python<'_>,
    report: pajamas::Result<impl serde::Serialize>,
    raised: Option<PyErr>,
) -> PyResult<String> {
    match (report, raised) {
        (Ok(report), None) => json(&report),
        (Err(error), None) => Err(errors::exception(py, &error)),
        (report, Some(raised)) => {
            if let Ok(report) = report {
                // What cannot have attributes is raised all the same.
                let _ = raised.value(py).setattr("_partial", json(&report)?);
            }
            Err(raised)
        }
    }
}

/// `work` with `value`, where there is one.
fn set<W, V>(work: W, value: Option<V>, method: impl FnOnce(W, V) -> W) -> W {
    match value {
        Some(value) => method(work, value),
        None => work,
    }
}
