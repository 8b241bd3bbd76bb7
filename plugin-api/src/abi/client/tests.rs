//! The host's side against tables of this version, of older ones, and of what is no plugin's at all.

use super::super::{ModelHandle, PluginRootRef, Reply, RowCallback, guest};
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

/// A plugin that calls what it was lent whenever and wherever it likes, as one in another language could.
mod rude {
    use super::*;
    use crate::abi::wire;
    use std::sync::Mutex;

    /// What the last call lent.
    pub(super) static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

    #[derive(Clone, Copy)]
    pub(super) struct Kept {
        pub(super) events: Callback,
        pub(super) cancel: CancelCallback,
    }

    // SAFETY: this is the test of the host's answer to just that.
    unsafe impl Send for Kept {}
    // SAFETY: as above.
    unsafe impl Sync for Kept {}

    impl Kept {
        /// Hands over a text and gives the host's answer.
        pub(super) fn emit(&self, text: &str) -> bool {
            let event = encode(&Event::Text(text.into()));
            (self.events.call)(self.events.data, RSlice::from(event.as_slice()))
        }

        pub(super) fn is_cancelled(&self) -> bool {
            (self.cancel.call)(self.cancel.data)
        }
    }

    extern "C" fn generate(_: ModelHandle, prompt: RSlice<'_, u8>, events: Callback, cancel: CancelCallback) -> Reply {
        let request: GenerateRequest = wire::decode(&prompt, "the request").unwrap();
        let kept = Kept { events, cancel };
        *KEPT.lock().unwrap() = Some(kept);
        let went_on = kept.emit("here ");
        if request.prompt == Prompt::text("elsewhere") {
            let elsewhere = std::thread::spawn(move || (kept.emit("elsewhere"), kept.is_cancelled())).join().unwrap();
            assert_eq!(elsewhere, (false, false), "a token has its own thread; cancellation may be asked for on any");
        }
        assert_eq!(kept.emit("again"), went_on);
        wire::reply(Ok(GenerateStats {
            prompt_tokens: 1,
            cached_tokens: 0,
            generated_tokens: 2,
            time_to_first_token_ms: 0.0,
            tokens_per_second: 0.0,
            prompt_tokens_per_second: 0.0,
            total_ms: 0.0,
            finish_reason: crate::FinishReason::Stop,
            metadata: std::collections::BTreeMap::new(),
        }))
    }

    extern "C" fn logits(
        _: ModelHandle,
        _: RSlice<'_, u32>,
        first_row: usize,
        rows: RowCallback,
        _: CancelCallback,
    ) -> Reply {
        assert!((rows.call)(rows.data, first_row, RSlice::from(&[1.0_f32, 2.0][..])));
        let data = rows.data.addr();
        let elsewhere = std::thread::spawn(move || {
            (rows.call)(std::ptr::without_provenance(data), 9, RSlice::from(&[3.0_f32][..]))
        });
        assert!(!elsewhere.join().unwrap());
        wire::reply(Ok(()))
    }

    extern "C" fn model_drop(_: ModelHandle) -> Reply {
        wire::reply(Ok(()))
    }

    pub(super) fn model() -> LoadedModel {
        let table = guest::root(init);
        let root = crate::abi::PluginRoot {
            init: table.init(),
            is_available: table.is_available(),
            capabilities: table.capabilities(),
            load_model: table.load_model(),
            recipes: table.recipes(),
            quantize: table.quantize(),
            model_info: table.model_info(),
            model_generate: generate,
            model_tokenize: table.model_tokenize(),
            model_detokenize: table.model_detokenize(),
            model_logits: logits,
            model_memory_usage: table.model_memory_usage(),
            model_drop,
            forecast_memory: table.forecast_memory().unwrap(),
        };
        LoadedModel { root: root.leak_into_prefix(), handle: ModelHandle(std::ptr::null()), info: ModelInfo::default() }
    }
}

#[test]
fn what_a_plugin_hands_over_late_or_on_another_thread_goes_nowhere() {
    let model = rude::model();
    let told = |prompt: &str, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>| {
        model.generate_stream(&GenerateRequest::new(Prompt::text(prompt)), &CancelToken::never(), on_event)
    };
    let mut text = String::new();
    let mut on_event = |event: Event| {
        if let Event::Text(piece) = event {
            text += &piece;
        }
        ControlFlow::Continue(())
    };
    told("here", &mut on_event).unwrap();
    let kept = rude::KEPT.lock().unwrap().unwrap();
    assert!(!kept.emit("late") && kept.is_cancelled(), "after the call there is nobody to tell");
    assert!(!std::thread::spawn(move || kept.emit("late")).join().unwrap());
    let error = told("elsewhere", &mut on_event).unwrap_err();
    assert!(error.message.contains("on another thread"), "{error}");
    assert_eq!(text, "here againhere again");
    let mut rows = Vec::new();
    let mut on_row = |position: usize, row: &[f32]| {
        rows.push((position, row.to_vec()));
        ControlFlow::Continue(())
    };
    let error = model.logits(&[1], 4, &mut on_row, &CancelToken::never()).unwrap_err();
    assert!(error.message.contains("on another thread"), "{error}");
    assert_eq!(rows, [(4, vec![1.0, 2.0])]);
}

#[test]
fn a_panic_of_the_hosts_own_goes_on_in_the_host() {
    let model = rude::model();
    let request = GenerateRequest::new(Prompt::text("here"));
    let mut calls = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        model.generate_stream(&request, &CancelToken::never(), &mut |_| {
            calls += 1;
            panic!("no wool left")
        })
    }));
    assert_eq!(super::super::guard::message(panicked.unwrap_err().as_ref()), "no wool left");
    assert_eq!(calls, 1, "it is not called again");
}
