//! The settings of a [`Config`] one by one, as they are shown: key, value, where that came from.

use super::keys::{KEYS, Key};
use super::{Config, Origin};
use serde::Serialize;
use serde_json::Value;

/// One setting.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// Its value; null where none is set and the default is not one value.
    pub value: Value,
    /// Where that came from.
    pub origin: Origin,
    /// What holds where it is not set, in words.
    pub default: &'static str,
    /// What values it takes, in words.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is for.
    pub help: &'static str,
}

impl Setting {
    /// The setting `key` of `config`.
    pub fn of(key: &Key, config: &Config) -> Self {
        Self {
            key: key.name,
            value: value(key.name, config),
            origin: config.origins.of(key.name),
            default: key.default,
            kind: key.kind.describe(),
            help: key.help,
        }
    }

    /// Its value as a user writes it, a line for each of a list; none where it is null.
    pub fn lines(&self) -> Option<Vec<String>> {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        match &self.value {
            Value::Null => None,
            Value::Array(items) => Some(items.iter().map(plain).collect()),
            value => Some(vec![plain(value)]),
        }
    }
}

/// Every setting, in the order of the keys.
pub fn all(config: &Config) -> Vec<Setting> {
    KEYS.iter().map(|key| Setting::of(key, config)).collect()
}

fn value(key: &str, config: &Config) -> Value {
    match key {
        "backend" => config.backend.clone().into(),
        "fallback" => config.fallback.into(),
        "threads" => config.threads.into(),
        "context_length" => config.context_length.into(),
        "method" => config.method.clone().into(),
        "validate" => config.validate.into(),
        "probe_timeout_s" => config.probe_timeout_s.into(),
        "trust" => serde_json::to_value(config.trust).unwrap_or_default(),
        "check_backends" => config.check_backends.into(),
        "offline" => config.offline.into(),
        // The file's own: the other plugin folders come from elsewhere.
        _ => {
            let dirs = config.plugin_dirs.iter().zip(&config.origins.plugin_dirs);
            let own = dirs.filter(|(_, origin)| matches!(origin, Origin::File(_)));
            own.map(|(dir, _)| dir.display().to_string()).collect::<Vec<_>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, Flags};

    #[test]
    fn every_key_has_its_own_value() {
        let file = ConfigFile {
            fallback: Some(false),
            threads: Some(3),
            context_length: Some(4),
            method: Some("Q8_0".into()),
            validate: Some(false),
            plugin_dirs: vec!["d".into()],
            probe_timeout_s: Some(5),
            trust: Some(crate::plugins::pins::Trust::Pinned),
            check_backends: Some(false),
            offline: Some(true),
            ..ConfigFile::default()
        };
        let config = Config::resolve("/h".into(), Origin::Default, file, &Flags::default());
        let lines: Vec<_> = all(&config).iter().skip(1).filter_map(Setting::lines).flatten().collect();
        assert_eq!(lines, ["false", "3", "4", "Q8_0", "false", "/h/d", "5", "pinned", "false", "true"]);
    }
}
