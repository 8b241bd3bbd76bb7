//! The plugin's side of the boundary: the functions of the table, around the author's traits.

use super::guard::guard;
use super::wire::{decode, encode, reply};
use super::{Callback, CancelCallback, HostTableRef, ModelHandle, PluginRoot, PluginRootRef, Reply, RowCallback};
use crate::{
    Backend, CancelToken, Error, Event, GenerateRequest, HostServices, LoadRequest, LogLevel, Model, Progress,
    ProgressUpdate, QuantizeJob, Quantizer, Recipe, Result, Sampling, TokenSink, options,
};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RResult, RSlice, RStr, RVec};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// This library's backend: every shared library has its own copy of this crate, and so of this static.
static BACKEND: OnceLock<Box<dyn Backend>> = OnceLock::new();

/// The table of a plugin whose `init` is `init`.
pub fn root(init: extern "C" fn(HostTableRef) -> Reply) -> PluginRootRef {
    PluginRoot {
        init,
        is_available,
        capabilities,
        load_model,
        recipes,
        quantize,
        model_info,
        model_generate,
        model_tokenize,
        model_detokenize,
        model_logits,
        model_memory_usage,
        model_drop,
    }
    .leak_into_prefix()
}

/// Makes the backend with `construct`, once.
pub fn init(host: HostTableRef, construct: fn() -> Box<dyn Backend>) -> Reply {
    reply(guard(|| {
        let cache_dir = host.cache_dir();
        let table = Shared(host);
        let log = move |level: LogLevel, target: &str, message: &str| {
            let host = table.get();
            (host.log())(host.data(), level as u8, RStr::from(target), RStr::from(message));
        };
        let mut services = HostServices::new(log, cache_dir.as_str(), host.thread_budget());
        services.plugin_dir = host.plugin_dir().map_or_else(Default::default, |dir| dir.as_str().into());
        crate::host_services::install(services);
        BACKEND.get_or_init(construct);
        Ok(())
    }))
}

/// A table of the host's that is valid on every thread, as its documentation promises.
#[derive(Clone, Copy)]
struct Shared<T>(T);

// SAFETY: the wrapped tables hold functions that the contract makes callable from any thread.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// A method, so that closures capture the whole wrapper and not its field alone.
    fn get(&self) -> T {
        self.0
    }
}

fn backend() -> Result<&'static dyn Backend> {
    BACKEND.get().map(AsRef::as_ref).ok_or_else(|| Error::other("the plugin was not initialised"))
}

fn quantizer() -> Result<&'static dyn Quantizer> {
    backend()?.quantizer().ok_or_else(|| Error::unsupported("this backend has no quantizer"))
}

/// Runs `work` with a token that asks the host while the call lasts and keeps its last answer afterwards.
fn with_cancel<T>(cancel: CancelCallback, work: impl FnOnce(&CancelToken) -> T) -> T {
    struct Live {
        host: Option<Shared<CancelCallback>>,
        cancelled: bool,
    }
    /// Cuts the token off even when `work` panics.
    struct CutOff(Arc<Mutex<Live>>);
    impl Drop for CutOff {
        fn drop(&mut self) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).host = None;
        }
    }
    let live = Arc::new(Mutex::new(Live { host: Some(Shared(cancel)), cancelled: false }));
    let _cut_off = CutOff(Arc::clone(&live));
    let token = CancelToken::new(move || {
        let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(host), false) = (live.host, live.cancelled) {
            live.cancelled = (host.get().call)(host.get().data);
        }
        live.cancelled
    });
    work(&token)
}

fn with_progress<T>(progress: Callback, work: impl FnOnce(&Progress<'_>) -> T) -> T {
    let progress = Shared(progress);
    let report = move |update: &ProgressUpdate| {
        let Callback { data, call } = progress.get();
        call(data, RSlice::from(encode(update).as_slice()));
    };
    work(&Progress::new(&report))
}

extern "C" fn is_available() -> Reply {
    reply(guard(|| Ok(backend()?.is_available())))
}

extern "C" fn capabilities() -> Reply {
    reply(guard(|| Ok(backend()?.capabilities())))
}

extern "C" fn load_model(
    request: RSlice<'_, u8>,
    progress: Callback,
    cancel: CancelCallback,
) -> RResult<ModelHandle, RVec<u8>> {
    let loaded = guard(|| {
        let request: LoadRequest = decode(&request, "the load request")?;
        let backend = backend()?;
        options::check(&backend.capabilities().options, &request.options)?;
        with_cancel(cancel, |cancel| with_progress(progress, |progress| backend.load_model(&request, progress, cancel)))
    });
    match loaded {
        // Boxed twice, because a trait object's pointer is two words and the handle is one.
        Ok(model) => RResult::ROk(ModelHandle(Box::into_raw(Box::new(model)).cast_const().cast())),
        Err(error) => RResult::RErr(encode(&error).into()),
    }
}

extern "C" fn recipes() -> Reply {
    reply(guard(|| Ok(backend()?.quantizer().map(Quantizer::recipes).unwrap_or_default())))
}

extern "C" fn quantize(job: RSlice<'_, u8>, progress: Callback, cancel: CancelCallback) -> Reply {
    reply(guard(|| {
        let mut job: QuantizeJob = decode(&job, "the quantize job")?;
        let quantizer = quantizer()?;
        let known: Vec<Recipe> = quantizer.recipes();
        let recipe = known.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(&job.recipe));
        let recipe = recipe.ok_or_else(|| Error::unsupported(format!("unknown recipe `{}`", job.recipe)))?;
        if !recipe.sources.contains(&job.source_format) {
            return Err(Error::unsupported(format!(
                "`{}` is made from {}, and `{}` is {}",
                recipe.name,
                recipe.sources.join(" or "),
                job.source.display(),
                job.source_format
            )));
        }
        options::check(&recipe.options, &job.options)?;
        // As the author spells it.
        job.recipe.clone_from(&recipe.name);
        with_cancel(cancel, |cancel| with_progress(progress, |progress| quantizer.quantize(&job, progress, cancel)))
    }))
}

/// The model behind a handle.
fn model(handle: &ModelHandle) -> &dyn Model {
    // SAFETY: the host passes handles that `load_model` made and `model_drop` has not yet taken.
    unsafe { &**handle.0.cast::<Box<dyn Model>>() }
}

extern "C" fn model_info(handle: ModelHandle) -> Reply {
    reply(guard(|| Ok(model(&handle).info())))
}

extern "C" fn model_generate(
    handle: ModelHandle,
    request: RSlice<'_, u8>,
    events: Callback,
    cancel: CancelCallback,
) -> Reply {
    reply(guard(|| {
        let request: GenerateRequest = decode(&request, "the generate request")?;
        let capabilities = backend()?.capabilities();
        check_sampling(&request.sampling, &capabilities.sampling)?;
        if request.top_logprobs > 0 && !capabilities.logprobs {
            return Err(Error::unsupported("this backend gives no log-probabilities"));
        }
        let model = model(&handle);
        let mut on_event = |event: Event| {
            if (events.call)(events.data, RSlice::from(encode(&event).as_slice())) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        with_cancel(cancel, |cancel| {
            let mut sink = TokenSink::new(&request, &model.info(), cancel.clone(), &mut on_event);
            let outcome = guard(|| model.generate(&request, &mut sink));
            sink.finish(outcome)
        })
    }))
}

/// A sampling field that changes anything must be one that the backend honours.
fn check_sampling(sampling: &Sampling, honoured: &[String]) -> Result<()> {
    match sampling.effective().find(|name| !honoured.iter().any(|known| known == name)) {
        Some(name) => Err(Error::unsupported(format!("this backend does not honour `{name}`"))),
        None => Ok(()),
    }
}

extern "C" fn model_tokenize(handle: ModelHandle, text: RStr<'_>, add_special: bool, parse_special: bool) -> Reply {
    reply(guard(|| model(&handle).tokenize(text.as_str(), add_special, parse_special)))
}

extern "C" fn model_detokenize(handle: ModelHandle, tokens: RSlice<'_, u32>) -> Reply {
    match guard(|| model(&handle).detokenize(&tokens)) {
        Ok(bytes) => RResult::ROk(bytes.into()),
        Err(error) => RResult::RErr(encode(&error).into()),
    }
}

extern "C" fn model_logits(
    handle: ModelHandle,
    tokens: RSlice<'_, u32>,
    first_row: usize,
    rows: RowCallback,
    cancel: CancelCallback,
) -> Reply {
    reply(guard(|| {
        let mut on_row = |position: usize, logits: &[f32]| {
            if (rows.call)(rows.data, position, RSlice::from(logits)) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        with_cancel(cancel, |cancel| model(&handle).logits(&tokens, first_row, &mut on_row, cancel))
    }))
}

extern "C" fn model_memory_usage(handle: ModelHandle) -> Reply {
    reply(guard(|| Ok(model(&handle).memory_usage())))
}

extern "C" fn model_drop(handle: ModelHandle) -> Reply {
    reply(guard(|| {
        // SAFETY: `load_model` made the box, and the host gives each handle back once.
        drop(unsafe { Box::from_raw(handle.0.cast_mut().cast::<Box<dyn Model>>()) });
        Ok(())
    }))
}
