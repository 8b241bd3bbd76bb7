//! What host and worker say to each other: MessagePack messages in frames of a length (4 bytes, little-endian) and
//! that many bytes. The worker's stdin carries [`Request`]s, a private copy of its stdout carries [`Reply`]s.

use crate::plugins::file::PluginFile;
use pajamas_plugin_api::abi::wire;
use pajamas_plugin_api::conformance::{Outcome, Subject};
use pajamas_plugin_api::{
    Availability, Capabilities, Error, Event, GenerateRequest, GenerateStats, LoadRequest, MemoryUsage, ModelInfo,
    ProgressUpdate, QuantizeJob, QuantizeReport, Recipe,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Both ends must be of the same version: they are installed together.
pub const PROTOCOL_VERSION: u32 = 4;

/// Bytes that a message may have at the most.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the host asks: `Hello`, then one of `Probe`, `Quantize`, `Forecast`, `Check` and `Load`; `Cancel` stops that. Once a
/// model is loaded, any number of calls follow, also several at once. The end of the stream means: clean up and go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First of all: who is there.
    Hello {
        /// [`PROTOCOL_VERSION`] of the host.
        protocol: u32,
        /// Where the plugins may cache.
        cache_dir: PathBuf,
        /// How many threads they may compute with.
        thread_budget: u32,
    },
    /// Load the plugin and ask it.
    Probe {
        /// The plugin's files, as they were when they were judged.
        plugin: PluginFile,
    },
    /// Load the plugin and let it quantize.
    Quantize {
        /// The plugin's files, as they were when they were judged.
        plugin: PluginFile,
        /// What to do. When it ends badly, the worker removes `job.output` and `job.scratch_dir`.
        job: QuantizeJob,
    },
    /// Load the plugin and ask how much memory a model would take.
    Forecast {
        /// The plugin's files, as they were when they were judged.
        plugin: PluginFile,
        /// The model and how it would be loaded.
        request: LoadRequest,
    },
    /// Check the plugin against one rule of the conformance kit.
    Check {
        /// The plugin's files, as they were when they were judged.
        plugin: PluginFile,
        /// The rule's number.
        rule: u16,
        /// What is checked, and with what.
        subject: Box<Subject>,
    },
    /// Load the plugin and, with it, a model; then serve the calls below.
    Load {
        /// The plugin's files, as they were when they were judged.
        plugin: PluginFile,
        /// The model and how to load it.
        request: LoadRequest,
    },
    /// A call of the loaded model.
    Call {
        /// What its answers and all that is said of it carry; not that of another call.
        id: u64,
        /// How many events or rows may be on their way before the host has taken any.
        window: u32,
        /// The call.
        call: Call,
    },
    /// The host has taken so many events or rows of a call; as many more may come.
    More {
        /// The call's.
        id: u64,
        /// How many.
        count: u32,
    },
    /// Stop that call; the model stays loaded.
    CancelCall {
        /// The call's.
        id: u64,
    },
    /// Stop the work. A quantizer cleans up and the worker ends.
    Cancel,
}

/// A call of a loaded model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Let the model generate.
    Generate {
        /// What.
        request: Box<GenerateRequest>,
        /// Whether to send each event. Measuring wants none: the pipe takes time.
        events: bool,
    },
    /// As [`Model::tokenize`](pajamas_plugin_api::Model::tokenize).
    Tokenize {
        /// The text.
        text: String,
        /// Whether to add BOS.
        add_special: bool,
        /// Whether to read control tokens.
        parse_special: bool,
    },
    /// As [`Model::detokenize`](pajamas_plugin_api::Model::detokenize).
    Detokenize {
        /// The ids.
        tokens: Vec<u32>,
    },
    /// As [`Model::logits`](pajamas_plugin_api::Model::logits).
    Logits {
        /// The ids.
        tokens: Vec<u32>,
        /// Rows before this position are not sent.
        first_row: usize,
    },
    /// How much memory the model and the process hold.
    MemoryUsage,
}

/// What the worker answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`.
    Ready {
        /// [`PROTOCOL_VERSION`] of the worker.
        protocol: u32,
    },
    /// To `Probe`.
    Probed(ProbeReport),
    /// While it works.
    Progress(ProgressUpdate),
    /// A line of a plugin's log.
    Log {
        /// The number of a [`LogLevel`](pajamas_plugin_api::LogLevel).
        level: u8,
        /// Who wrote it.
        target: String,
        /// What.
        message: String,
    },
    /// To `Quantize`.
    Quantized(QuantizeReport),
    /// To `Load`.
    Loaded(Box<ModelInfo>),
    /// To `Forecast`.
    Forecast(MemoryUsage),
    /// To `Check`.
    Checked(Outcome),
    /// To any of the above: it failed.
    Failed(Error),
    /// To `Call`.
    Answer {
        /// The call's.
        id: u64,
        /// The answer, or a part of it.
        answer: Answer,
    },
}

/// What a call of a loaded model is answered with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// While it generates.
    Event(Event),
    /// To `Generate`.
    Generated(GenerateStats),
    /// To `Tokenize`.
    Tokens(Vec<u32>),
    /// To `Detokenize`.
    Text(#[serde(with = "serde_bytes")] Vec<u8>),
    /// While it computes logits: one row, as little-endian f32.
    Row(usize, #[serde(with = "serde_bytes")] Vec<u8>),
    /// To `Logits`: there are no more rows.
    RowsEnd,
    /// To `MemoryUsage`.
    Memory {
        /// What the backend says.
        usage: MemoryUsage,
        /// The most memory that the worker has held so far, in bytes; 0 if unknown.
        peak_bytes: u64,
    },
    /// To any call: it failed, and this ends it.
    Failed(Error),
}

/// What a plugin answered when asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Whether it can run here.
    pub availability: Availability,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What its quantizer makes.
    pub recipes: Vec<Recipe>,
    /// How long `is_available` took, in milliseconds.
    pub elapsed_ms: f64,
}

/// Writes one message.
///
/// # Errors
/// When the other end is gone, or the message is too long.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let bytes = wire::encode(message);
    if bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path in it is not UTF-8"));
    }
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
    }
    to.write_all(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one message; none at the end of the stream.
///
/// # Errors
/// When the stream ends inside a message, or it is too long or cannot be read.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    loop {
        match from.read(&mut length) {
            Ok(0) => return Ok(None),
            Ok(read) => break from.read_exact(&mut length[read..])?,
            // A signal that another part of the program handles.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    wire::decode(&bytes, "a message").map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_pass_and_the_end_is_none() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Request::Cancel).unwrap();
        write(&mut bytes, &Request::CancelCall { id: 7 }).unwrap();
        let mut from = bytes.as_slice();
        assert!(matches!(read(&mut from).unwrap(), Some(Request::Cancel)));
        assert!(matches!(read(&mut from).unwrap(), Some(Request::CancelCall { id: 7 })));
        assert!(read::<Request>(&mut from).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_an_error_and_allocates_nothing_large() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], &[1, 0], &[4, 0, 0, 0, 1], &[1, 0, 0, 0, 0xc1]] {
            assert!(read::<Request>(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
