//! `parrot`: the smallest complete backend. Copy the folder, rename it, put an engine in.

use pajamas_plugin_api::*;

struct Parrot;
impl Backend for Parrot {
    fn is_available(&self) -> Availability {
        // Without the hardware or its driver: `Availability::Unavailable { reason, remedy }`.
        let (name, class) = ("parrot".into(), DeviceClass::Software);
        Availability::Available { devices: vec![Device { name, class, memory_total_bytes: 0, memory_free_bytes: 0 }] }
    }
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("cpu", &["gguf"]);
        capabilities.sampling.clear(); // it honours none of the sampling fields
        capabilities.options = vec![OptionSpec::new("shout", OptionKind::Bool, "false", "Answer in capitals.")];
        capabilities
    }
    fn load_model(&self, request: &LoadRequest, progress: &Progress, cancel: &CancelToken) -> Result<Box<dyn Model>> {
        cancel.check()?;
        std::fs::metadata(&request.path).map_err(|error| Error::io("opening", &request.path, &error))?;
        progress.report("loading", 1.0, "");
        Ok(Box::new(Bird(request.bool("shout").unwrap_or(false))))
    }
}

/// Whether it shouts.
struct Bird(bool);

impl Model for Bird {
    fn info(&self) -> ModelInfo {
        ModelInfo { architecture: "parrot".into(), context_length: 4096, vocabulary_size: 256, ..ModelInfo::default() }
    }
    fn generate(&self, request: &GenerateRequest, sink: &mut TokenSink<'_>) -> Result<()> {
        let Prompt::Text { segments, .. } = &request.prompt else {
            return Err(Error::unsupported("a parrot hears text only"));
        };
        let prompt: Vec<u8> = segments.iter().flat_map(|segment| segment.text.bytes()).collect();
        if prompt.len() >= 4096 {
            return Err(Error::new(ErrorKind::ContextOverflow, "the prompt does not fit the context"));
        }
        sink.prompt_started(prompt.len() as u32, 0);
        for byte in prompt {
            let byte = if self.0 { byte.to_ascii_uppercase() } else { byte };
            let token = Token { id: u32::from(byte), bytes: vec![byte], ..Token::default() };
            if sink.token(token).is_break() {
                break; // the answer is complete, or nobody wants it any more
            }
        }
        Ok(())
    }
}

export_plugin! {
    name: "parrot",
    formats: "gguf",
    backend: || Box::new(Parrot),
}
