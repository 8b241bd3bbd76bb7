//! The static manifest: what a plugin says of itself in a section of its file, readable without loading it.
//!
//! Layout: the 16 bytes of [`MAGIC`], then UTF-8 TOML, then zeroes to the section's end. In ELF the section is
//! `.pajamas.manifest`, in Mach-O `__DATA,__pajamas`, in PE `.pajamas`.

use semver::Version;
use serde::Deserialize;

/// The first bytes of the section. The digit is the manifest's own version.
pub const MAGIC: &[u8; 16] = b"pajamas-plugin-1";

/// The section's names, as `object` reports them for ELF, Mach-O and PE.
pub const SECTION_NAMES: [&str; 3] = [".pajamas.manifest", "__pajamas", ".pajamas"];

/// Bytes that a manifest may have at the most.
pub const SIZE_BYTES_MAX: usize = 64 * 1024;

/// What a plugin says of itself without being loaded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The backend's name: `gguf-cpu`.
    pub name: String,
    /// The plugin's own version.
    pub version: Version,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// The plugin API that it was built against.
    pub api_version: Version,
    /// The oldest host API that it works with.
    pub minimum_host_api: Version,
    /// The target triple that it was built for.
    pub target: String,
    /// Model formats that it loads.
    #[serde(default, deserialize_with = "comma_separated")]
    pub formats: Vec<String>,
    /// CPU features without which its code must not run, as `std::arch` names them.
    #[serde(default, deserialize_with = "comma_separated")]
    pub cpu_features: Vec<String>,
}

/// Why a section is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It does not begin with [`MAGIC`].
    #[error("the manifest does not begin with `pajamas-plugin-1`")]
    Magic,
    /// It is longer than [`SIZE_BYTES_MAX`].
    #[error("the manifest has {0} bytes, more than {SIZE_BYTES_MAX}")]
    TooLong(usize),
    /// It is not UTF-8.
    #[error("the manifest is not UTF-8")]
    Text,
    /// It is not the TOML expected.
    #[error("the manifest cannot be read: {0}")]
    Toml(String),
}

impl Manifest {
    /// Reads a manifest from the bytes of its section.
    ///
    /// # Errors
    /// When the bytes are anything but a manifest. Never panics, whatever the bytes.
    pub fn parse(section: &[u8]) -> Result<Self, ManifestError> {
        if section.len() > SIZE_BYTES_MAX {
            return Err(ManifestError::TooLong(section.len()));
        }
        let body = section.strip_prefix(MAGIC).ok_or(ManifestError::Magic)?;
        let body = &body[..body.iter().position(|&byte| byte == 0).unwrap_or(body.len())];
        let text = std::str::from_utf8(body).map_err(|_| ManifestError::Text)?;
        toml::from_str(text).map_err(|error| ManifestError::Toml(error.message().to_owned()))
    }
}

fn comma_separated<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Into::into).collect())
}

/// The bytes of a manifest made of `parts`; for `export_plugin!`.
#[doc(hidden)]
pub const fn join<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut bytes = [0; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let text = parts[part].as_bytes();
        let mut index = 0;
        while index < text.len() {
            bytes[at] = text[index];
            at += 1;
            index += 1;
        }
        part += 1;
    }
    bytes
}

/// The length of a manifest made of `parts`; for `export_plugin!`.
#[doc(hidden)]
pub const fn length(parts: &[&str]) -> usize {
    let (mut sum, mut part) = (0, 0);
    while part < parts.len() {
        sum += parts[part].len();
        part += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: &[&str] = &[
        "pajamas-plugin-1",
        "name = '''x'''\nversion = '1.2.3'\napi_version = '1.0.0'\nminimum_host_api = '1.0.0'\n",
        "target = 't'\ncpu_features = 'avx2, fma'\n",
    ];

    #[test]
    fn what_the_macro_joins_is_read_back_with_or_without_padding() {
        const N: usize = length(PARTS);
        let bytes = join::<N>(PARTS);
        let manifest = Manifest::parse(&bytes).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.version), ("x", Version::new(1, 2, 3)));
        assert_eq!(manifest.cpu_features, ["avx2", "fma"]);
        Manifest::parse(&[&bytes[..], &[0; 7]].concat()).unwrap();
    }

    #[test]
    fn each_corruption_is_refused_with_its_reason() {
        assert!(matches!(Manifest::parse(b""), Err(ManifestError::Magic)));
        assert!(matches!(Manifest::parse(&[b'x'; SIZE_BYTES_MAX + 1]), Err(ManifestError::TooLong(_))));
        assert!(matches!(Manifest::parse(b"pajamas-plugin-1\xff"), Err(ManifestError::Text)));
        assert!(matches!(Manifest::parse(b"pajamas-plugin-1name = 3"), Err(ManifestError::Toml(_))));
        assert!(matches!(Manifest::parse(b"pajamas-plugin-1"), Err(ManifestError::Toml(_))));
    }
}
