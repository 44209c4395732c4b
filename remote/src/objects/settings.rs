//! What the variables of a shell say about stores. They hold secrets, so this is never shown, logged or written.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Names of variables that `object_store` reads.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
const NAMES: [&str; 2] = ["SERVICE_ACCOUNT", "IDENTITY_ENDPOINT"];

/// How stores are spoken to.
#[derive(Clone)]
pub struct Settings {
    /// The variables of [`variables`].
    pub variables: BTreeMap<String, String>,
    /// How long one request is tried again.
    pub patience: Duration,
    /// Folder for blocks that were read, and most bytes that it holds; none: nothing is kept.
    pub cache: Option<(PathBuf, u64)>,
    /// `SSL_CERT_FILE`: certificates to trust instead of Mozilla's.
    pub certificates: Option<PathBuf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings(..)")
    }
}

/// Those of a shell's variables that say where stores are and who asks, by the names that `object_store` gives them.
pub fn variables(all: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let of_store = |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    all.filter_map(text).filter(|(name, value)| of_store(name) && !value.is_empty()).collect()
}
