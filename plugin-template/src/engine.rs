//! The engine, to be replaced by yours: an n-gram model over bytes, how it is made, and its file.
//!
//! The last few tokens, the context, choose a row of log-probabilities, one for each token that may follow. A file holds
//! `n-gram 1`; bits, number of rows, bytes of provenance (u32 each); the provenance, as lines `key=value`; the contexts
//! (u64, ascending); the rows. A row is 257 f32 in 32 bits; in 8, an f32 and how many times it is each value (u8).
//! Numbers are little-endian.

use pajamas_plugin_api::{CancelToken, Error, Progress, Result};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Tokens are the 256 bytes and one more.
pub const VOCABULARY: usize = 257;
/// The token that ends a text and begins the next. It has no bytes, so nobody can type it.
pub const END: u32 = 256;
/// The token to come and its context are this many tokens at the most.
pub const ORDER_MAX: usize = 5;

const HEADER_BYTES: usize = 20;
const ROWS_MAX: usize = 1 << 16;
const PROVENANCE_BYTES_MAX: usize = 1 << 16;
const TEXT_BYTES_MAX: usize = 4 << 20;
/// How strongly the row of the next shorter context pulls, in tokens seen.
const SMOOTHING: f32 = 2.0;

/// The weights of a model. Nothing in them changes while it is loaded, so threads need no lock.
pub struct Weights {
    /// 8 or 32.
    pub bits: u32,
    /// Where they came from, as the host says it.
    pub provenance: BTreeMap<String, String>,
    contexts: Vec<u64>,
    rows: Vec<u8>,
}

impl Weights {
    /// Bytes of the rows.
    pub fn size_bytes(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Log-probabilities of what follows `tokens`, from the longest context of less than `order` tokens that is known.
    pub fn row(&self, tokens: &[u32], order: usize) -> Vec<f32> {
        let find = |length: usize| self.contexts.binary_search(&pack(&tokens[tokens.len() - length..])).ok();
        let index = (0..order.min(tokens.len() + 1)).rev().find_map(find).unwrap_or(0);
        decode(&self.rows[index * row_bytes(self.bits)..][..row_bytes(self.bits)])
    }

    /// Counts the model of a text, in 32 bits.
    pub fn count(path: &Path, progress: &Progress, cancel: &CancelToken) -> Result<Self> {
        let tokens = read_text(path)?;
        // Says how far the work is and asks whether to go on, now and then.
        let step = |stage: &str, done: usize, total: usize| {
            if done.is_multiple_of(4096) {
                progress.report(stage, done as f32 / total as f32, "");
                cancel.check()?;
            }
            Ok(())
        };
        let contexts = commonest_contexts(&tokens, &step)?;
        let mut values = vec![0.0_f32; contexts.len() * VOCABULARY];
        for (end, token) in tokens.iter().enumerate() {
            step("counting", end, tokens.len())?;
            for row in contexts_before(&tokens[..end]).filter_map(|context| contexts.binary_search(&context).ok()) {
                values[row * VOCABULARY + *token as usize] += 1.0;
            }
        }
        let mut rows = Vec::with_capacity(contexts.len() * row_bytes(32));
        for (index, context) in contexts.iter().enumerate() {
            step("smoothing", index, contexts.len())?;
            // A shorter context is a smaller number, so its row is done.
            let (done, row) = values.split_at_mut(index * VOCABULARY);
            let shorter = contexts[..index].binary_search(&(context / BASE)).map(|index| &done[index * VOCABULARY..]);
            let total = row[..VOCABULARY].iter().sum::<f32>() + SMOOTHING;
            for (token, value) in row[..VOCABULARY].iter_mut().enumerate() {
                let expected = shorter.map_or(1.0 / VOCABULARY as f32, |shorter| shorter[token]);
                *value = (*value + SMOOTHING * expected) / total;
                rows.extend(value.ln().to_le_bytes());
            }
        }
        Ok(Self { bits: 32, provenance: BTreeMap::new(), contexts, rows })
    }

    /// Makes 8 bits of 32.
    pub fn quantize(&mut self) {
        self.rows = self.rows.chunks(row_bytes(self.bits)).flat_map(|row| encode_8_bits(&decode(row))).collect();
        self.bits = 8;
    }

    /// Writes the file and says how many bytes it has.
    pub fn write(&self, path: &Path) -> Result<u64> {
        let provenance: String = self.provenance.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let mut bytes = b"n-gram 1".to_vec();
        for number in [self.bits, self.contexts.len() as u32, provenance.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(provenance.bytes());
        bytes.extend(self.contexts.iter().flat_map(|context| context.to_le_bytes()));
        bytes.extend(&self.rows);
        std::fs::write(path, &bytes).map_err(|error| Error::io("writing", path, &error))?;
        Ok(bytes.len() as u64)
    }

    /// Reads a file that anybody may have made: nothing in it is believed before it is checked.
    pub fn read(path: &Path, cancel: &CancelToken) -> Result<Self> {
        let file = read(path, HEADER_BYTES + PROVENANCE_BYTES_MAX + ROWS_MAX * (8 + row_bytes(32)))?;
        let check = |good: bool, expected: &str, found: &str| {
            let message = format!("`{}`: expected {expected}, found {found}", path.display());
            let error = Error::invalid_model(message).with_hint("make it again: `pajamas quantize`");
            if good { Ok(()) } else { Err(error) }
        };
        let magic = String::from_utf8_lossy(&file[..file.len().min(8)]);
        check(magic == "n-gram 1", "a file that begins with `n-gram 1`", &format!("`{magic}`"))?;
        check(file.len() >= HEADER_BYTES, "a header of 20 bytes", &format!("{} bytes", file.len()))?;
        let number = |at: usize| u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
        let (bits, rows, provenance) = (number(8), number(12) as usize, number(16) as usize);
        check(bits == 8 || bits == 32, "8 or 32 bits", &bits.to_string())?;
        check((1..=ROWS_MAX).contains(&rows), "1 to 65536 rows", &rows.to_string())?;
        check(provenance <= PROVENANCE_BYTES_MAX, "65536 bytes of provenance at the most", &provenance.to_string())?;
        let length = HEADER_BYTES + provenance + rows * (8 + row_bytes(bits));
        check(file.len() == length, &format!("{length} bytes"), &file.len().to_string())?;

        let (provenance, rest) = file[HEADER_BYTES..].split_at(provenance);
        let (contexts, rows) = rest.split_at(rows * 8);
        let contexts: Vec<u64> = contexts.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let ascending = contexts[0] == 0 && contexts.is_sorted_by(|a, b| a < b);
        check(ascending, "ascending contexts, the empty one first", "others")?;
        for row in rows.chunks(row_bytes(bits)) {
            cancel.check()?;
            let wrong = decode(row).into_iter().find(|value| !(-1e3..=0.0).contains(value));
            check(wrong.is_none(), "log-probabilities", &wrong.unwrap_or_default().to_string())?;
        }
        let provenance = String::from_utf8_lossy(provenance);
        let pairs = provenance.lines().filter_map(|line| line.split_once('='));
        let provenance = pairs.map(|(key, value)| (key.into(), value.into())).collect();
        Ok(Self { bits, provenance, contexts, rows: rows.into() })
    }
}

/// The tokens of a text file. Blank lines part it into texts with a beginning and an end.
fn read_text(path: &Path) -> Result<Vec<u32>> {
    let wrong = |found: &str| Error::invalid_model(format!("`{}`: expected UTF-8 text, found {found}", path.display()));
    let bytes = read(path, TEXT_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong("other bytes").with_cause(&error))?;
    let mut tokens = vec![END];
    for part in text.split("\n\n").map(str::trim).filter(|part| !part.is_empty()) {
        tokens.extend(part.bytes().map(u32::from));
        tokens.push(END);
    }
    if tokens.len() > 1 { Ok(tokens) } else { Err(wrong("nothing but blanks")) }
}

/// The contexts that `tokens` have most often, ascending.
fn commonest_contexts(tokens: &[u32], step: &dyn Fn(&str, usize, usize) -> Result<()>) -> Result<Vec<u64>> {
    let mut seen: HashMap<u64, u32> = HashMap::new();
    for end in 0..tokens.len() {
        step("reading", end, tokens.len())?;
        contexts_before(&tokens[..end]).for_each(|context| *seen.entry(context).or_default() += 1);
    }
    let mut commonest: Vec<(u64, u32)> = seen.into_iter().collect();
    // What a context ends with is seen no less often and is a smaller number: it stays if the context does.
    commonest.sort_unstable_by_key(|(context, times)| (Reverse(*times), *context));
    commonest.truncate(ROWS_MAX);
    let mut contexts: Vec<u64> = commonest.into_iter().map(|(context, _)| context).collect();
    contexts.sort_unstable();
    Ok(contexts)
}

/// The contexts at the end of `tokens`, from the empty one to the longest.
fn contexts_before(tokens: &[u32]) -> impl Iterator<Item = u64> {
    (0..ORDER_MAX.min(tokens.len() + 1)).map(|length| pack(&tokens[tokens.len() - length..]))
}

const BASE: u64 = VOCABULARY as u64 + 1;

/// A context as one number, its oldest token in the lowest place: dividing by `BASE` leaves that one out.
fn pack(context: &[u32]) -> u64 {
    context.iter().rev().fold(0, |number, token| number * BASE + u64::from(*token) + 1)
}

/// The bytes of a file that has no more than `bytes_max`.
fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path).map_err(|error| Error::io("opening", path, &error))?.len();
    if length > bytes_max as u64 {
        let message = format!("`{}`: expected {bytes_max} bytes at the most, found {length}", path.display());
        return Err(Error::invalid_model(message));
    }
    std::fs::read(path).map_err(|error| Error::io("reading", path, &error))
}

fn row_bytes(bits: u32) -> usize {
    if bits == 8 { 4 + VOCABULARY } else { 4 * VOCABULARY }
}

fn encode_8_bits(row: &[f32]) -> Vec<u8> {
    let unit = row.iter().copied().fold(0.0, f32::min) / 255.0;
    let counts = row.iter().map(|value| (value / unit).round() as u8);
    unit.to_le_bytes().into_iter().chain(counts).collect()
}

fn decode(row: &[u8]) -> Vec<f32> {
    let floats = row.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    if row.len() == row_bytes(32) {
        return floats.collect();
    }
    let unit = f32::from_le_bytes([row[0], row[1], row[2], row[3]]);
    row[4..].iter().map(|count| f32::from(*count) * unit).collect()
}
