//! `misbehaving`: a plugin that fails as its mode says, so that tests can see the host survive it. The default
//! mode, `well`, is a backend that behaves.
//!
//! `mode` reads the mode, `fault` does what can go wrong anywhere, `load` runs when the library is loaded; what is here
//! fails in ways of its own.

// The faults are Unix's, and so are the tests.
#![cfg(unix)]

mod fault;
mod load;
mod mode;

use mode::{Mode, Stage};
use pajamas_plugin_api::{
    Availability, Backend, CancelToken, Capabilities, Device, DeviceClass, Error, ErrorKind, GenerateRequest,
    LoadRequest, LogLevel, Model, ModelInfo, Progress, Result, Token, TokenSink, export_plugin, host,
};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Tokens that a model takes.
const CONTEXT: u32 = 8;

/// Values in a row of logits.
const VOCABULARY: u32 = 2;

/// As many as the model has that pajamas checks backends with: what is wrong in mode `wrong-logits` are the values alone.
const CHECKED_VOCABULARY: u32 = 1280;

struct Misbehaving;

impl Backend for Misbehaving {
    fn is_available(&self) -> Availability {
        let mode = Mode::now();
        fault::commit(&mode, Stage::Probe);
        while mode.is("chatter") {
            host().log(LogLevel::Trace, "misbehaving", "baa");
        }
        match mode.name() {
            "print" => println!("a plugin's chatter on stdout"),
            "slow-at-probe" => std::thread::sleep(Duration::from_millis(300)),
            "unavailable" => return Availability::no("no sheep", "buy a sheep"),
            // 20 MiB, and a frame holds 16.
            "huge-answer" => return Availability::no("baa ".repeat(5 << 20), "buy a sheep"),
            _ => (),
        }
        let class = match mode.name() {
            "well-cpu" => DeviceClass::Cpu,
            "well-gpu" => DeviceClass::DiscreteGpu,
            _ => DeviceClass::Npu,
        };
        Availability::on([Device::new("loom", class)])
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("loom", &["gguf"]);
        capabilities.logits = true;
        // Another answer each time.
        if Mode::now().is("fickle") {
            static ASKED: AtomicUsize = AtomicUsize::new(0);
            capabilities.score = i32::try_from(ASKED.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
        }
        capabilities
    }

    fn load_model(&self, _: &LoadRequest, _: &Progress, _: &CancelToken) -> Result<Box<dyn Model>> {
        let mode = Mode::now();
        fault::commit(&mode, Stage::Model);
        if mode.is("hoarder") {
            // Touched, or it would take no memory.
            std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
        }
        match mode.name() {
            "oom-at-model" => Err(Error::new(ErrorKind::OutOfMemory, "no room for the loom")),
            "unsupported-at-model" => Err(Error::unsupported("the loom does not weave this")),
            _ => Ok(Box::new(Loom)),
        }
    }
}

struct Loom;

impl Model for Loom {
    fn info(&self) -> ModelInfo {
        let (context_length, vocabulary_size) = match Mode::now().is("wrong-logits") {
            true => (4096, CHECKED_VOCABULARY),
            false => (CONTEXT, VOCABULARY),
        };
        ModelInfo { context_length, vocabulary_size, ..ModelInfo::default() }
    }

    fn generate(&self, _: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        let mode = Mode::now();
        sink.prompt_started(1, 0);
        fault::commit(&mode, Stage::Generate);
        match mode.name() {
            "slow-generate" => bleat_slowly(sink),
            "fickle" => {
                static ANSWERS: AtomicUsize = AtomicUsize::new(0);
                let id = ANSWERS.fetch_add(1, Ordering::Relaxed) % 2;
                let _ = sink.token(Token::new(u32::try_from(id).unwrap_or(0), *b"baa "));
            }
            "other-thread" => bleat_on_another_thread(sink),
            name => {
                bleat(sink, name == "panic-midway");
                if name == "late-callback" {
                    call_back_later(sink.cancel_token().clone());
                }
            }
        }
        Ok(())
    }

    fn logits(
        &self,
        tokens: &[u32],
        first_row: usize,
        rows: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
        cancel: &CancelToken,
    ) -> Result<()> {
        let ModelInfo { context_length, vocabulary_size, .. } = self.info();
        if tokens.len() > context_length as usize {
            return Err(Error::context_overflow("a text", tokens.len(), context_length));
        }
        let is_wrong = Mode::now().is("wrong-logits");
        for (position, token) in tokens.iter().enumerate().skip(first_row) {
            cancel.check()?;
            let likeliest = (token + 1) % vocabulary_size;
            let value = |id| match is_wrong {
                // Whatever was read.
                true => id as f32,
                false if id == likeliest => 2.0,
                false => -1.0,
            };
            let row: Vec<f32> = (0..vocabulary_size).map(value).collect();
            if rows(position, &row).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Loom {
    fn drop(&mut self) {
        assert!(!Mode::now().is("panic-drop"), "the loom fell");
    }
}

/// Two tokens, with half a character in each.
fn bleat(sink: &mut TokenSink<'_>, panic_midway: bool) {
    let _ = sink.token(Token::new(0, &"baa 😀".as_bytes()[..6]));
    assert!(!panic_midway, "the thread broke");
    let _ = sink.token(Token::new(1, &"😀".as_bytes()[2..]));
}

/// A token every 50 ms, for 10 s or until told to stop.
fn bleat_slowly(sink: &mut TokenSink<'_>) {
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(50));
        if sink.token(Token::new(0, *b"baa ")).is_break() {
            break;
        }
    }
}

/// As engines do that call back from a thread of their own.
fn bleat_on_another_thread(sink: &mut TokenSink<'_>) {
    struct Lent<'a, 'b>(&'a mut TokenSink<'b>);
    // SAFETY: a sink belongs to one thread at a time, and the lender waits; the host's callback takes any thread.
    unsafe impl Send for Lent<'_, '_> {}
    impl Lent<'_, '_> {
        /// A method, so that the closure captures the whole wrapper.
        fn bleat(self) {
            bleat(self.0, false);
        }
    }
    let lent = Lent(sink);
    std::thread::scope(|scope| {
        scope.spawn(move || lent.bleat());
    });
}

/// Asks the host after the call that `cancel` belongs to, as an engine's thread that was not joined would.
fn call_back_later(cancel: CancelToken) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        let cancelled = cancel.is_cancelled();
        host().log(LogLevel::Info, "misbehaving", &format!("a late baa, cancelled: {cancelled}"));
    });
}

export_plugin! {
    name: "misbehaving",
    formats: "gguf",
    backend: || {
        fault::commit(&Mode::now(), Stage::Constructor);
        Box::new(Misbehaving)
    },
}
