//! Requests to the hub, to where it redirects and to its storage: ranges, retries, and a token that only the hub itself
//! ever gets.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use ureq::{Agent, Body, RequestExt, SendBody};

use super::{Error, Result, Settings, Token};
use crate::tls;

/// How often a request is tried that fails without having brought anything, and the first pause between two tries.
pub(super) const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(250);
/// A connection that brings nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 8;
/// What was sent may take so long to be worked on, and this many bytes a second is a connection that is given up.
const WORK: Duration = Duration::from_secs(300);
const SLOWEST: u64 = 64 << 10;
/// Longest answer to what was sent, and longest time that a busy server may ask for.
const MAX_ANSWER: u64 = 64 << 20;
const MAX_WAIT: Duration = Duration::from_secs(300);

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

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    /// Some bytes of a file, read as they are sent.
    Part {
        path: &'a Path,
        from: u64,
        len: u64,
    },
}

/// An answer to what was sent.
pub(super) struct Answer {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why something that was sent was not taken.
#[derive(Debug)]
pub(super) struct Refusal {
    pub failure: Failure,
    /// The server's own words.
    pub reason: String,
    wait: Option<Duration>,
}

impl Failure {
    /// Worth another try: busy or broken servers and connections.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Status(408 | 429 | 500..=599))
    }
}

impl Client {
    pub fn new(settings: &Settings) -> Result<Self> {
        let certificates = settings.certificates.as_deref();
        let tls = tls::config(certificates).map_err(Error::file(certificates.unwrap_or(Path::new("")), "read"))?;
        let config = Agent::config_builder()
            .tls_config(tls)
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

    /// Sends to the hub or its storage, again while that may help; `progress` hears of the bytes of a file part, and takes
    /// those back that are sent again. Nothing is redirected.
    pub fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        payload: Payload,
        progress: &dyn Fn(i64),
    ) -> std::result::Result<Answer, Refusal> {
        let mut tries = 0;
        loop {
            let mut sent = 0;
            let attempt = self.send_once(method, url, headers, payload, &mut |n| {
                sent += n;
                progress(n);
            });
            tries += 1;
            match attempt {
                Err(refusal) if refusal.failure.may_pass() && tries < TRIES => {
                    progress(-sent);
                    refusal.wait.map_or_else(|| pause(tries), thread::sleep);
                }
                done => return done,
            }
        }
    }

    fn send_once(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        payload: Payload,
        progress: &mut dyn FnMut(i64),
    ) -> std::result::Result<Answer, Refusal> {
        let broken =
            |reason: String| Refusal { failure: Failure::Connection(reason), reason: String::new(), wait: None };
        let url: Uri = url.parse().map_err(|_| broken("its address is none".into()))?;
        let mut request = Request::builder().method(method).uri(url.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(&url)) {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let length = payload.len();
        // A storage takes no body whose length it is not told first.
        let request = request.header(header::CONTENT_LENGTH, length);
        let mut reader = payload.reader(progress).map_err(|error| broken(error.to_string()))?;
        let request =
            request.body(SendBody::from_reader(&mut reader)).map_err(|_| broken("a header is none".into()))?;
        let request = request.with_agent(&self.agent).configure();
        let request = request.timeout_send_body(Some(SILENCE + Duration::from_secs(length / SLOWEST)));
        let response = request.timeout_recv_response(Some(WORK)).run().map_err(|error| broken(describe(error)))?;
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        let read = body.into_with_config().limit(u64::MAX).reader().take(MAX_ANSWER).read_to_end(&mut bytes);
        match parts.status {
            status if status.is_success() => {
                read.map_err(|error| broken(error.kind().to_string()))?;
                Ok(Answer { headers: parts.headers, body: bytes })
            }
            status => Err(Refusal {
                failure: Failure::Status(status.as_u16()),
                reason: self.words(&bytes),
                wait: wait(status, &parts.headers),
            }),
        }
    }

    /// What a server says about an error: one line of its JSON, never the token.
    fn words(&self, body: &[u8]) -> String {
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let words = json["error"].as_str().or_else(|| json["message"].as_str()).unwrap_or_default();
        let line: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        match &self.token {
            Some(token) if token.is_in(&line) => String::new(),
            _ => line,
        }
    }

    /// Same scheme, host and port as the endpoint.
    fn is_hub(&self, url: &Uri) -> bool {
        self.endpoint.parse::<Uri>().is_ok_and(|hub| hub.scheme() == url.scheme() && hub.authority() == url.authority())
    }
}

impl Payload<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part { len, .. } => *len,
        }
    }

    fn reader<'a>(&'a self, progress: &'a mut dyn FnMut(i64)) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(*bytes),
            Self::Part { path, from, len } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*from))?;
                Box::new(Counted { inner: file.take(*len), progress })
            }
        })
    }
}

/// Tells of bytes as they are read.
struct Counted<'a, R> {
    inner: R,
    progress: &'a mut dyn FnMut(i64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.progress)(n as i64);
        Ok(n)
    }
}

/// How long a busy server wants to be left alone.
fn wait(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs);
    seconds.filter(|_| status == 429 || status == 503).map(|time| time.min(MAX_WAIT))
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
