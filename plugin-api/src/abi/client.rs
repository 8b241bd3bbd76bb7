//! The host's side of the boundary: a plugin's table as plain Rust.

mod loan;

use super::wire::{decode, encode, read_error, read_reply};
use super::{Callback, CancelCallback, HostTable, HostTableRef, ModelHandle, PluginRootRef, ROOT_SYMBOL};
use crate::{
    Availability, CancelToken, Capabilities, Error, Event, GenerateRequest, GenerateResult, GenerateStats,
    HostServices, LoadRequest, LogLevel, MemoryUsage, ModelInfo, ProgressUpdate, Prompt, QuantizeJob, QuantizeReport,
    Recipe, Result, Sampling,
};
use abi_stable::StableAbi;
use abi_stable::abi_stability::check_layout_compatibility;
use abi_stable::library::{AbiHeaderRef, IsLayoutChecked, LibHeader, LibraryError};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RResult, RSlice, RStr};
use abi_stable::type_layout::TypeLayout;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// A loaded plugin. Its library stays loaded until the process ends: its threads may outlive every handle.
#[derive(Clone, Copy)]
pub struct Plugin {
    root: PluginRootRef,
}

impl Plugin {
    /// Loads the shared library at `path` and makes its backend, with `services` to lean on.
    ///
    /// # Safety
    /// Loading runs the library's constructors. The caller has decided to trust the file.
    ///
    /// # Errors
    /// `Unsupported`, with the loader's or the layout check's words, when the library cannot be loaded, is no plugin,
    /// or is one of another binary interface.
    pub unsafe fn open(path: &Path, mut services: HostServices) -> Result<Self> {
        services.plugin_dir =
            std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
        // SAFETY: the caller trusts the file's constructors.
        let library = unsafe { open_library(path) }
            .map_err(|error| Error::unsupported("the library cannot be loaded").with_cause(&error))?;
        // SAFETY: the symbol, where it exists, is the `LibHeader` that `export_plugin!` wrote; its address is taken.
        let header = unsafe { library.get::<AbiHeaderRef>(ROOT_SYMBOL) }
            .map(|symbol| *symbol)
            .map_err(|_| Error::unsupported("it is no pajamas plugin: it does not export `pajamas_plugin_root`"))?;
        std::mem::forget(library);
        let incompatible = |error: LibraryError| {
            // The report of a layout mismatch runs to pages; its first line says what it is.
            let text = error.to_string();
            let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
            Error::unsupported(format!("its binary interface differs from this pajamas's: {line}"))
                .with_hint("rebuild the plugin against the current pajamas-plugin-api")
        };
        let header = header.upgrade().map_err(incompatible)?;
        check_layout(header).map_err(incompatible)?;
        // SAFETY: the layout was checked.
        let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() }.map_err(incompatible)?;
        let plugin = Self { root };
        read_reply::<()>((plugin.root.init())(host_table(services)), "the plugin's answer to init")?;
        Ok(plugin)
    }

    /// As [`Backend::is_available`](crate::Backend::is_available).
    ///
    /// # Errors
    /// When the plugin panicked.
    pub fn is_available(&self) -> Result<Availability> {
        read_reply((self.root.is_available())(), "the plugin's availability")
    }

    /// As [`Backend::capabilities`](crate::Backend::capabilities).
    ///
    /// # Errors
    /// When the plugin panicked.
    pub fn capabilities(&self) -> Result<Capabilities> {
        read_reply((self.root.capabilities())(), "the plugin's capabilities")
    }

    /// What its quantizer makes; empty without one.
    ///
    /// # Errors
    /// When the plugin panicked.
    pub fn recipes(&self) -> Result<Vec<Recipe>> {
        read_reply((self.root.recipes())(), "the plugin's recipes")
    }

    /// As [`Backend::load_model`](crate::Backend::load_model).
    ///
    /// # Errors
    /// The plugin's.
    pub fn load_model(
        &self,
        request: &LoadRequest,
        progress: &(dyn Fn(&ProgressUpdate) + Sync),
        cancel: &CancelToken,
    ) -> Result<LoadedModel> {
        let request = encode(request);
        // Wrapped before anything can fail, so that it is unloaded when something does: a panic of the host's, too.
        let wrapped = |handle| LoadedModel { root: self.root, handle, info: ModelInfo::default() };
        let loaded = with_progress(progress, cancel, |progress, cancel| {
            match (self.root.load_model())(RSlice::from(request.as_slice()), progress, cancel) {
                RResult::ROk(handle) => Ok(wrapped(handle)),
                RResult::RErr(error) => Err(read_error(&error)),
            }
        })?;
        let mut model = loaded?;
        model.info = read_reply((self.root.model_info())(model.handle), "the model's description")?;
        Ok(model)
    }

    /// As [`Backend::forecast_memory`](crate::Backend::forecast_memory).
    ///
    /// # Errors
    /// The plugin's; `Unsupported` for a plugin that is older than this function.
    pub fn forecast_memory(&self, request: &LoadRequest) -> Result<MemoryUsage> {
        let forecast = self.root.forecast_memory();
        let forecast = forecast.ok_or_else(|| Error::unsupported("this plugin is too old to forecast memory"))?;
        read_reply(forecast(RSlice::from(encode(request).as_slice())), "the memory forecast")
    }

    /// As [`Quantizer::quantize`](crate::Quantizer::quantize).
    ///
    /// # Errors
    /// The plugin's.
    pub fn quantize(
        &self,
        job: &QuantizeJob,
        progress: &(dyn Fn(&ProgressUpdate) + Sync),
        cancel: &CancelToken,
    ) -> Result<QuantizeReport> {
        let job = encode(job);
        let reply = with_progress(progress, cancel, |progress, cancel| {
            (self.root.quantize())(RSlice::from(job.as_slice()), progress, cancel)
        })?;
        read_reply(reply, "the quantizer's report")
    }
}

/// A model loaded by a plugin. Usable from several threads; dropping it unloads the model.
pub struct LoadedModel {
    root: PluginRootRef,
    handle: ModelHandle,
    info: ModelInfo,
}

// SAFETY: the handle is a pointer to a `Box<dyn Model>`, and `Model` is `Send + Sync`.
unsafe impl Send for LoadedModel {}
// SAFETY: as above.
unsafe impl Sync for LoadedModel {}

impl LoadedModel {
    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Generates, handing each event to `on_event` until it breaks. Blocks; callable from several threads.
    ///
    /// # Errors
    /// The plugin's, when it failed before its first token.
    pub fn generate_stream(
        &self,
        request: &GenerateRequest,
        cancel: &CancelToken,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<GenerateStats> {
        let encoded = encode(request);
        let mut on_bytes = |bytes: &[u8]| match decode::<Event>(bytes, "an event") {
            Ok(event) => on_event(event),
            // An event of a newer API than this host's: nothing here could use it.
            Err(_) => ControlFlow::Continue(()),
        };
        let reply = loan::cancellation(cancel, |cancel| {
            loan::bytes(&mut on_bytes, |events| {
                (self.root.model_generate())(self.handle, RSlice::from(encoded.as_slice()), events, cancel)
            })
        })?;
        read_reply(reply, "the generation's statistics")
    }

    /// Generates and returns the whole answer.
    ///
    /// # Errors
    /// As [`Self::generate_stream`].
    pub fn generate(&self, request: &GenerateRequest, cancel: &CancelToken) -> Result<GenerateResult> {
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let stats = self.generate_stream(request, cancel, &mut |event| {
            match event {
                Event::Text(piece) => text += &piece,
                Event::Token { id, .. } => tokens.push(id),
                Event::PromptProgress { .. } => (),
            }
            ControlFlow::Continue(())
        })?;
        Ok(GenerateResult { text, tokens, stats })
    }

    /// Runs a few tokens, so that what engines do at their first use is not in the first answer's time.
    ///
    /// # Errors
    /// The plugin's.
    pub fn warm_up(&self) -> Result<()> {
        self.benchmark(8, 4).map(|_| ())
    }

    /// Processes `prompt_tokens` tokens and generates `generated_tokens`, past any end of generation.
    ///
    /// # Errors
    /// The plugin's.
    pub fn benchmark(&self, prompt_tokens: u32, generated_tokens: u32) -> Result<GenerateStats> {
        let vocabulary = self.info.vocabulary_size.max(1);
        let tokens = (0..prompt_tokens).map(|i| (i * 7 + 11) % vocabulary).collect();
        let request = GenerateRequest {
            sampling: Sampling::greedy(),
            max_tokens: generated_tokens,
            ignore_eos: true,
            ..GenerateRequest::new(Prompt::Tokens(tokens))
        };
        self.generate_stream(&request, &CancelToken::never(), &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Model::tokenize`](crate::Model::tokenize).
    ///
    /// # Errors
    /// The plugin's.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let reply = (self.root.model_tokenize())(self.handle, RStr::from(text), add_special, parse_special);
        read_reply(reply, "the token ids")
    }

    /// As [`Model::detokenize`](crate::Model::detokenize).
    ///
    /// # Errors
    /// The plugin's.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        match (self.root.model_detokenize())(self.handle, RSlice::from(tokens)) {
            RResult::ROk(bytes) => Ok(bytes.into()),
            RResult::RErr(error) => Err(read_error(&error)),
        }
    }

    /// As [`Model::logits`](crate::Model::logits).
    ///
    /// # Errors
    /// The plugin's.
    pub fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let reply = loan::cancellation(cancel, |cancel| {
            loan::rows(rows, |rows| {
                (self.root.model_logits())(self.handle, RSlice::from(tokens), first_row, rows, cancel)
            })
        })?;
        read_reply(reply, "the logits")
    }

    /// As [`Model::memory_usage`](crate::Model::memory_usage).
    ///
    /// # Errors
    /// When the plugin panicked.
    pub fn memory_usage(&self) -> Result<MemoryUsage> {
        read_reply((self.root.model_memory_usage())(self.handle), "the memory usage")
    }
}

impl Drop for LoadedModel {
    fn drop(&mut self) {
        if let Err(error) = read_reply::<()>((self.root.model_drop())(self.handle), "the answer to unloading") {
            tracing::warn!("unloading a model failed: {error}");
        }
    }
}

/// Compares the plugin's tables with the host's, function by function.
///
/// abi_stable lets the plugin's have functions behind the host's last one. When it is the host's that have grown, the
/// question is the same with the sides exchanged; what the plugin lacks is then `None`, because a table says how many
/// functions it has.
fn check_layout(header: &LibHeader) -> std::result::Result<(), LibraryError> {
    header.ensure_layout::<PluginRootRef>().or_else(|error| match header.root_mod_consts().layout() {
        IsLayoutChecked::Yes(plugin) if is_older_table(plugin) => Ok(()),
        _ => Err(error),
    })
}

/// Whether `plugin` is the layout of a table that the host's has grown from.
fn is_older_table(plugin: &'static TypeLayout) -> bool {
    check_layout_compatibility(plugin, <PluginRootRef as StableAbi>::LAYOUT).is_ok()
}

/// Opens with every symbol resolved and none of them visible to other libraries.
///
/// # Safety
/// Runs the library's constructors.
#[cfg(unix)]
unsafe fn open_library(path: &Path) -> std::result::Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the caller trusts the file's constructors.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

/// Opens the library.
///
/// # Safety
/// Runs the library's constructors.
#[cfg(not(unix))]
unsafe fn open_library(path: &Path) -> std::result::Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller trusts the file's constructors.
    unsafe { libloading::Library::new(path) }
}

/// Leaks `services`: a plugin is never unloaded and may log until the process ends.
fn host_table(services: HostServices) -> HostTableRef {
    extern "C" fn log(data: *const (), level: u8, target: RStr<'_>, message: RStr<'_>) {
        // SAFETY: `data` is the services leaked below.
        let services = unsafe { &*data.cast::<HostServices>() };
        let _ = catch_unwind(AssertUnwindSafe(|| {
            services.log(LogLevel::from_number(level), target.as_str(), message.as_str());
        }));
    }
    let services: &'static HostServices = Box::leak(Box::new(services));
    let leaked = |path: &Path| -> &'static str { Box::leak(path.to_string_lossy().into_owned().into_boxed_str()) };
    HostTable {
        data: std::ptr::from_ref(services).cast(),
        log,
        cache_dir: RStr::from_str(leaked(&services.cache_dir)),
        thread_budget: services.thread_budget(),
        plugin_dir: RStr::from_str(leaked(&services.plugin_dir)),
    }
    .leak_into_prefix()
}

/// Runs `work` with a callback to `progress`, and one to `cancel`.
fn with_progress<T>(
    progress: &(dyn Fn(&ProgressUpdate) + Sync),
    cancel: &CancelToken,
    work: impl FnOnce(Callback, CancelCallback) -> T,
) -> Result<T> {
    let mut on_bytes = |bytes: &[u8]| {
        if let Ok(update) = decode(bytes, "progress") {
            progress(&update);
        }
        ControlFlow::Continue(())
    };
    loan::cancellation(cancel, |cancel| loan::bytes_anywhere(&mut on_bytes, |progress| work(progress, cancel)))
}

#[cfg(test)]
mod tests;
