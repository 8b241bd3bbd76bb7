//! Writes a GGUF file: the header, then tensors from all threads at once, each piece read, encoded and put into its place
//! by one thread. What is held in memory is a piece for each thread.

use crate::blocks;
use crate::gguf_file::{Header, Metadata, TensorSpec};
use crate::rows::Rows;
use pajamas_plugin_api::{CancelToken, Error, ErrorKind, Progress, Result};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Elements of a piece, unless more belong together.
const PIECE_ELEMENTS: u64 = 256 << 10;

/// A tensor of the file: its rows, and the type that they get.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub(crate) spec: TensorSpec,
    pub(crate) rows: &'a Rows<'a>,
    /// Weights of the columns, for each matrix of the tensor its own.
    pub(crate) importance: Option<&'a [f32]>,
}

/// Writes the file `output` with `metadata` and `targets`; gives its size. The file is replaced if it exists, and left
/// behind unfinished on failure. `stage` names the work in progress reports; `cancel` is polled for each piece.
///
/// # Errors
/// `Cancelled`; `Io` with the file's name; `InvalidModel` for weights that are no numbers.
pub(crate) fn write(
    output: &Path,
    metadata: &Metadata,
    targets: &[Target<'_>],
    threads: u32,
    stage: &str,
    progress: &Progress,
    cancel: &CancelToken,
) -> Result<u64> {
    let specs: Vec<TensorSpec> = targets.iter().map(|target| target.spec.clone()).collect();
    let header = Header::new(metadata, &specs)?;
    let failed = |error: &std::io::Error| Error::io("writing", output, error);
    let file = File::create(output).map_err(|error| Error::io("creating", output, &error))?;
    write_all_at(&file, &header.bytes, 0).map_err(|error| failed(&error))?;
    // What no tensor covers, up to the end, are zeroes.
    file.set_len(header.file_bytes).map_err(|error| failed(&error))?;

    let pieces: Vec<(usize, Range<u64>)> = targets
        .iter()
        .enumerate()
        .flat_map(|(tensor, target)| pieces(target.rows, PIECE_ELEMENTS).map(move |rows| (tensor, rows)))
        .collect();
    let total: u64 = targets.iter().map(|target| target.rows.source_bytes()).sum();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = |done: mpsc::SyncSender<Result<(usize, u64)>>| {
        while !stop.load(Ordering::Relaxed) {
            let Some((tensor, rows)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let target = &targets[*tensor];
            let put = || {
                cancel.check()?;
                let bytes = make(target, rows.clone())?;
                let offset = header.tensors[*tensor].offset + rows.start * target.row_bytes();
                write_all_at(&file, &bytes, offset).map_err(|error| failed(&error))?;
                Ok((*tensor, (rows.end - rows.start) * target.rows.source_bytes() / target.rows.count().max(1)))
            };
            let result = put();
            let failed = result.is_err();
            if done.send(result).is_err() || failed {
                break;
            }
        }
    };
    let outcome = std::thread::scope(|scope| {
        // A slow reader of reports must not make the writers' queue grow.
        let (sender, results) = mpsc::sync_channel(64);
        for _ in 0..threads.clamp(1, 512) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let mut written = 0;
        for result in results {
            match result {
                Ok((tensor, bytes)) => {
                    written += bytes;
                    let fraction = written as f64 / total.max(1) as f64;
                    progress.report(stage, fraction as f32, &targets[tensor].spec.name);
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(())
    });
    outcome?;
    file.sync_all().map_err(|error| failed(&error))?;
    Ok(header.file_bytes)
}

impl Target<'_> {
    /// Bytes of a row in the file.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.spec.ggml_type.tensor_bytes(&[self.rows.width()]).unwrap_or(0)
    }
}

/// The ranges of rows that are made at once, about `elements` elements each.
fn pieces(rows: &Rows<'_>, elements: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (count, step) = (rows.count(), piece_rows(rows, elements));
    (0..count.div_ceil(step)).map(move |index| index * step..((index + 1) * step).min(count))
}

/// Rows of a piece of about `elements` elements.
pub(crate) fn piece_rows(rows: &Rows<'_>, elements: u64) -> u64 {
    let granule = rows.granule();
    (elements / (rows.width() * granule).max(1)).max(1) * granule
}

/// Makes some rows of a tensor as they stand in the file.
///
/// # Errors
/// As [`write`].
pub(crate) fn make(target: &Target<'_>, rows: Range<u64>) -> Result<Vec<u8>> {
    let (from, to) = (target.rows.element_type(), target.spec.ggml_type);
    let bytes = target.rows.read(rows.clone())?;
    if !blocks::all_finite(from, &bytes) {
        return Err(Error::invalid_model(format!(
            "the tensor that becomes `{}` holds values that are not finite numbers",
            target.spec.name
        ))
        .with_hint("the checkpoint is damaged; fetch it again"));
    }
    if from == to {
        return Ok(bytes);
    }
    let named = |error: Error| {
        let message = format!("`{}` cannot be stored as {}: {}", target.spec.name, to.name, error.message);
        Error { message, ..error }
    };
    let values = blocks::decode(from, &bytes).map_err(named)?;
    drop(bytes);
    let width = target.rows.width();
    let Some(importance) = target.importance else {
        return blocks::encode(to, &values, width, None).map_err(named);
    };
    // Each matrix has weights of its own, so no call may reach from one into the next.
    let matrix_rows = target.spec.shape.get(1).copied().unwrap_or(1).max(1);
    let mut out = Vec::with_capacity(((rows.end - rows.start) * target.row_bytes()) as usize);
    let mut row = rows.start;
    while row < rows.end {
        let end = ((row / matrix_rows + 1) * matrix_rows).min(rows.end);
        let matrix = (row / matrix_rows * width) as usize;
        let weights = importance.get(matrix..matrix + width as usize).ok_or_else(|| {
            Error::new(ErrorKind::InvalidRequest, format!("too few weights for `{}`", target.spec.name))
        })?;
        let part = ((row - rows.start) * width) as usize..((end - rows.start) * width) as usize;
        out.extend(blocks::encode(to, &values[part], width, Some(weights)).map_err(named)?);
        row = end;
    }
    Ok(out)
}

/// Writes all of `bytes` from `offset` on.
#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Writes all of `bytes` from `offset` on.
#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}
