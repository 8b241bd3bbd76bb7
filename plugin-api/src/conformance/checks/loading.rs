//! Loading models, good and bad.

use super::{Finding, Obstacle, answer, ensure, greedy, load, request, with_model};
use crate::abi::client::Plugin;
use crate::conformance::Subject;
use crate::{CancelToken, Error, ErrorKind, OptionKind, OptionValue};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long what is cancelled may take.
const PROMPTLY: Duration = Duration::from_secs(2);

pub(crate) fn unknown_options_refused(subject: &Subject) -> Finding {
    let (plugin, model) = with_model(subject)?;
    let mut wrong = vec![("no_such_option".to_owned(), OptionValue::Bool(true))];
    for spec in plugin.capabilities()?.options {
        let other = match &spec.kind {
            OptionKind::Bool => OptionValue::Text("perhaps".into()),
            OptionKind::Int { max, .. } if *max < i64::MAX => OptionValue::Int(max + 1),
            OptionKind::Float { max, .. } if *max < f64::MAX => OptionValue::Float(max * 2.0 + 1.0),
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
    let (plugin, model) = with_model(subject)?;
    let started = Instant::now();
    match plugin.load_model(&request(model, subject), &|_| (), &CancelToken::new(|| true)) {
        Ok(_) => return Err(Obstacle::Failed("it was cancelled before it began, and the model loaded".into())),
        Err(error) => ensure!(error.kind == ErrorKind::Cancelled, "it ended as {:?}: {error}", error.kind),
    }
    let took = started.elapsed();
    ensure!(took < PROMPTLY, "it took {:.1} s", took.as_secs_f64());
    let model = load(&plugin, model, subject)?;
    answer(&model, &greedy(super::TEXT, 2))?;
    Ok(format!("{:.0} ms", took.as_secs_f64() * 1e3))
}

pub(crate) fn survives_bad_models(subject: &Subject) -> Finding {
    let (plugin, model) = with_model(subject)?;
    let folder = Folder::new(subject)?;
    let extension = model.extension().map(|extension| extension.to_string_lossy().into_owned());
    let place = |name: &str| match &extension {
        Some(extension) => folder.0.join(format!("{name}.{extension}")),
        None => folder.0.join(name),
    };
    let mut tried = 0;
    let mut refuse = |path: &Path, what: &str| -> Result<(), Obstacle> {
        tried += 1;
        match attempt(&plugin, path, subject) {
            Ok(()) => Err(Obstacle::Failed(format!("{what} was loaded"))),
            Err(error) => sound(&error, path, what),
        }
    };
    refuse(&place("missing"), "a model that is not there")?;
    for (name, bytes) in [("empty", &b""[..]), ("text", b"I am no model.\n"), ("zeroes", &[0; 4096])] {
        let path = place(name);
        write(&path, bytes)?;
        refuse(&path, name)?;
    }
    if model.is_file() {
        let whole = std::fs::read(model).map_err(|error| Error::io("reading", model, &error))?;
        let cut = place("half");
        write(&cut, &whole[..whole.len() / 2])?;
        refuse(&cut, "half a model")?;
        // In the first bytes lie the counts and lengths that a reader believes.
        for at in [0, 8, 16, 24, 64, 200, 700, 2000, 4000].into_iter().filter(|at| at + 8 <= whole.len()) {
            let mut damaged = whole.clone();
            damaged[at..at + 8].fill(0xff);
            let path = place(&format!("damaged-at-{at}"));
            write(&path, &damaged)?;
            tried += 1;
            // Some bytes matter to nobody.
            if let Err(error) = attempt(&plugin, &path, subject) {
                sound(&error, &path, &format!("a model damaged at byte {at}"))?;
            }
        }
    }
    let model = load(&plugin, model, subject)?;
    answer(&model, &greedy(super::TEXT, 2))?;
    Ok(format!("{tried} bad models"))
}

fn attempt(plugin: &Plugin, path: &Path, subject: &Subject) -> crate::Result<()> {
    let model = load(plugin, path, subject)?;
    answer(&model, &greedy(super::TEXT, 2)).map(|_| ())
}

/// Whether `error` is one that a user can do something with.
fn sound(error: &Error, path: &Path, what: &str) -> Result<(), Obstacle> {
    ensure!(error.kind != ErrorKind::Panic, "{what}: {error}");
    ensure!(error.kind != ErrorKind::Cancelled, "{what} ended as cancelled: {error}");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ensure!(error.to_string().contains(&*name), "{what}: the error does not name the file: {error}");
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> crate::Result<()> {
    std::fs::write(path, bytes).map_err(|error| Error::io("writing", path, &error))
}

/// A folder of this process's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(subject: &Subject) -> crate::Result<Self> {
        let path = subject.cache_dir.join(format!("conformance-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::io("creating", &path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder of the temporary folder that stays is no finding.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
