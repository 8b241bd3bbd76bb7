//! What a plugin says of itself.

use super::{Finding, ensure, open};
use crate::conformance::Subject;
use crate::{Availability, Capabilities, DeviceClass, OptionSpec, options};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const QUICK: Duration = Duration::from_millis(100);
/// Bits that a weight can have.
const BITS: std::ops::RangeInclusive<f32> = 0.5..=64.0;

/// Variables that hide devices, by the libraries that read them.
const HIDING: [(&str, &str); 7] = [
    ("CUDA_VISIBLE_DEVICES", ""),
    ("HIP_VISIBLE_DEVICES", ""),
    ("ROCR_VISIBLE_DEVICES", ""),
    ("GGML_VK_VISIBLE_DEVICES", ""),
    ("VK_DRIVER_FILES", "/nonexistent"),
    ("VK_ICD_FILENAMES", "/nonexistent"),
    ("VK_LOADER_DRIVERS_DISABLE", "*"),
];

/// Hardware, as capabilities name it, that these variables hide.
const HIDDEN: [&str; 4] = ["cuda", "hip", "rocm", "vulkan"];

pub(crate) fn probe_is_quick(subject: &Subject) -> Finding {
    let plugin = open(subject)?;
    let mut times = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        answers.push(std::mem::discriminant(&plugin.is_available()?));
        times.push(started.elapsed());
    }
    let shown: Vec<String> = times.iter().map(|time| format!("{:.1}", time.as_secs_f64() * 1e3)).collect();
    let shown = format!("{} ms", shown.join(", "));
    // A host asks once, in a fresh process, so the first call is what it waits for.
    ensure!(times[0] <= QUICK, "it took {shown}");
    ensure!(answers.windows(2).all(|pair| pair[0] == pair[1]), "it gave different answers, one after the other");
    Ok(shown)
}

pub(crate) fn honest_without_devices(subject: &Subject) -> Finding {
    for (name, value) in HIDING {
        // SAFETY: this process was started for this check, and nothing else in it reads the environment yet.
        unsafe { std::env::set_var(name, value) };
    }
    let plugin = open(subject)?;
    let is_hidden = HIDDEN.contains(&plugin.capabilities()?.hardware.as_str());
    match plugin.is_available()? {
        Availability::Unavailable { reason, remedy } => {
            ensure!(!reason.trim().is_empty(), "it is unavailable and does not say why");
            ensure!(!remedy.trim().is_empty(), "it is unavailable (\"{reason}\") and does not say what to do");
            Ok(format!("unavailable: {reason}"))
        }
        Availability::Available { devices } => {
            ensure!(!devices.is_empty(), "it is available, and on no device");
            for device in &devices {
                let name = &device.name;
                ensure!(!name.trim().is_empty(), "a device has no name");
                let is_gpu = device.class == DeviceClass::DiscreteGpu;
                ensure!(!(is_gpu && is_hidden), "`{name}` is there although every GPU is hidden");
                ensure!(
                    device.memory_free_bytes <= device.memory_total_bytes,
                    "`{name}` has more free memory than memory"
                );
            }
            Ok(format!("available on {}", devices[0].name))
        }
        Availability::QuantizeOnly => Ok("it needs no device".into()),
        Availability::Unknown => Ok(String::new()),
    }
}

pub(crate) fn capabilities_are_constant(subject: &Subject) -> Finding {
    let plugin = open(subject)?;
    let (can, recipes) = (plugin.capabilities()?, plugin.recipes()?);
    let asked = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (plugin.capabilities(), plugin.recipes()))).collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    for answer in asked {
        let same = matches!(&answer, Some((Ok(a), Ok(b))) if *a == can && *b == recipes);
        ensure!(same, "another thread got another answer");
    }
    let only_quantizes = plugin.is_available()? == Availability::QuantizeOnly;
    ensure!(only_quantizes || !can.formats.is_empty(), "it loads no format");
    ensure!(!only_quantizes || !recipes.is_empty(), "it runs nothing and makes nothing");
    for format in &can.formats {
        let is_plain = format.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
        ensure!(!format.is_empty() && is_plain, "the format `{format}` is not in lower case");
    }
    complete_options(&can, &can.options)?;
    let mut names = BTreeSet::new();
    for recipe in &recipes {
        let name = &recipe.name;
        ensure!(names.insert(name.to_ascii_lowercase()), "there are two recipes `{name}`");
        ensure!(!recipe.format.is_empty() && !recipe.sources.is_empty(), "`{name}` makes nothing, or of nothing");
        ensure!(!recipe.description.trim().is_empty(), "`{name}` does not say what it is good for");
        ensure!(BITS.contains(&recipe.bits_per_weight), "`{name}` has {} bits per weight", recipe.bits_per_weight);
        complete_options(&can, &recipe.options)?;
    }
    Ok(format!("{} options, {} recipes", can.options.len(), recipes.len()))
}

fn complete_options(can: &Capabilities, specs: &[OptionSpec]) -> Result<(), super::Obstacle> {
    let mut names = BTreeSet::new();
    for spec in specs {
        let name = &spec.name;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            !name.is_empty() && name.chars().all(is_plain),
            "the option `{name}` is not in lower case with underscores"
        );
        ensure!(names.insert(name), "there are two options `{name}` ({})", can.hardware);
        ensure!(!spec.help.trim().is_empty(), "the option `{name}` has no help");
        // An empty default is one that the engine finds for itself.
        let default = options::parse(specs, name, &spec.default);
        ensure!(spec.default.is_empty() || default.is_ok(), "`{}` is no value of `{name}`", spec.default);
    }
    Ok(())
}
