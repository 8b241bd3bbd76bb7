//! How much of a model fits on the GPUs: all of it where it does, else as many of its layers as do.

use super::devices::Gpu;
use super::forecast::{Rehearsal, rehearse};
use super::memory::{gib, logged_bytes};
use super::options::Settings;
use super::source::Source;
use pajamas_plugin_api::{Error, ErrorKind, LogLevel, Result, host};

/// What is left free on each GPU: for its driver, the libraries' own buffers, and the screen.
const RESERVE_BYTES: u64 = 384 << 20;

/// Bytes of a model's tensors, by where llama.cpp puts them.
#[derive(Debug, Default, PartialEq)]
pub(super) struct LayerSizes {
    /// Of each repeating layer.
    pub(super) blocks: Vec<u64>,
    /// What comes after the last of them.
    pub(super) output: u64,
}

impl LayerSizes {
    /// From the names and sizes of all tensors. The token embeddings stay in the machine's memory, but for a model that
    /// uses them as its output, too.
    pub(super) fn new<'a>(tensors: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let (mut sizes, mut embeddings, mut has_output) = (Self::default(), 0, false);
        for (name, bytes) in tensors {
            let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            match block {
                // No model has more, whatever its file says.
                Some(index) if index < 4096 => {
                    if sizes.blocks.len() <= index {
                        sizes.blocks.resize(index + 1, 0);
                    }
                    sizes.blocks[index] += bytes;
                }
                _ if name.starts_with("token_embd") => embeddings += bytes,
                _ => {
                    has_output |= name == "output.weight";
                    sizes.output += bytes;
                }
            }
        }
        if !has_output {
            sizes.output += embeddings;
        }
        sizes
    }

    /// Layers, the output among them.
    fn count(&self) -> usize {
        self.blocks.len() + 1
    }

    /// Bytes of the last `layers` of them.
    fn last(&self, layers: usize) -> u64 {
        match layers.checked_sub(1) {
            None => 0,
            Some(repeating) => self.output + self.blocks.iter().rev().take(repeating).sum::<u64>(),
        }
    }
}

/// What a model takes on the GPUs, by how many of its layers are there.
struct Need {
    sizes: LayerSizes,
    /// Of all layers.
    kv_bytes: u64,
    compute_bytes: u64,
}

impl Need {
    fn new(sizes: LayerSizes, rehearsal: &Rehearsal) -> Self {
        let kv_bytes = rehearsal.usage.kv_cache_bytes;
        Self { sizes, kv_bytes, compute_bytes: rehearsal.gpu_compute_bytes }
    }

    fn bytes(&self, layers: usize) -> u64 {
        let repeating = layers.saturating_sub(1) as u64;
        let all = self.sizes.blocks.len().max(1) as u64;
        self.sizes.last(layers) + self.kv_bytes / all * repeating + if layers == 0 { 0 } else { self.compute_bytes }
    }

    /// The most layers that take no more than `room` bytes.
    fn fitting(&self, room: u64) -> usize {
        (1..=self.sizes.count()).rev().find(|&layers| self.bytes(layers) <= room).unwrap_or(0)
    }
}

/// Decides how many layers of `source` go to the GPUs, where the settings leave it open, and says aloud when not all do.
///
/// # Errors
/// `OutOfMemory`, with what is short, where the layers asked for do not fit, or not even the output does; those of
/// [`rehearse`].
pub(super) fn place(source: &Source, settings: &mut Settings) -> Result<()> {
    if settings.gpus.is_empty() || settings.gpu_layers == 0 {
        return Ok(());
    }
    let free: Vec<u64> = used(settings).iter().map(|gpu| gpu.memory().0).collect();
    if free.contains(&0) {
        // Nobody knows; llama.cpp will find out.
        return Ok(());
    }
    let room = |free: &u64| settings.gpu_memory.unwrap_or(u64::MAX).min(free.saturating_sub(RESERVE_BYTES));
    let rooms: Vec<u64> = free.iter().map(room).collect();
    if settings.gpu_memory.is_some() && settings.tensor_split.is_empty() && rooms.len() > 1 {
        // llama.cpp would share by what is free.
        settings.tensor_split = rooms.iter().map(|&room| room as f32).collect();
    }
    let room: u64 = rooms.iter().sum();
    let rehearsal = rehearse(source, settings)?;
    let sizes = source.layer_sizes()?;
    if sizes.blocks.len() != rehearsal.layers {
        // A model of parts that are not used in every run.
        return Ok(());
    }
    let need = Need::new(sizes, &rehearsal);
    let all = need.sizes.count();
    let asked = usize::try_from(settings.gpu_layers).unwrap_or(all).min(all);
    let fitting = need.fitting(room);
    let shortfall = || {
        format!(
            "{asked} of {all} layers take {} on {}, and {} can be had there: {} are missing",
            size(need.bytes(asked)),
            names(used(settings)),
            size(room),
            size(need.bytes(asked).saturating_sub(room))
        )
    };
    if asked <= fitting {
        return Ok(());
    }
    if settings.gpu_layers > 0 {
        let hint =
            if fitting == 0 { "a smaller --context-length".into() } else { format!("--set n_gpu_layers={fitting}") };
        return Err(Error::new(ErrorKind::OutOfMemory, shortfall()).with_hint(hint));
    }
    if fitting == 0 {
        let message = format!("not even the model's output fits: {}", shortfall());
        return Err(Error::new(ErrorKind::OutOfMemory, message)
            .with_hint("a smaller --context-length, or a smaller model: pajamas quantize MODEL"));
    }
    host().log(
        LogLevel::Warn,
        "pajamas_gguf",
        &format!("{}; {fitting} are kept there, the others on the CPU", shortfall()),
    );
    settings.gpu_layers = i32::try_from(fitting).unwrap_or(-1);
    Ok(())
}

/// Takes layers off the GPUs after `error`, which ran out of memory there, and says so; false where none is left to take,
/// or the number was the user's.
pub(super) fn retreat(settings: &mut Settings, asked: i32, layers: usize, error: &Error) -> bool {
    let gpus: Vec<String> = used(settings).iter().map(|gpu| gpu.name()).collect();
    if asked >= 0 || !ran_out_on(&gpus, error) {
        return false;
    }
    let all = layers + 1;
    let now = usize::try_from(settings.gpu_layers).unwrap_or(all).min(all);
    let Some(next) = fewer(now, all) else { return false };
    let message = format!("memory ran out with {now} of {all} layers on {}; trying {next}", names(used(settings)));
    host().log(LogLevel::Warn, "pajamas_gguf", &message);
    settings.gpu_layers = i32::try_from(next).unwrap_or(-1);
    true
}

/// `error`, with the GPUs in place of the machine's memory where it is theirs that ran out.
pub(super) fn where_it_ran_out(settings: &Settings, error: Error) -> Error {
    let gpus: Vec<String> = used(settings).iter().map(|gpu| gpu.name()).collect();
    if !ran_out_on(&gpus, &error) {
        return error;
    }
    let mut named = Error::new(ErrorKind::OutOfMemory, format!("memory ran out on {}", names(used(settings))))
        .with_hint("--context-length with a smaller number, fewer layers by --set n_gpu_layers=N, or -b gguf-cpu");
    named.causes = error.causes;
    named
}

/// Whether `error` is of memory that ran out on one of `gpus`, as llama.cpp's log calls them, and not in the machine.
fn ran_out_on(gpus: &[String], error: &Error) -> bool {
    let names_one = |cause: &String| {
        let of_a_driver = ["cudaMalloc failed", "Device memory allocation"].iter().any(|sign| cause.contains(sign));
        of_a_driver || gpus.iter().any(|gpu| cause.split(|c: char| !c.is_alphanumeric()).any(|word| word == gpu))
    };
    error.kind == ErrorKind::OutOfMemory && error.causes.iter().any(names_one)
}

/// How many layers to try after `now` of `all` were too many; none when that would be none.
fn fewer(now: usize, all: usize) -> Option<usize> {
    now.checked_sub((all / 8).max(1)).filter(|&next| next > 0)
}

/// Bytes of compute buffers on `gpus`, from what llama.cpp logged.
pub(super) fn compute_bytes(gpus: &[Gpu], lines: &[(LogLevel, String)]) -> u64 {
    let labels: Vec<String> = gpus.iter().map(|gpu| format!("{} compute buffer size = ", gpu.name())).collect();
    logged_bytes(lines, &labels.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The GPUs that take layers.
fn used(settings: &Settings) -> &[Gpu] {
    let main = usize::try_from(settings.main_gpu).unwrap_or(0);
    if !settings.gpus.is_empty() && settings.split_mode == llama_cpp_sys_2::LLAMA_SPLIT_MODE_NONE {
        &settings.gpus[main..=main]
    } else {
        &settings.gpus
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 30 { format!("{} MiB", bytes.div_ceil(1 << 20)) } else { gib(bytes) }
}

fn names(gpus: &[Gpu]) -> String {
    gpus.iter().map(|gpu| gpu.description()).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::MemoryUsage;

    const TENSORS: [(&str, u64); 7] = [
        ("token_embd.weight", 100),
        ("blk.0.attn_q.weight", 10),
        ("blk.0.ffn_up.weight", 20),
        ("blk.1.attn_q.weight", 11),
        ("blk.2.attn_q.weight", 12),
        ("output_norm.weight", 1),
        ("output.weight", 50),
    ];

    #[test]
    fn tensors_belong_to_layers_and_tied_embeddings_to_the_output_too() {
        let sizes = LayerSizes::new(TENSORS.into_iter());
        assert_eq!(sizes, LayerSizes { blocks: vec![30, 11, 12], output: 51 });
        assert_eq!((0..5).map(|layers| sizes.last(layers)).collect::<Vec<_>>(), [0, 51, 63, 74, 104]);
        assert_eq!(LayerSizes::new(TENSORS[..6].iter().copied()).output, 101);
        assert!(LayerSizes::new([("blk.4294967295.x", 1)].into_iter()).blocks.is_empty());
    }

    #[test]
    fn layers_are_taken_off_for_a_gpus_shortage_and_not_the_machines() {
        let gpus = ["CUDA0".to_owned()];
        let error = |kind, cause: &str| {
            let mut error = Error::new(kind, "it does not fit");
            error.causes = vec![cause.to_owned()];
            error
        };
        for cause in
            ["unable to allocate CUDA0 buffer", "allocating 12 MiB on device 0: cudaMalloc failed: out of memory"]
        {
            assert!(ran_out_on(&gpus, &error(ErrorKind::OutOfMemory, cause)), "{cause}");
        }
        for cause in ["unable to allocate CPU buffer", "unable to allocate CUDA01 buffer", ""] {
            assert!(!ran_out_on(&gpus, &error(ErrorKind::OutOfMemory, cause)), "{cause}");
        }
        assert!(!ran_out_on(&gpus, &error(ErrorKind::InvalidModel, "CUDA0")));
        assert_eq!(
            std::iter::successors(Some(25), |&now| fewer(now, 25)).collect::<Vec<_>>(),
            [25, 22, 19, 16, 13, 10, 7, 4, 1]
        );
        assert_eq!((fewer(1, 5), fewer(2, 5)), (None, Some(1)));
    }

    #[test]
    fn as_many_layers_fit_as_there_is_room_for_with_their_cache() {
        let mut usage = MemoryUsage::default();
        usage.kv_cache_bytes = 30;
        let rehearsal = Rehearsal { usage, layers: 3, gpu_compute_bytes: 5 };
        let need = Need::new(LayerSizes::new(TENSORS.into_iter()), &rehearsal);
        assert_eq!((0..5).map(|layers| need.bytes(layers)).collect::<Vec<_>>(), [0, 56, 78, 99, 139]);
        for (room, layers) in [(0, 0), (55, 0), (56, 1), (98, 2), (99, 3), (138, 3), (139, 4), (u64::MAX, 4)] {
            assert_eq!(need.fitting(room), layers, "{room}");
        }
    }
}
