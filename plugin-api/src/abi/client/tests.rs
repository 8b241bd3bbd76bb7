//! The host's side against tables of this version, of older ones, and of what is no plugin's at all.

use super::super::{ModelHandle, PluginRootRef, Reply, guest};
use super::*;
use crate::{Backend, ErrorKind, Model, OptionKind, OptionSpec, OptionValue, Progress};
use abi_stable::std_types::RVec;

/// Forecasts a byte of weights for each token of context.
struct Forecasting;

impl Backend for Forecasting {
    fn is_available(&self) -> Availability {
        Availability::QuantizeOnly
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("cpu", &["test"]);
        capabilities.options = vec![OptionSpec::new("known", OptionKind::Bool, "false", "An option.")];
        capabilities
    }

    fn load_model(&self, _: &LoadRequest, _: &Progress, _: &CancelToken) -> Result<Box<dyn Model>> {
        Err(Error::unsupported("nothing is loaded here"))
    }

    fn forecast_memory(&self, request: &LoadRequest) -> Result<MemoryUsage> {
        let weights_bytes = request.context_length.unwrap_or(0).into();
        Ok(MemoryUsage { weights_bytes, ..MemoryUsage::default() })
    }
}

extern "C" fn init(host: HostTableRef) -> Reply {
    guest::init(host, || Box::new(Forecasting))
}

/// A module with the table of a plugin as it was in 1.0.0, but for the type of `capabilities`.
macro_rules! table {
    ($module:ident, $capabilities:ty) => {
        mod $module {
            #![expect(dead_code, reason = "only the table's layout matters, nobody calls it by this type")]

            use super::*;

            #[repr(C)]
            #[derive(StableAbi)]
            #[sabi(kind(Prefix(prefix_ref = PluginRootRef)))]
            #[sabi(missing_field(option))]
            pub(super) struct PluginRoot {
                pub(super) init: extern "C" fn(HostTableRef) -> Reply,
                pub(super) is_available: extern "C" fn() -> Reply,
                pub(super) capabilities: $capabilities,
                pub(super) load_model:
                    extern "C" fn(RSlice<'_, u8>, Callback, CancelCallback) -> RResult<ModelHandle, RVec<u8>>,
                pub(super) recipes: extern "C" fn() -> Reply,
                pub(super) quantize: extern "C" fn(RSlice<'_, u8>, Callback, CancelCallback) -> Reply,
                pub(super) model_info: extern "C" fn(ModelHandle) -> Reply,
                pub(super) model_generate:
                    extern "C" fn(ModelHandle, RSlice<'_, u8>, Callback, CancelCallback) -> Reply,
                pub(super) model_tokenize: extern "C" fn(ModelHandle, RStr<'_>, bool, bool) -> Reply,
                pub(super) model_detokenize: extern "C" fn(ModelHandle, RSlice<'_, u32>) -> Reply,
                pub(super) model_logits:
                    extern "C" fn(ModelHandle, RSlice<'_, u32>, usize, RowCallback, CancelCallback) -> Reply,
                pub(super) model_memory_usage: extern "C" fn(ModelHandle) -> Reply,
                #[sabi(last_prefix_field)]
                pub(super) model_drop: extern "C" fn(ModelHandle) -> Reply,
            }
        }
    };
}

table!(old, extern "C" fn() -> Reply);
table!(foreign, extern "C" fn(bool) -> Reply);

fn request(context_length: u32) -> LoadRequest {
    LoadRequest { context_length: Some(context_length), ..LoadRequest::new("/m.test") }
}

#[test]
fn a_forecast_crosses_with_its_options_checked() {
    let plugin = Plugin { root: guest::root(init) };
    let services = HostServices::new(|_, _, _| (), std::env::temp_dir(), 1);
    read_reply::<()>((plugin.root.init())(host_table(services)), "the answer to init").unwrap();
    assert_eq!(plugin.forecast_memory(&request(77)).unwrap().weights_bytes, 77);
    let mut unknown = request(77);
    unknown.options.set("unknown", OptionValue::Bool(true));
    assert_eq!(plugin.forecast_memory(&unknown).unwrap_err().kind, ErrorKind::InvalidRequest);
}

#[test]
fn a_shorter_table_is_an_older_one_unless_its_functions_differ() {
    assert!(is_older_table(<old::PluginRootRef as StableAbi>::LAYOUT));
    assert!(!is_older_table(<foreign::PluginRootRef as StableAbi>::LAYOUT));
}

#[test]
fn an_older_plugin_has_no_forecast() {
    let new = guest::root(init);
    let old = old::PluginRoot {
        init: new.init(),
        is_available: new.is_available(),
        capabilities: new.capabilities(),
        load_model: new.load_model(),
        recipes: new.recipes(),
        quantize: new.quantize(),
        model_info: new.model_info(),
        model_generate: new.model_generate(),
        model_tokenize: new.model_tokenize(),
        model_detokenize: new.model_detokenize(),
        model_logits: new.model_logits(),
        model_memory_usage: new.model_memory_usage(),
        model_drop: new.model_drop(),
    };
    // SAFETY: both are pointers to a table with the same fields up to the last prefix field; a table says how many
    // fields it has, and this is how the host gets an older one.
    let root = unsafe { std::mem::transmute::<old::PluginRootRef, PluginRootRef>(old.leak_into_prefix()) };
    let error = Plugin { root }.forecast_memory(&request(1)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}
