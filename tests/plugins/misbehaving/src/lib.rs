//! `misbehaving`: a plugin that fails as `MISBEHAVE` says, so that tests can see the host survive it.

use pajamas_plugin_api::{
    Availability, Backend, CancelToken, Capabilities, Device, DeviceClass, GenerateRequest, LoadRequest, Model,
    ModelInfo, Progress, Result, Token, TokenSink, export_plugin,
};
use std::time::Duration;

struct Misbehaving;

fn mode(name: &str) -> bool {
    std::env::var("MISBEHAVE").is_ok_and(|value| value == name)
}

impl Backend for Misbehaving {
    fn is_available(&self) -> Availability {
        if mode("abort") {
            eprintln!("about to abort");
            std::process::abort();
        }
        if mode("hang") {
            std::thread::sleep(Duration::from_secs(600));
        }
        while mode("chatter") {
            pajamas_plugin_api::host().log(pajamas_plugin_api::LogLevel::Trace, "misbehaving", "baa");
        }
        if mode("exit") {
            std::process::exit(0);
        }
        if mode("print") {
            println!("a plugin's chatter on stdout");
        }
        assert!(!mode("panic"), "no wool");
        if mode("unavailable") {
            return Availability::no("no sheep", "buy a sheep");
        }
        let device = Device::new("loom", DeviceClass::Npu);
        Availability::on([device])
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("loom", &["gguf"])
    }

    fn load_model(&self, _: &LoadRequest, _: &Progress, _: &CancelToken) -> Result<Box<dyn Model>> {
        assert!(!mode("panic-load"), "no loom");
        Ok(Box::new(Loom))
    }
}

struct Loom;

impl Model for Loom {
    fn info(&self) -> ModelInfo {
        ModelInfo { context_length: 8, vocabulary_size: 2, ..ModelInfo::default() }
    }

    fn generate(&self, _: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        sink.prompt_started(1, 0);
        if mode("abort-generate") {
            eprintln!("the thread snapped");
            std::process::abort();
        }
        assert!(!mode("panic-generate"), "no thread");
        let _ = sink.token(Token::new(0, &"baa 😀".as_bytes()[..6]));
        assert!(!mode("panic-midway"), "the thread broke");
        let _ = sink.token(Token::new(1, &"😀".as_bytes()[2..]));
        Ok(())
    }
}

impl Drop for Loom {
    fn drop(&mut self) {
        assert!(!mode("panic-drop"), "the loom fell");
    }
}

export_plugin! {
    name: "misbehaving",
    formats: "gguf",
    backend: || Box::new(Misbehaving),
}
