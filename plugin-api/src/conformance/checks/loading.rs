//! Loading models, good and bad.

use super::{Finding, Obstacle, answer, counting, ensure, greedy, load, request, with_model};
use crate::conformance::Subject;
use crate::{CancelToken, Error, ErrorKind, OptionKind, OptionValue};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long what is cancelled may take.
const PROMPTLY: Duration = Duration::from_secs(2);
/// The largest model that is copied to be damaged.
const SIZE_MAX: u64 = 64 << 20;

pub(crate) fn unknown_options_refused(subject: &Subject) -> Finding {
    let (plugin, model) = with_model(subject)?;
    let mut wrong = vec![("no_such_option".to_owned(), OptionValue::Bool(true))];
    for spec in plugin.capabilities()?.options {
        let other = match &spec.kind {
            OptionKind::Bool => OptionValue::Text("perhaps".into()),
            OptionKind::Int { max, .. } if *max < i64::MAX => OptionValue::Int(max + 1),
            OptionKind::Float { max, .. } if *max < f64::MAX / 4.0 => OptionValue::Float(max + max.abs().max(1.0)),
            OptionKind::Choice { .. } => OptionValue::Text("no such word".into()),
            _ => OptionValue::Bool(true),
        };
        wrong.push((spec.name, other));
    }
    for (name, value) in &wrong {
        let mut request = request(model, subject);
        request.options.set(name, value.clone());
        let started = Instant::now();
        let Err(error) = plugin.load_model(&request, &|_| (), &CancelToken::never()) else {
            return Err(Obstacle::Failed(format!("`{name}` = `{value}` was taken")));
        };
        let message = error.to_string();
        ensure!(error.kind == ErrorKind::InvalidRequest, "`{name}` = `{value}` is {:?}: {message}", error.kind);
        ensure!(message.contains(name.as_str()), "the error does not name `{name}`: {message}");
        ensure!(started.elapsed() < PROMPTLY, "the model was loaded before `{name}` was looked at");
    }
    Ok(format!("{} wrong values", wrong.len()))
}

pub(crate) fn loading_can_be_cancelled(subject: &Subject) -> Finding {
    let (plugin, path) = with_model(subject)?;
    let (never, asked) = counting(usize::MAX);
    load(&plugin, path, subject)?;
    plugin.load_model(&request(path, subject), &|_| (), &never)?;
    let polls = asked.load(Ordering::Relaxed);
    ensure!(polls > 0, "it never asks whether it is cancelled");
    // Before it begins, half-way, and at the last question.
    for allowed in [0, polls / 2, polls - 1] {
        let started = Instant::now();
        match plugin.load_model(&request(path, subject), &|_| (), &counting(allowed).0) {
            Ok(_) => {
                return Err(Obstacle::Failed(format!(
                    "it was cancelled at question {} of {polls}, and loaded",
                    allowed + 1
                )));
            }
            Err(error) => ensure!(error.kind == ErrorKind::Cancelled, "it ended as {:?}: {error}", error.kind),
        }
        let took = started.elapsed();
        ensure!(took < PROMPTLY, "it took {:.1} s", took.as_secs_f64());
    }
    let model = load(&plugin, path, subject)?;
    answer(&model, &greedy(super::TEXT, 2))?;
    Ok(format!("asks {polls} times"))
}

pub(crate) fn survives_bad_models(subject: &Subject) -> Finding {
    let (plugin, model) = with_model(subject)?;
    load(&plugin, model, subject)?;
    let name = match model.extension() {
        Some(extension) => format!("bad.{}", extension.to_string_lossy()),
        None => "bad".into(),
    };
    // One file for all of them, in a folder that whoever checks removes.
    let path = subject.cache_dir.join(name);
    let mut tried = 0;
    let mut refuse = |bytes: Option<&[u8]>, what: &str, may_load: bool| -> Result<(), Obstacle> {
        tried += 1;
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).map_err(|error| Error::io("writing", &path, &error))?;
        }
        match plugin.load_model(&request(&path, subject), &|_| (), &CancelToken::never()) {
            Ok(_) if !may_load => return Err(Obstacle::Failed(format!("{what} was loaded"))),
            // Damage that loads must not crash the answer.
            Ok(model) => {
                if let Err(error) = answer(&model, &greedy(super::TEXT, 2)) {
                    ensure!(error.kind != ErrorKind::Panic, "{what}: {error}");
                }
            }
            Err(error) => sound(&error, &path, what)?,
        }
        Ok(())
    };
    refuse(None, "a model that is not there", false)?;
    for (what, bytes) in [("an empty file", &b""[..]), ("a text", b"I am no model.\n"), ("zeroes", &[0; 4096])] {
        refuse(Some(bytes), what, false)?;
    }
    let size = std::fs::metadata(model).map_or(0, |metadata| metadata.len());
    if model.is_file() && size <= SIZE_MAX {
        let whole = std::fs::read(model).map_err(|error| Error::io("reading", model, &error))?;
        refuse(Some(&whole[..whole.len() / 2]), "half a model", false)?;
        // In the first bytes lie the counts and lengths that a reader believes.
        for at in [0, 8, 16, 24, 64, 200, 700, 2000, 4000].into_iter().filter(|at| at + 8 <= whole.len()) {
            let mut damaged = whole.clone();
            damaged[at..at + 8].fill(0xff);
            // Some bytes matter to nobody.
            refuse(Some(&damaged), &format!("a model damaged at byte {at}"), true)?;
        }
    }
    let model = load(&plugin, model, subject)?;
    answer(&model, &greedy(super::TEXT, 2))?;
    Ok(format!("{tried} bad models"))
}

/// Whether `error` is one that a user can do something with.
fn sound(error: &Error, path: &Path, what: &str) -> Result<(), Obstacle> {
    ensure!(error.kind != ErrorKind::Panic, "{what}: {error}");
    ensure!(error.kind != ErrorKind::Cancelled, "{what} ended as cancelled: {error}");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ensure!(error.to_string().contains(&*name), "{what}: the error does not name the file: {error}");
    Ok(())
}
