//! Measuring speed.

use super::call::{Call, call_methods};
use crate::benchmark::report::Report;
use crate::benchmark::{self, BenchmarkOptions, plan};
use crate::error::Result;
use crate::runtime::obtain::Purpose;
use crate::runtime::open::OpenOptions;
use crate::validate::Host;
use std::time::Duration;

/// What is to be measured; [`Pajamas::benchmark`](super::Pajamas::benchmark) begins it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/installed.rs"));
/// # fn main() -> pajamas::Result<()> {
/// # let Installed { pajamas, model, .. } = &Installed::new();
/// use pajamas::report::Outcome;
///
/// let made = pajamas.quantize(model).method("Q8_0").run()?;
/// let report = pajamas.benchmark([&made]).prompt_tokens(&[64]).generate_tokens(&[16]).repetitions(2).run()?;
/// for test in &report.runs[0].tests {
///     let Outcome::Measured(measured) = &test.outcome else { panic!("{:?}", test.outcome) };
///     println!("{} {:.0} tokens/s", test.test, measured.tokens_per_second.mean);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is measured before `run`"]
pub struct Benchmark<'a> {
    call: Call<'a>,
    models: Vec<String>,
    lengths: [Vec<u32>; 3],
    options: BenchmarkOptions,
}

impl<'a> Benchmark<'a> {
    pub(super) fn new(call: Call<'a>, models: Vec<String>) -> Self {
        let options = BenchmarkOptions {
            backends: Vec::new(),
            tests: Vec::new(),
            repetitions: 5,
            warm_up: true,
            delay: Duration::ZERO,
            fallback: call.pajamas.config().fallback,
            method: None,
            context_length: None,
            set: Vec::new(),
        };
        Self { call, models, lengths: [vec![512], vec![128], vec![0]], options }
    }

    call_methods!('a);

    /// A backend to measure on; may be called several times. `all` stands for every one that can run the model; without this
    /// it is the best.
    pub fn backend(mut self, name: impl Into<String>) -> Self {
        self.options.backends.push(name.into());
        self
    }

    /// Lengths of prompts to process; 512 without this.
    pub fn prompt_tokens(mut self, lengths: &[u32]) -> Self {
        self.lengths[0] = lengths.to_vec();
        self
    }

    /// How many tokens to generate; 128 without this.
    pub fn generate_tokens(mut self, lengths: &[u32]) -> Self {
        self.lengths[1] = lengths.to_vec();
        self
    }

    /// How many tokens the KV cache holds before each test; 0 without this.
    pub fn depths(mut self, depths: &[u32]) -> Self {
        self.lengths[2] = depths.to_vec();
        self
    }

    /// How often each test is measured; 5 times without this.
    pub fn repetitions(mut self, repetitions: u32) -> Self {
        self.options.repetitions = repetitions.max(1);
        self
    }

    /// The quantization method, where a model must be made first.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.options.method = Some(method.into());
        self
    }

    /// Changes what else there is to choose.
    #[doc(hidden)]
    pub fn with(mut self, change: impl FnOnce(&mut BenchmarkOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Measures. A backend that fails is a run with an error in the report; the others go on.
    ///
    /// # Errors
    /// When a model is not there, there is nothing to measure, or, with no backend named, none runs the model.
    pub fn run(mut self) -> Result<Report> {
        let (config, candidates) = self.call.begin();
        let host = Host { candidates: &candidates, config: &config, observer: self.call.observer };
        let [prompt, generate, depths] = &self.lengths;
        self.options.tests = plan::tests(prompt, generate, depths);
        let open = OpenOptions {
            backend: self.options.backends.first().filter(|name| *name != benchmark::ALL_BACKENDS).cloned(),
            fallback: self.options.fallback,
            method: self.options.method.clone(),
            context_length: self.options.context_length,
            ..OpenOptions::default()
        };
        let source = |model: &String| Ok((model.clone(), self.call.source(model, Purpose::Run(&open), &host)?));
        let models = self.models.iter().map(source).collect::<Result<Vec<_>>>()?;
        benchmark::benchmark(&models, &self.options, &candidates, &config, self.call.observer, &self.call.cancel)
    }
}
