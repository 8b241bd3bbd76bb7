//! A loaded model, and an answer that is being generated.

use crate::errors;
use crate::work::{self, POLL, json};
use pajamas::{CancelToken, Generate, Message};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

/// A loaded model; none once it is closed.
#[pyclass(frozen, module = "pajamas._native")]
pub struct Model(Mutex<Option<Held>>);

/// A model that is let go of without the interpreter's lock: the last one of it unloads it, which takes a while.
#[derive(Clone)]
struct Held(Option<pajamas::Model>);

impl Drop for Held {
    fn drop(&mut self) {
        let model = self.0.take();
        // Where the interpreter ends, nobody waits for the lock: it is dropped with the closure.
        let _ = Python::try_attach(|py| py.detach(|| drop(model)));
    }
}

impl Deref for Held {
    type Target = pajamas::Model;

    fn deref(&self) -> &pajamas::Model {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

/// How to generate, as Python's `GenerateOptions` has it.
#[derive(FromPyObject)]
struct Options {
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last_n: Option<u32>,
    seed: Option<u64>,
    stop: Vec<String>,
    session: Option<u64>,
    ignore_eos: bool,
}

impl Options {
    fn apply<'m>(self, mut generate: Generate<'m>) -> Generate<'m> {
        fn set<'m, V>(
            generate: Generate<'m>,
            value: Option<V>,
            method: impl FnOnce(Generate<'m>, V) -> Generate<'m>,
        ) -> Generate<'m> {
            match value {
                Some(value) => method(generate, value),
                None => generate,
            }
        }
        generate = set(generate, self.max_tokens, Generate::max_tokens);
        generate = set(generate, self.temperature, Generate::temperature);
        generate = set(generate, self.top_k, Generate::top_k);
        generate = set(generate, self.top_p, Generate::top_p);
        generate = set(generate, self.min_p, Generate::min_p);
        generate = set(generate, self.repeat_penalty, Generate::repeat_penalty);
        generate = set(generate, self.repeat_last_n, Generate::repeat_last_n);
        generate = set(generate, self.seed, Generate::seed);
        generate = set(generate, self.session, Generate::session);
        generate = generate.ignore_eos(self.ignore_eos);
        self.stop.into_iter().fold(generate, Generate::stop)
    }
}

/// A text to go on with, tokens, or the messages of a conversation: role and content of each.
#[derive(FromPyObject)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Messages(Vec<(String, String)>),
}

impl Prompt {
    fn begin(self, model: &pajamas::Model) -> Generate<'_> {
        match self {
            Self::Text(text) => model.generate(text),
            Self::Tokens(tokens) => model.generate_tokens(tokens),
            Self::Messages(messages) => {
                let messages = messages.into_iter().map(|(role, content)| Message::new(&role, content));
                model.chat(messages.collect::<Vec<_>>())
            }
        }
    }
}

impl Model {
    pub fn new(model: pajamas::Model) -> Self {
        Self(Mutex::new(Some(Held(Some(model)))))
    }

    fn open(&self, py: Python<'_>) -> PyResult<Held> {
        let model = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let closed = || pajamas::Error::Usage { message: "the model is closed".into(), hint: "load it again".into() };
        model.ok_or_else(|| errors::exception(py, &closed()))
    }
}

#[pymethods]
impl Model {
    /// Unloads it, once nothing is generated any more.
    fn close(&self) {
        let model = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(model);
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Gives JSON.
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        json(self.open(py)?.info())
    }

    #[getter]
    fn backend(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.open(py)?.backend().to_owned())
    }

    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<std::path::PathBuf> {
        Ok(self.open(py)?.path().to_owned())
    }

    #[getter]
    fn load_ms(&self, py: Python<'_>) -> PyResult<f64> {
        Ok(self.open(py)?.load_ms())
    }

    /// Gives JSON.
    fn generate(&self, py: Python<'_>, prompt: Prompt, options: Options) -> PyResult<String> {
        let model = self.open(py)?;
        let result = work::run(py, None, |_, cancel| {
            let stopped = cancel.clone();
            let result = options.apply(prompt.begin(&model)).cancel(cancel).run()?;
            // Nobody but a signal stops it.
            if stopped.is_cancelled() { Err(pajamas::Error::Interrupted) } else { Ok(result) }
        })?;
        json(&result)
    }

    fn stream(&self, py: Python<'_>, prompt: Prompt, options: Options) -> PyResult<Stream> {
        let model = self.open(py)?;
        let cancel = CancelToken::from_flag(work::begin()?);
        let stream = options.apply(prompt.begin(&model)).cancel(cancel).stream();
        Ok(Stream { stop: Box::new(stream.stopper()), stream: Mutex::new(Some(stream)) })
    }

    #[pyo3(signature = (text, *, add_special, parse_special))]
    fn tokenize(&self, py: Python<'_>, text: &str, add_special: bool, parse_special: bool) -> PyResult<Vec<u32>> {
        let model = self.open(py)?;
        py.detach(|| model.tokenize(text, add_special, parse_special)).map_err(errors::of(py))
    }

    fn detokenize(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<Vec<u8>> {
        let model = self.open(py)?;
        py.detach(|| model.detokenize(&tokens)).map_err(errors::of(py))
    }

    /// Gives the values, row by row, as bytes of little-endian floats, and how many there are in a row.
    #[pyo3(signature = (tokens, *, on_notice))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        tokens: Vec<u32>,
        on_notice: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(Bound<'py, PyByteArray>, usize)> {
        let model = self.open(py)?;
        let logits = work::run(py, on_notice, |_, cancel| model.logits_until(&tokens, &cancel))?;
        let bytes = PyByteArray::new_with(py, logits.values.len() * 4, |bytes| {
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(&logits.values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            Ok(())
        })?;
        Ok((bytes, logits.vocabulary_size))
    }

    /// Gives JSON.
    fn memory_usage(&self, py: Python<'_>) -> PyResult<String> {
        let model = self.open(py)?;
        let (usage, peak_bytes) = py.detach(|| model.memory_usage()).map_err(errors::of(py))?;
        json(&serde_json::json!({
            "weights_bytes": usage.weights_bytes,
            "kv_cache_bytes": usage.kv_cache_bytes,
            "compute_bytes": usage.compute_bytes,
            "device_total_bytes": usage.device_total_bytes,
            "process_peak_bytes": peak_bytes,
        }))
    }
}

/// An answer that is being generated.
#[pyclass(frozen, module = "pajamas._native")]
pub struct Stream {
    /// Reachable while another thread waits for the next piece.
    stop: Box<dyn Fn() + Send + Sync>,
    stream: Mutex<Option<pajamas::Stream>>,
}

#[pymethods]
impl Stream {
    /// The next piece of text; none at the end. Looks for signals while it waits.
    fn next_piece(&self, py: Python<'_>) -> PyResult<Option<String>> {
        loop {
            let next = py.detach(|| {
                let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
                stream.as_mut().and_then(|stream| stream.next_within(POLL))
            });
            match next {
                Some(Ok(Some(piece))) => return Ok(Some(piece)),
                Some(Ok(None)) => (),
                Some(Err(error)) => return Err(errors::exception(py, &error)),
                None => return Ok(None),
            }
            if let Err(raised) = py.check_signals() {
                // Whoever keeps the stream does not keep others from the model.
                self.stop();
                return Err(raised);
            }
        }
    }

    /// Ends it soon.
    fn stop(&self) {
        (self.stop)();
    }

    /// Lets go of it.
    fn close(&self, py: Python<'_>) {
        self.stop();
        py.detach(|| drop(self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }

    /// The whole answer, once it has ended, as JSON.
    fn result(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let result = py.detach(|| {
            let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.as_ref().and_then(|stream| stream.result()).cloned()
        });
        result.as_ref().map(json).transpose()
    }
}
