//! Where the hub, its cache and the user's token are: the variables of huggingface_hub, and nothing else.
//! It never prints a token.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// The user's token. No `Display`, and a `Debug` that says nothing.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether a text shows it.
    pub(super) fn is_in(&self, text: &str) -> bool {
        text.contains(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What the environment says about the hub.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, or the token file that `hf auth login` writes.
    pub token: Option<Token>,
    /// `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// `REQUESTS_CA_BUNDLE` or `SSL_CERT_FILE`: certificates to trust instead of Mozilla's.
    pub certificates: Option<PathBuf>,
}

impl Settings {
    /// Reads the variables through `variable`.
    #[must_use]
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| variable(name).and_then(|v| v.into_string().ok()).map(|v| v.trim().to_owned());
        let user_cache = || path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(user_cache()?.join("huggingface")));
        let home = home.unwrap_or_else(|| PathBuf::from(".cache/huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| text(name).filter(|t| !t.is_empty()));
        let token = token.or_else(|| Some(std::fs::read_to_string(token_file).ok()?.trim().to_owned()));
        let endpoint = text("HF_ENDPOINT").filter(|t| !t.is_empty()).unwrap_or("https://huggingface.co".into());
        let offline = text("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub")),
            // A token of other characters cannot be one, and must not reach a header.
            token: token.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic())).map(Token),
            offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
            certificates: path("REQUESTS_CA_BUNDLE").or_else(|| path("SSL_CERT_FILE")),
        }
    }
}

#[cfg(test)]
mod tests;
