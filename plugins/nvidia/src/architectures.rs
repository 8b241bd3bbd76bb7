//! For which GPUs a program's kernels were compiled, from the list that cmake was given.

/// What was compiled, as cmake's `CMAKE_CUDA_ARCHITECTURES` names it: `75-real;80;90a-virtual`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Architectures(Vec<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// 75 for compute capability 7.5.
    capability: u32,
    /// For GPUs of this generation, from this capability on.
    binary: bool,
    /// As an intermediate form, which the driver compiles for any GPU of this capability or a later one.
    intermediate: bool,
    /// For GPUs of exactly this capability (`90a`).
    exact: bool,
    /// For GPUs of this generation, from this capability on (`100f`).
    family: bool,
}

impl Architectures {
    /// Reads a list; what cannot be read is left out.
    pub fn parse(list: &str) -> Self {
        Self(list.split([';', ',', ' ']).filter_map(Entry::parse).collect())
    }

    /// Whether there is code for a GPU of compute capability `major.minor`.
    pub fn run_on(&self, major: u32, minor: u32) -> bool {
        let capability = major * 10 + minor;
        self.0.iter().any(|entry| {
            if entry.exact {
                return entry.capability == capability;
            }
            let same_generation = entry.capability / 10 == major;
            let later = entry.intermediate && !entry.family;
            entry.capability <= capability && (later || ((entry.binary || entry.family) && same_generation))
        })
    }

    /// As a sentence names them: `compute capability 7.5, 8.x from 8.0 on, 9.0 and later`.
    pub fn describe(&self) -> String {
        let name = |entry: &Entry| {
            let (major, minor) = (entry.capability / 10, entry.capability % 10);
            match (entry.exact, entry.intermediate && !entry.family) {
                (true, _) => format!("{major}.{minor}"),
                (false, true) => format!("{major}.{minor} and later"),
                (false, false) if minor == 0 => format!("{major}.x"),
                (false, false) => format!("{major}.x from {major}.{minor} on"),
            }
        };
        self.0.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let (number, form) = text.trim().split_once('-').unwrap_or((text.trim(), ""));
        let digits = number.trim_end_matches(['a', 'f']);
        let capability = digits.parse().ok()?;
        let family = number.ends_with('f');
        // llama.cpp makes 12Xa, for that GPU alone, of a 12X without a letter (ggml-cuda/CMakeLists.txt).
        let exact = number.ends_with('a') || (digits == number && capability / 10 == 12);
        Some(Self { capability, binary: form != "virtual", intermediate: form != "real", exact, family })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_run_within_a_generation_and_intermediate_forms_from_theirs_on() {
        let built = Architectures::parse("75-real;80-real;86-real;90-virtual;120a-real");
        for (gpu, expected) in [
            ((6, 1), false),
            ((7, 0), false),
            ((7, 5), true),
            ((8, 0), true),
            ((8, 7), true),
            ((8, 9), true),
            ((9, 0), true),
            ((10, 0), true),
            ((12, 0), true),
        ] {
            assert_eq!(built.run_on(gpu.0, gpu.1), expected, "{gpu:?}");
        }
        let one = Architectures::parse("90-real");
        assert!(one.run_on(9, 0) && !one.run_on(8, 9) && !one.run_on(10, 0) && !one.run_on(12, 0));
        let exact = Architectures::parse("120a-real");
        assert!(exact.run_on(12, 0) && !exact.run_on(12, 1));
        assert!(!Architectures::parse("120-virtual").run_on(12, 1), "llama.cpp makes 120a of it");
        let family = Architectures::parse("100f-virtual");
        assert!(family.run_on(10, 3) && !family.run_on(11, 0));
    }

    #[test]
    fn a_list_is_said_in_words() {
        assert_eq!(
            Architectures::parse("75-real; 80-real;90;120a-real").describe(),
            "7.x from 7.5 on, 8.x, 9.0 and later, 12.0"
        );
        assert_eq!(Architectures::parse("native").describe(), "");
    }
}
