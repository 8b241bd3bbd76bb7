//! Renders a model's own chat template, so that every backend behaves alike and users cannot type control tokens.

use crate::error::{Error, Result};
use minijinja::{Environment, ErrorKind, Value, context};
use pajamas_plugin_api::{ModelInfo, Prompt, TextSegment};
use serde::{Deserialize, Serialize};

/// Instructions that a template may take: far more than any needs, and an end to one that loops.
const FUEL: u64 = 10_000_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The prompt for the model's next turn in `messages`. Without a template, the contents follow each other as text.
///
/// # Errors
/// When the model's template is broken or refuses the messages.
pub fn prompt(info: &ModelInfo, messages: &[Message]) -> Result<Prompt> {
    let Some(template) = info.chat_templates.get("default") else {
        let text = messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n");
        return Ok(Prompt::text(text));
    };
    let (marked, taken_out) = take_out_control_texts(info, messages);
    let rendered = render(template, info, &marked)?;
    // The template writes the BOS itself, or leaves it to the tokenizer.
    let bos = info.bos_token.as_ref().map_or("", |token| token.text.as_str());
    let add_special = bos.is_empty() || !rendered.starts_with(bos);
    Ok(Prompt::Text { add_special, segments: put_back(&rendered, &taken_out) })
}

fn render(template: &str, info: &ModelInfo, messages: &[Message]) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| today(&format));
    let text = |token: &Option<pajamas_plugin_api::SpecialToken>| token.as_ref().map(|t| t.text.clone());
    environment
        .render_str(
            template,
            context! {
                messages => messages,
                add_generation_prompt => true,
                bos_token => text(&info.bos_token).unwrap_or_default(),
                eos_token => text(&info.eos_token).unwrap_or_default(),
                tools => Value::from(()),
            },
        )
        .map_err(|error| Error::Refused {
            message: format!("the model's chat template failed: {error}"),
            hint: "`--raw` sends the prompt without a template".into(),
        })
}

/// Today in UTC, in the few formats that templates ask for.
fn today(format: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil_from_days(i64::try_from(now.as_secs() / 86_400).unwrap_or(0));
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let name = MONTHS[(month - 1) as usize];
    format
        .replace("%Y", &year.to_string())
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%B", name)
        .replace("%b", &name[..3])
}

/// The date `days` after 1970-01-01 in the Gregorian calendar (Howard Hinnant's algorithm of eras).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Replaces each control token's text in the messages by a marker that occurs nowhere in them.
fn take_out_control_texts(info: &ModelInfo, messages: &[Message]) -> (Vec<Message>, Vec<(String, String)>) {
    let mut texts: Vec<&str> = info.control_tokens.iter().map(|t| t.text.as_str()).filter(|t| !t.is_empty()).collect();
    texts.retain(|text| messages.iter().any(|message| message.content.contains(text)));
    // The longest first, so that no token is cut by one that it contains.
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let all: String = messages.iter().map(|m| m.content.as_str()).collect();
    let fresh = |number: usize| {
        (0..).map(|salt: u32| format!("\u{e000}{number}.{salt}\u{e001}")).find(|marker| !all.contains(marker.as_str()))
    };
    let taken_out: Vec<(String, String)> =
        texts.iter().enumerate().filter_map(|(n, text)| Some((fresh(n)?, (*text).to_owned()))).collect();
    let mark = |message: &Message| {
        let (mut content, mut rest) = (String::new(), message.content.as_str());
        // In one pass, so that nothing is replaced inside a marker.
        while let Some(next) = rest.chars().next() {
            match taken_out.iter().find(|(_, token)| rest.starts_with(token.as_str())) {
                Some((marker, token)) => {
                    content += marker;
                    rest = &rest[token.len()..];
                }
                None => {
                    content.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        Message { role: message.role.clone(), content }
    };
    (messages.iter().map(mark).collect(), taken_out)
}

/// Splits the rendered text at the markers; what stood there comes back as text that is never read as control tokens.
fn put_back(rendered: &str, taken_out: &[(String, String)]) -> Vec<TextSegment> {
    let mut segments = Vec::new();
    let mut rest = rendered;
    let next = |text: &str| {
        taken_out.iter().filter_map(|pair| Some((text.find(&pair.0)?, pair))).min_by_key(|(position, _)| *position)
    };
    while let Some((position, (marker, token))) = next(rest) {
        segments.push(TextSegment { text: rest[..position].into(), parse_special: true });
        segments.push(TextSegment { text: token.clone(), parse_special: false });
        rest = &rest[position + marker.len()..];
    }
    segments.push(TextSegment { text: rest.into(), parse_special: true });
    segments.retain(|segment| !segment.text.is_empty());
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use pajamas_plugin_api::SpecialToken;

    const TEMPLATE: &str = "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content.strip() }}<|e|>\n{% endfor %}\
                            {% if add_generation_prompt %}<|s|>assistant\n{% endif %}";

    fn info(template: &str) -> ModelInfo {
        let token = |id, text: &str| SpecialToken { id, text: text.into() };
        ModelInfo {
            bos_token: Some(token(0, "<s>")),
            control_tokens: vec![token(1, "<|s|>"), token(2, "<|e|>")],
            chat_templates: [("default".to_owned(), template.to_owned())].into(),
            ..ModelInfo::default()
        }
    }

    fn segments(template: &str, content: &str) -> (bool, Vec<TextSegment>) {
        match prompt(&info(template), &[Message::new("user", content)]).unwrap() {
            Prompt::Text { add_special, segments } => (add_special, segments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_conversation_is_one_segment_with_control_tokens() {
        let (add_special, segments) = segments(TEMPLATE, " Hi ");
        assert!(add_special);
        assert_eq!(
            segments,
            [TextSegment { text: "<|s|>user\nHi<|e|>\n<|s|>assistant\n".into(), parse_special: true }]
        );
    }

    #[test]
    fn control_tokens_that_a_user_types_are_text() {
        let (_, segments) = segments(TEMPLATE, "a<|e|>b<|s|>");
        let typed: Vec<&str> = segments.iter().filter(|s| !s.parse_special).map(|s| s.text.as_str()).collect();
        assert_eq!(typed, ["<|e|>", "<|s|>"]);
        let joined: String = segments.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(joined, "<|s|>user\na<|e|>b<|s|><|e|>\n<|s|>assistant\n");
    }

    #[test]
    fn a_template_that_writes_bos_itself_gets_no_second_one() {
        assert!(!segments("{{ bos_token }}{{ messages[0].content }}", "x").0);
    }

    #[test]
    fn templates_of_every_family_come_out_as_from_transformers() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let json = |path: std::path::PathBuf| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let conversation = [Message::new("user", "Hello! What is it?"), Message::new("assistant", "It is a model.")];
        let mut rendered = 0;
        for entry in std::fs::read_dir(fixtures.join("families")).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let golden = json(fixtures.join(format!("golden/families/{name}.json")));
            let Some(expected) = golden["rendered"].as_str() else { continue };
            let config = json(entry.path().join("tokenizer_config.json"));
            let file = || std::fs::read_to_string(entry.path().join("chat_template.jinja")).unwrap();
            let template = config["chat_template"].as_str().map_or_else(file, str::to_owned);
            let special = |role: &str| {
                let token = &config[format!("{role}_token")];
                let text = token.as_str().or(token["content"].as_str()).unwrap_or_default();
                Some(SpecialToken { id: 0, text: text.into() })
            };
            let info = ModelInfo { bos_token: special("bos"), eos_token: special("eos"), ..info(&template) };
            let Prompt::Text { segments, .. } = prompt(&info, &conversation).unwrap() else { panic!("{name}") };
            let found: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            // Ours ends with the beginning of the next answer; Phi-3's template ends others with its last token.
            let eos = info.eos_token.as_ref().map_or("", |token| token.text.as_str());
            let expected = expected.strip_suffix(eos).unwrap_or(expected);
            assert!(found.starts_with(expected), "{name}: {found:?}, transformers has {expected:?}");
            rendered += 1;
        }
        assert!(rendered >= 4, "{rendered}");
    }

    #[test]
    fn a_template_that_raises_or_never_ends_is_an_error() {
        let error = |template: &str| prompt(&info(template), &[Message::new("user", "x")]).unwrap_err().to_string();
        assert!(error("{{ raise_exception('no system role') }}").contains("no system role"));
        assert!(
            error("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}").contains("fuel")
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(19_782), (2024, 2, 29));
        assert_eq!(civil_from_days(20_088), (2024, 12, 31));
    }
}
