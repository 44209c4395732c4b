//! From an address to the store that it names, as the variables describe that.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::http::Connector;
use super::{Error, Fault, Settings};

/// First and longest pause between two tries of a request.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// An object's address, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// As it was given.
    pub url: String,
    /// Scheme and bucket, or scheme and host.
    pub root: String,
    pub path: Path,
    /// Of a web server, which is only read from and lists nothing.
    pub is_web: bool,
    scheme: ObjectStoreScheme,
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error { url: without_secrets(text), fault: Fault::Address(reason.to_owned()) };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let is_abfs = url.scheme().starts_with("abfs"); // abfss://container@account/ has no secret there.
        if url.password().is_some() || (!url.username().is_empty() && !is_abfs) || url.query().is_some() {
            return Err(wrong("an address with credentials in it would be written into configs and logs"));
        }
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|_| wrong("no such kind of store is known"))?;
        if matches!(scheme, ObjectStoreScheme::Local | ObjectStoreScheme::Memory) {
            return Err(wrong("no such kind of store is known"));
        }
        let mut root = url.clone();
        let is_web = scheme == ObjectStoreScheme::Http;
        if url.scheme() != "https" || is_web {
            root.set_path("");
        }
        Ok(Self { url: text.to_owned(), root: root.to_string(), path, is_web, scheme })
    }

    /// The folder that the object lies in, and its name there.
    pub fn folder_and_name(&self) -> (String, &str) {
        let (folder, name) = self.path.as_ref().rsplit_once('/').unwrap_or(("", self.path.as_ref()));
        (format!("{} {folder}", self.root), name)
    }

    pub fn error(&self, fault: Fault) -> Error {
        Error { url: self.url.clone(), fault }
    }
}

/// What stands before a user's name, a password or a signature may be shown.
fn without_secrets(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => text.to_owned(),
    }
}

/// The store of an address.
pub(super) fn connect(
    address: &Address,
    settings: &Settings,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: usize::MAX,
        retry_timeout: settings.patience,
    };
    let variables = |prefix: &'static str| {
        let of_store = settings.variables.iter().filter(move |(name, _)| name.starts_with(prefix));
        of_store.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    };
    let root = address.root.as_str();
    let made: object_store::Result<Arc<dyn ObjectStore>> = match address.scheme {
        ObjectStoreScheme::AmazonS3 => {
            let mut store = AmazonS3Builder::new().with_url(root).with_checksum_algorithm(Checksum::SHA256);
            for (name, value) in variables("AWS_") {
                if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
                    store = store.with_config(key, value);
                }
            }
            store.with_retry(retry).with_http_connector(connector).build().map(|store| Arc::new(store) as _)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let mut store = GoogleCloudStorageBuilder::new().with_url(root);
            if let Some(path) = settings.variables.get("SERVICE_ACCOUNT") {
                store = store.with_service_account_path(path);
            }
            for (name, value) in variables("GOOGLE_") {
                if let Ok(key) = name.parse() {
                    store = store.with_config(key, value);
                }
            }
            store.with_retry(retry).with_http_connector(connector).build().map(|store| Arc::new(store) as _)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let mut store = MicrosoftAzureBuilder::new().with_url(root);
            for (name, value) in variables("AZURE_") {
                if let Ok(key) = name.parse() {
                    store = store.with_config(key, value);
                }
            }
            if let Some(endpoint) = settings.variables.get("IDENTITY_ENDPOINT") {
                store = store.with_msi_endpoint(endpoint);
            }
            store.with_retry(retry).with_http_connector(connector).build().map(|store| Arc::new(store) as _)
        }
        _ => {
            let options = ClientOptions::new().with_allow_http(root.starts_with("http://"));
            let store = HttpBuilder::new().with_url(root).with_client_options(options);
            store.with_retry(retry).with_http_connector(connector).build().map(|store| Arc::new(store) as _)
        }
    };
    made.map_err(|error| address.error(Fault::Settings(first_line(&error.to_string()))))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests;
