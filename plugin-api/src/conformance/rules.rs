//! The rules. Their numbers are for ever: a rule that goes leaves a gap, a new one comes last.

use super::Subject;
use super::checks::{Finding, file, generating, loading, probe, resources};
use std::time::Duration;

/// A rule that every plugin keeps.
pub struct Rule {
    /// Its number, shown as `R07`.
    pub number: u16,
    /// Its name.
    pub name: &'static str,
    /// What it asks for, in a sentence.
    pub text: &'static str,
    pub(super) check: fn(&Subject) -> Finding,
}

impl Rule {
    /// How long its check may take before it counts as failed. A device that compiles its kernels at the first use takes its
    /// time; what needs no model does not.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(if self.number <= 6 { 15 } else { 180 })
    }

    /// Whether it measures times or memory: on a busy machine, a failure is worth a second try.
    pub fn is_measured(&self) -> bool {
        ["probe-is-quick", "unloads-without-growth", "prompt-can-be-cancelled"].contains(&self.name)
    }
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "R{:02} {}", self.number, self.name)
    }
}

/// Every rule, by number.
pub const RULES: &[Rule] = &[
    Rule {
        number: 1,
        name: "loads-with-all-symbols",
        text: "The library loads with RTLD_NOW and RTLD_LOCAL, and its backend can be made.",
        check: file::loads_with_all_symbols,
    },
    Rule {
        number: 2,
        name: "exports-only-its-root",
        text: "The library exports the symbol `pajamas_plugin_root` and nothing else.",
        check: file::exports_only_its_root,
    },
    Rule {
        number: 3,
        name: "manifest-agrees",
        text: "The manifest says what the plugin says: name, target, API version, formats.",
        check: file::manifest_agrees,
    },
    Rule {
        number: 4,
        name: "probe-is-quick",
        text: "`is_available` answers within 100 ms, and the same each time.",
        check: probe::probe_is_quick,
    },
    Rule {
        number: 5,
        name: "honest-without-devices",
        text: "With every device hidden, `is_available` still answers: what is missing and what to do, or what is left.",
        check: probe::honest_without_devices,
    },
    Rule {
        number: 6,
        name: "capabilities-are-constant",
        text: "Capabilities and recipes are complete, and the same on every call and every thread.",
        check: probe::capabilities_are_constant,
    },
    Rule {
        number: 7,
        name: "behaves-as-it-claims",
        text: "What the capabilities claim works, and what they do not claim is refused as unsupported.",
        check: generating::behaves_as_it_claims,
    },
    Rule {
        number: 8,
        name: "unknown-options-refused",
        text: "An unknown option, a value of the wrong type and one out of range each fail the load, by name.",
        check: loading::unknown_options_refused,
    },
    Rule {
        number: 9,
        name: "stops-at-the-first-token",
        text: "When the sink breaks at the first token, no second one is handed over, and `generate` returns at once.",
        check: generating::stops_at_the_first_token,
    },
    Rule {
        number: 10,
        name: "limits-are-kept",
        text: "Token limits are exact; a prompt that does not fit is a context overflow, and a bad one is an error.",
        check: generating::limits_are_kept,
    },
    Rule {
        number: 11,
        name: "prompt-can-be-cancelled",
        text: "Cancellation is polled while the prompt is processed, ends the call, and the model answers afterwards.",
        check: generating::prompt_can_be_cancelled,
    },
    Rule {
        number: 12,
        name: "loading-can-be-cancelled",
        text: "Cancellation is polled while a model is loaded, ends the load, and the next load succeeds.",
        check: loading::loading_can_be_cancelled,
    },
    Rule {
        number: 13,
        name: "text-is-utf8-at-every-step",
        text: "The text is at every step that of the tokens so far, in whole characters.",
        check: generating::text_is_utf8_at_every_step,
    },
    Rule {
        number: 14,
        name: "survives-bad-models",
        text: "A missing, empty, foreign, cut or damaged model is an error that names the file, and never a crash.",
        check: loading::survives_bad_models,
    },
    Rule {
        number: 15,
        name: "contains-panics",
        text: "A panic in the host's callbacks passes through the plugin without harm: the next call works.",
        check: generating::contains_panics,
    },
    Rule {
        number: 16,
        name: "silent-on-stdout",
        text: "Nothing is printed on stdout, from loading the library to unloading the model.",
        check: resources::silent_on_stdout,
    },
    Rule {
        number: 17,
        name: "answers-are-repeatable",
        text: "The likeliest answer is the same every time, and so is the answer of a seed.",
        check: generating::answers_are_repeatable,
    },
    Rule {
        number: 18,
        name: "sessions-do-not-mix",
        text: "Requests at the same time get the answers that each gets alone, with and without sessions.",
        check: generating::sessions_do_not_mix,
    },
    Rule {
        number: 19,
        name: "unloads-without-growth",
        text: "Loading and unloading a model 20 times leaves no memory, thread or open file behind.",
        check: resources::unloads_without_growth,
    },
    Rule {
        number: 20,
        name: "computes-rightly",
        text: "The logits are, up to rounding, those that another implementation computes.",
        check: generating::computes_rightly,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_names_are_their_own() {
        assert!(RULES.windows(2).all(|pair| pair[0].number < pair[1].number));
        let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert!(
            names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }

    /// A plugin's own copy of this crate comes without the page.
    #[test]
    fn the_page_for_authors_has_every_rule() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/plugins/rules.md");
        let Ok(page) = std::fs::read_to_string(path) else { return };
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## R")).collect();
        let expected: Vec<String> = RULES.iter().map(|rule| format!("{:02} {}", rule.number, rule.name)).collect();
        assert_eq!(headings, expected);
        let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
        for rule in RULES {
            assert!(words.contains(rule.text), "R{:02}: {}", rule.number, rule.text);
        }
    }
}
