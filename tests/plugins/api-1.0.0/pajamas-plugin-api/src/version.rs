//! The version of the plugin API, and which plugins a host of that version takes.

use semver::Version;

/// The version of this plugin API, negotiated between host and plugin. It is apart from their own versions.
pub const API_VERSION: &str = "1.0.0";

/// The target triple that this crate, and with it the host or plugin, was built for.
pub const TARGET: &str = env!("PAJAMAS_TARGET");

/// Why a host with `host_api` cannot take a plugin built against `plugin_api` that needs at least `minimum_host_api`;
/// none when it can.
///
/// Same major: an older plugin loads and lacks what is new; a newer one loads if the host meets its minimum.
pub fn incompatibility(host_api: &Version, plugin_api: &Version, minimum_host_api: &Version) -> Option<String> {
    if plugin_api.major != host_api.major {
        let advice = if plugin_api.major > host_api.major {
            "update pajamas"
        } else {
            "ask the plugin's author for a build against the current API"
        };
        return Some(format!("built for plugin API {plugin_api}, this pajamas has {host_api}: {advice}"));
    }
    (minimum_host_api > host_api)
        .then(|| format!("needs plugin API {minimum_host_api} or newer, this pajamas has {host_api}: update pajamas"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &str, plugin: &str, minimum: &str) -> Option<String> {
        let v = |text| Version::parse(text).unwrap();
        incompatibility(&v(host), &v(plugin), &v(minimum))
    }

    #[test]
    fn same_major_loads_in_both_directions_unless_the_minimum_is_not_met() {
        assert_eq!(check("1.2.0", "1.0.0", "1.0.0"), None);
        assert_eq!(check("1.0.0", "1.3.0", "1.0.0"), None);
        assert!(check("1.0.0", "1.3.0", "1.3.0").unwrap().contains("update pajamas"));
    }

    #[test]
    fn another_major_says_which_side_to_update() {
        assert!(check("1.0.0", "2.0.0", "2.0.0").unwrap().contains("update pajamas"));
        assert!(check("2.0.0", "1.9.0", "1.0.0").unwrap().contains("plugin's author"));
    }

    #[test]
    fn the_constant_is_a_version() {
        Version::parse(API_VERSION).unwrap();
    }
}
