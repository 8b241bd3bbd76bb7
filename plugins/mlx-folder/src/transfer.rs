//! Streams tensor data from the checkpoint to the files, piece by piece, on all threads: each piece is read,
//! converted and written at its place, so that the order of the work changes nothing and memory stays small.

use crate::affine::{Affine, Quantized};
use crate::float_type::FloatType;
use crate::layout::Layout;
use crate::plan::{Plan, Step};
use crate::positioned::write_all_at;
use pajamas_plugin_api::{CancelToken, Error, Progress, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Elements of a piece: at most 1 MiB of the source. A whole number of groups of any size.
const PIECE_ELEMENTS: u64 = 1 << 18;
/// How long the caller's thread waits for a piece before it asks whether the work is still wanted.
const PATIENCE: Duration = Duration::from_millis(25);

/// What is moved, and where to.
pub(crate) struct Transfer<'a> {
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) layout: &'a Layout,
    /// A folder that exists and is empty.
    pub(crate) dir: &'a Path,
    pub(crate) threads: usize,
    /// What it is called in the progress.
    pub(crate) stage: &'a str,
}

/// A file that is being written.
struct Output {
    path: PathBuf,
    file: File,
}

/// Some consecutive elements of a step's tensor.
struct Piece {
    step: usize,
    start: u64,
    elements: u64,
}

/// What a worker keeps from piece to piece.
#[derive(Default)]
struct Buffers {
    source: Vec<u8>,
    quantized: Quantized,
    values: Vec<f32>,
    encoded: Vec<u8>,
}

impl Transfer<'_> {
    /// Writes every file. Blocks; the caller's thread reports and polls `cancel`, others do the work.
    ///
    /// # Errors
    /// `InvalidModel` for weights that cannot be quantized, `Io`, `Cancelled`.
    pub(crate) fn run(&self, progress: &Progress, cancel: &CancelToken) -> Result<()> {
        let outputs = self.create()?;
        let pieces = self.pieces();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let threads = self.threads.clamp(1, pieces.len().max(1));
        std::thread::scope(|scope| {
            // Bounded, so that workers wait for a caller that cannot keep up with their reports.
            let (sender, done) = mpsc::sync_channel(threads * 4);
            for _ in 0..threads {
                let sender = sender.clone();
                let (outputs, pieces, next, stop) = (&outputs, &pieces, &next, &stop);
                scope.spawn(move || {
                    let mut buffers = Buffers::default();
                    while !stop.load(Ordering::Relaxed)
                        && let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let outcome = self.convert(piece, outputs, &mut buffers).map(|()| piece);
                        if sender.send(outcome).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let outcome = self.supervise(&done, progress, cancel);
            stop.store(true, Ordering::Relaxed);
            outcome
        })
    }

    /// Reports what is done until all is, the first piece fails, or the work is no longer wanted.
    fn supervise(
        &self,
        done: &mpsc::Receiver<Result<&Piece>>,
        progress: &Progress,
        cancel: &CancelToken,
    ) -> Result<()> {
        let total: u64 = self.plan.steps.iter().map(|step| step.source.elements()).sum();
        let mut moved = 0;
        loop {
            cancel.check()?;
            match done.recv_timeout(PATIENCE) {
                Ok(piece) => {
                    let piece = piece?;
                    moved += piece.elements;
                    let name = self.plan.steps[piece.step].source.name();
                    progress.report(self.stage, (moved as f64 / total.max(1) as f64) as f32, name);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Creates the files with their headers, at their final lengths.
    fn create(&self) -> Result<Vec<Output>> {
        let create = |path: &Path, head: &[u8], size_bytes: u64| {
            let file = File::options().write(true).create_new(true).open(path)?;
            file.set_len(size_bytes)?;
            write_all_at(&file, head, 0)?;
            Ok(file)
        };
        let outputs = self.layout.files.iter().map(|shard| {
            let path = self.dir.join(&shard.name);
            match create(&path, &shard.head, shard.size_bytes) {
                Ok(file) => Ok(Output { path, file }),
                Err(error) => Err(cannot_write(&path, &error)),
            }
        });
        outputs.collect()
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (step, planned) in self.plan.steps.iter().enumerate() {
            let all = planned.source.elements();
            let mut start = 0;
            while start < all {
                let elements = PIECE_ELEMENTS.min(all - start);
                pieces.push(Piece { step, start, elements });
                start += elements;
            }
        }
        pieces
    }

    /// Reads, converts and writes a piece.
    fn convert(&self, piece: &Piece, outputs: &[Output], buffers: &mut Buffers) -> Result<()> {
        let step = &self.plan.steps[piece.step];
        let size = step.from.size_bytes() as u64;
        buffers.source.resize((piece.elements * size) as usize, 0);
        step.source.read_into(piece.start * size, &mut buffers.source)?;
        // `index` counts the step's outputs, `start` its bytes before this piece.
        let write = |index: usize, start: u64, bytes: &[u8]| {
            let place = self.layout.places[step.output + index];
            let output = &outputs[place.file];
            write_all_at(&output.file, bytes, place.offset + start).map_err(|error| cannot_write(&output.path, &error))
        };
        match step.affine {
            Some(affine) => {
                let out = &mut buffers.quantized;
                affine.quantize(&buffers.source, step.from, step.to, out).map_err(|error| {
                    not_finite(step, piece.start + error.group as u64 * u64::from(affine.group_size()))
                })?;
                let (packed, scales) = starts(affine, step.to, piece.start);
                write(0, packed, &out.weight)?;
                write(1, scales, &out.scales)?;
                write(2, scales, &out.biases)
            }
            None if step.from == step.to => write(0, piece.start * size, &buffers.source),
            None => {
                buffers.values.resize(piece.elements as usize, 0.0);
                step.from.decode(&buffers.source, &mut buffers.values);
                if let Some(index) = step.to.first_overflow(&buffers.values) {
                    return Err(not_finite(step, piece.start + index as u64));
                }
                buffers.encoded.clear();
                step.to.encode(&buffers.values, &mut buffers.encoded);
                write(0, piece.start * step.to.size_bytes() as u64, &buffers.encoded)
            }
        }
    }
}

/// Bytes of numbers, and of scales or biases, before the element `start`, the first one of a group.
fn starts(affine: Affine, to: FloatType, start: u64) -> (u64, u64) {
    let packed = start / 8 * u64::from(affine.bits());
    (packed, start / u64::from(affine.group_size()) * to.size_bytes() as u64)
}

/// The error for a weight, at or after the element `index`, that is not finite as what it is to become.
fn not_finite(step: &Step, index: u64) -> Error {
    let columns = step.source.shape().last().copied().unwrap_or(1).max(1);
    let error = Error::invalid_model(format!(
        "tensor `{}` in `{}` holds a value, in row {} from column {} on, that is not finite as {}",
        step.source.name(),
        step.source.file().display(),
        index / columns,
        index % columns,
        step.to.word()
    ));
    let hint = if step.to.holds(step.from) {
        "the file is damaged, or the model was broken in training; fetch it again"
    } else {
        "the value may be too large for this type: choose another dtype, such as bfloat16"
    };
    error.with_hint(hint)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::io("writing", path, error).with_hint("see whether the disk is full: df -h")
}
