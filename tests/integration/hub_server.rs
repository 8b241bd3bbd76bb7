//! A server that behaves like Hugging Face's hub, in good and in bad: large files lie on another host, to which the hub
//! redirects. It counts what it sends.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit that `main` and `v1` are.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The model.
pub const ID: &str = "acme/tiny";

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Answers to give first: a status, and headers.
    pub first: Vec<(u16, &'static str)>,
    /// Bodies of large files end after so many bytes, the connection with them.
    pub cut_after: Option<u64>,
    /// Ranges are not known.
    pub no_ranges: bool,
    /// Large files have their first byte changed.
    pub wrong: bool,
    /// Small files have their first byte changed.
    pub wrong_small: bool,
    /// Large files come in pieces of 64 KiB, with this between them.
    pub slow: Option<Duration>,
    /// The token without which everything is refused.
    pub token: Option<&'static str>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Mutex<Faults>,
    requests: AtomicU64,
    large_bytes: AtomicU64,
    leaked: AtomicU64,
    storage: Mutex<String>,
}

/// The server; it lives until the tests end.
#[derive(Clone)]
pub struct Hub {
    state: Arc<State>,
    /// For HF_ENDPOINT.
    pub endpoint: String,
}

impl Hub {
    /// One that has the model [`ID`] with these files.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state = Arc::new(State { files, ..State::default() });
        let storage = serve(Arc::clone(&state), answer_storage);
        *state.storage.lock().unwrap() = format!("http://localhost:{storage}");
        let port = serve(Arc::clone(&state), answer_hub);
        Self { state, endpoint: format!("http://127.0.0.1:{port}") }
    }

    pub fn set(&self, faults: Faults) {
        *self.state.faults.lock().unwrap() = faults;
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Bytes of large files sent since the last call.
    pub fn take_large_bytes(&self) -> u64 {
        self.state.large_bytes.swap(0, Ordering::SeqCst)
    }

    /// Requests to the other host that carried a token.
    pub fn leaked(&self) -> u64 {
        self.state.leaked.load(Ordering::SeqCst)
    }
}

struct Request {
    path: String,
    headers: BTreeMap<String, String>,
}

fn serve(state: Arc<State>, answer: fn(&State, &Request, &mut TcpStream) -> std::io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                if let Some(request) = read(&stream) {
                    state.requests.fetch_add(1, Ordering::SeqCst);
                    let _ = answer(&state, &request, &mut stream);
                }
            });
        }
    });
    port
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Some(Request { path, headers })
}

fn head(stream: &mut TcpStream, status: u16, headers: &str, length: usize) -> std::io::Result<()> {
    let text = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(text.as_bytes())
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What git names a file by.
fn git_sum(bytes: &[u8]) -> String {
    let text = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    sha1::Sha1::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

fn answer_hub(state: &State, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let faults = state.faults.lock().unwrap().clone();
    if !faults.first.is_empty() {
        let (status, headers) = state.faults.lock().unwrap().first.remove(0);
        return head(stream, status, headers, 0);
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let authorization = request.headers.get("authorization").cloned().unwrap_or_default();
    if faults.token.is_some_and(|token| authorization != format!("Bearer {token}")) {
        return head(stream, 401, "x-error-code: GatedRepo\r\n", 0);
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
        if !["main", "v1", COMMIT].contains(&revision) {
            return head(stream, 404, "x-error-code: RevisionNotFound\r\n", 0);
        }
        let siblings = state.files.iter().map(|(name, bytes)| {
            let lfs = serde_json::json!({"sha256": sum(bytes), "size": bytes.len(), "pointerSize": 134});
            let mut file = serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": git_sum(bytes)});
            if is_large(name) {
                file["lfs"] = lfs;
            }
            file
        });
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()}).to_string();
        head(stream, 200, "content-type: application/json\r\n", body.len())?;
        return stream.write_all(body.as_bytes());
    }
    let file = path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/"));
    match file.and_then(|name| Some((name, state.files.get(name)?))) {
        Some((name, _)) if is_large(name) => {
            let location = format!("location: {}/{name}\r\n", state.storage.lock().unwrap());
            head(stream, 302, &location, 0)
        }
        Some((_, bytes)) => {
            let mut bytes = bytes.clone();
            bytes[0] ^= u8::from(faults.wrong_small);
            head(stream, 200, "", bytes.len())?;
            stream.write_all(&bytes)
        }
        None => head(stream, 404, "x-error-code: RepoNotFound\r\n", 0),
    }
}

fn answer_storage(state: &State, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
    let faults = state.faults.lock().unwrap().clone();
    if request.headers.contains_key("authorization") {
        state.leaked.fetch_add(1, Ordering::SeqCst);
    }
    if request.headers.get("accept-encoding").map(String::as_str) != Some("identity") {
        // A real one might compress now.
        return head(stream, 400, "", 0);
    }
    let mut bytes = state.files[request.path.trim_start_matches('/')].clone();
    if faults.wrong {
        bytes[0] ^= 1;
    }
    let range = request.headers.get("range").filter(|_| !faults.no_ranges);
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let number = |text: &str| text.parse::<usize>().ok();
    let from = range.map_or(0, |(from, _)| number(from).unwrap_or(0));
    let end = range.and_then(|(_, last)| number(last)).map_or(bytes.len(), |last| bytes.len().min(last + 1));
    let rest = &bytes[from..end];
    if range.is_some() {
        let range = format!("content-range: bytes {from}-{}/{}\r\n", end - 1, bytes.len());
        head(stream, 206, &range, rest.len())?;
    } else {
        head(stream, 200, "", rest.len())?;
    }
    let end = faults.cut_after.map_or(rest.len(), |cut| rest.len().min(cut as usize));
    for piece in rest[..end].chunks(64 << 10) {
        stream.write_all(piece)?;
        state.large_bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
        if let Some(pause) = faults.slow {
            std::thread::sleep(pause);
        }
    }
    Ok(())
}
