//! GET requests to the hub and to where it redirects: ranges, retries, and a token that only the hub itself ever gets.

use std::io::Read;
use std::thread;
use std::time::Duration;

use ureq::http::{Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::{Error, Result, Settings, Token};

/// How often a request is tried that fails without having brought anything, and the first pause between two tries.
pub(super) const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(250);
/// A connection that brings nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 8;

#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    pub endpoint: String,
    token: Option<Token>,
}

/// An answer that is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's status.
    Status(u16),
    /// No status: the connection, a redirect to nowhere.
    Connection(String),
}

impl Failure {
    /// Worth another try: busy or broken servers and connections.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Status(408 | 429 | 500..=599))
    }
}

impl Client {
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let pem = std::fs::read(path).map_err(Error::file(path, "read"))?;
            let certificates = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            tls = tls.root_certs(RootCerts::from(certificates));
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0) // They are followed here, where it is known who may see the token.
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("ecg-train/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), endpoint: settings.endpoint.clone(), token: settings.token.clone() })
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// One request from byte `from` on, redirects followed. Only answers of 200, 206 and 416 are answers.
    pub fn get(&self, url: &str, from: u64) -> std::result::Result<Response<Body>, Failure> {
        let connection = |reason: &str| Failure::Connection(reason.to_owned());
        let mut url: Uri = url.parse().map_err(|_| connection("its address is none"))?;
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.agent.get(url.clone());
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header(header::AUTHORIZATION, token.bearer());
            }
            let response = request.call().map_err(|error| Failure::Connection(describe(error)))?;
            match response.status().as_u16() {
                200 | 206 | 416 => return Ok(response),
                301 | 302 | 303 | 307 | 308 => {
                    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
                    url = location.and_then(|l| follow(&url, l)).ok_or_else(|| connection("a redirect to nowhere"))?;
                }
                status => return Err(Failure::Status(status)),
            }
        }
        Err(connection("it redirects without end"))
    }

    /// As [`Client::get`] from the start, tried again while that may help; the whole body, at most `limit` bytes.
    pub fn get_all(&self, url: &str, limit: u64) -> std::result::Result<Vec<u8>, Failure> {
        let mut tries = 0;
        loop {
            let attempt = self.get(url, 0).and_then(|response| {
                let mut body = Vec::new();
                let read =
                    response.into_body().into_with_config().limit(u64::MAX).reader().take(limit).read_to_end(&mut body);
                read.map(|_| body).map_err(|error| Failure::Connection(error.kind().to_string()))
            });
            tries += 1;
            match attempt {
                Err(failure) if failure.may_pass() && tries < TRIES => pause(tries),
                done => return done,
            }
        }
    }

    /// Same scheme, host and port as the endpoint.
    fn is_hub(&self, url: &Uri) -> bool {
        self.endpoint.parse::<Uri>().is_ok_and(|hub| hub.scheme() == url.scheme() && hub.authority() == url.authority())
    }
}

/// Longer from try to try.
pub(super) fn pause(tries: u32) {
    thread::sleep(PAUSE * 2_u32.saturating_pow(tries.saturating_sub(1)));
}

/// Where a redirect leads: an address of its own, or a path on the same host. From https never to anything else.
fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = match location.starts_with('/') && !location.starts_with("//") {
        true => format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?,
        false => location.parse().ok()?,
    };
    let secure = from.scheme_str() != Some("https") || to.scheme_str() == Some("https");
    (secure && to.host().is_some()).then_some(to)
}

/// What happened, without an address: a redirect's may carry a signature.
fn describe(error: ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "its name has no address".to_owned(),
        ureq::Error::Rustls(error) => format!("TLS: {error}; behind a proxy that opens TLS set SSL_CERT_FILE"),
        _ => "the connection failed".to_owned(),
    }
}
