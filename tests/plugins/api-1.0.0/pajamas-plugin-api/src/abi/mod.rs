//! The binary interface: one table of C functions, found by one symbol, described to abi_stable for its layout check.
//!
//! Structured data crosses as MessagePack with field names, so that fields can be added; what is large or frequent
//! (logits, token ids) crosses as slices. New functions are appended to [`PluginRoot`]; a host sees `None` for those
//! that an older plugin lacks. Nothing here is for plugin authors.

pub mod client;
pub mod guard;
pub mod guest;
pub mod wire;

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RResult, RSlice, RStr, RVec};

/// The symbol at which a plugin exports its `LibHeader`.
pub const ROOT_SYMBOL: &[u8] = b"pajamas_plugin_root\0";

/// An encoded value, or an encoded [`Error`](crate::Error).
pub type Reply = RResult<RVec<u8>, RVec<u8>>;

/// A loaded model, as its plugin knows it.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct ModelHandle(pub *const ());

/// A function of the host that takes an encoded value and says whether to go on. Valid during the call it is given to.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Callback {
    /// First argument of every call.
    pub data: *const (),
    /// Callable from any thread.
    pub call: extern "C" fn(*const (), RSlice<'_, u8>) -> bool,
}

/// A function of the host that takes a row of logits and says whether to go on. Valid during the call it is given to.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RowCallback {
    /// First argument of every call.
    pub data: *const (),
    /// Called from one thread at a time with the row's position and its values.
    pub call: extern "C" fn(*const (), usize, RSlice<'_, f32>) -> bool,
}

/// A function of the host that says whether the call is cancelled. Valid during the call it is given to.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct CancelCallback {
    /// First argument of every call.
    pub data: *const (),
    /// Callable from any thread.
    pub call: extern "C" fn(*const ()) -> bool,
}

/// The host's services, valid for ever. Append only; never reorder.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef)))]
#[sabi(missing_field(option))]
pub struct HostTable {
    /// First argument of `log`.
    pub data: *const (),
    /// Takes level, target and message; callable from any thread.
    pub log: extern "C" fn(*const (), u8, RStr<'_>, RStr<'_>),
    /// UTF-8 path of the cache folder.
    pub cache_dir: RStr<'static>,
    /// Threads that the plugin may compute with.
    #[sabi(last_prefix_field)]
    pub thread_budget: u32,
    /// UTF-8 path of the folder that the plugin's library lies in.
    pub plugin_dir: RStr<'static>,
}

/// The functions of a plugin. Append only; never reorder.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
#[sabi(missing_field(option))]
pub struct PluginRoot {
    /// Makes the backend. Called first, once.
    pub init: extern "C" fn(HostTableRef) -> Reply,
    /// → `Availability`.
    pub is_available: extern "C" fn() -> Reply,
    /// → `Capabilities`.
    pub capabilities: extern "C" fn() -> Reply,
    /// `LoadRequest`, progress (`ProgressUpdate`), cancel → handle, or `Error`.
    pub load_model: extern "C" fn(RSlice<'_, u8>, Callback, CancelCallback) -> RResult<ModelHandle, RVec<u8>>,
    /// → `Vec<Recipe>`; empty without a quantizer.
    pub recipes: extern "C" fn() -> Reply,
    /// `QuantizeJob`, progress, cancel → `QuantizeReport`.
    pub quantize: extern "C" fn(RSlice<'_, u8>, Callback, CancelCallback) -> Reply,
    /// → `ModelInfo`.
    pub model_info: extern "C" fn(ModelHandle) -> Reply,
    /// `GenerateRequest`, events (`Event`), cancel → `GenerateStats`.
    pub model_generate: extern "C" fn(ModelHandle, RSlice<'_, u8>, Callback, CancelCallback) -> Reply,
    /// text, add_special, parse_special → `Vec<u32>`.
    pub model_tokenize: extern "C" fn(ModelHandle, RStr<'_>, bool, bool) -> Reply,
    /// tokens → bytes, not encoded.
    pub model_detokenize: extern "C" fn(ModelHandle, RSlice<'_, u32>) -> Reply,
    /// tokens, first row, rows, cancel → `()`.
    pub model_logits: extern "C" fn(ModelHandle, RSlice<'_, u32>, usize, RowCallback, CancelCallback) -> Reply,
    /// → `MemoryUsage`.
    pub model_memory_usage: extern "C" fn(ModelHandle) -> Reply,
    /// Unloads. The handle is dead afterwards.
    #[sabi(last_prefix_field)]
    pub model_drop: extern "C" fn(ModelHandle) -> Reply,
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}

    const BASE_NAME: &'static str = "pajamas_plugin";
    const NAME: &'static str = "pajamas plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(crate::API_VERSION);
}
