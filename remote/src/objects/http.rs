//! HTTP for `object_store`, by the client that the hub uses: an answer is read whole, so that a body which is cut short is a
//! failed request, and is asked for again as one.

use std::io::{self, Read};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use ureq::http::{Method, Request, Response, header};
use ureq::{Agent, RequestExt};

/// A connection that brings nothing for so long is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// A request may take so long, and longer for each 64 KiB that are sent.
const WORK: Duration = Duration::from_secs(120);
const SLOWEST: u64 = 64 << 10;
/// Longest answer: lists of a thousand objects, and ranges as they are asked for, are far shorter.
const MAX_ANSWER: u64 = 64 << 20;

/// Makes clients of one agent.
#[derive(Debug, Clone)]
pub(super) struct Connector(pub Agent);

impl Connector {
    pub fn new(tls: ureq::tls::TlsConfig, patience: Duration) -> Self {
        let silence = Some(SILENCE.min(patience));
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects_will_error(false)
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_recv_response(silence)
            .timeout_per_read(silence)
            .user_agent(concat!("ecg-train/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(config.into())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        Ok(HttpClient::new(Client { agent: self.0.clone(), allow_http }))
    }
}

#[derive(Debug)]
struct Client {
    agent: Agent,
    allow_http: bool,
}

/// What happened to a request, without its address, which may carry a signature.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        if parts.uri.scheme_str() == Some("http") && !self.allow_http {
            let reason = "this store is only spoken to over TLS; set AWS_ALLOW_HTTP=true if it has none";
            return Err(HttpError::new(HttpErrorKind::Unknown, Failure(reason.into())));
        }
        let body = body.collect().await?.to_bytes();
        let agent = self.agent.clone();
        let answer = tokio::task::spawn_blocking(move || send(&agent, Request::from_parts(parts, body.to_vec()))).await;
        answer.unwrap_or_else(|_| Err(HttpError::new(HttpErrorKind::Unknown, Failure("a request panicked".into()))))
    }
}

fn send(agent: &Agent, request: Request<Vec<u8>>) -> Result<HttpResponse, HttpError> {
    let is_head = request.method() == Method::HEAD;
    let limit = WORK + Duration::from_secs(request.body().len() as u64 / SLOWEST);
    let (parts, body) = request.into_parts();
    let sent = match parts.method == Method::GET || is_head {
        true => Request::from_parts(parts, ()).with_agent(agent).configure().timeout_global(Some(limit)).run(),
        false => Request::from_parts(parts, body).with_agent(agent).configure().timeout_global(Some(limit)).run(),
    };
    let (parts, body) = sent.map_err(failed)?.into_parts();
    let mut bytes = Vec::new();
    if !is_head {
        let mut reader = body.into_with_config().limit(u64::MAX).reader().take(MAX_ANSWER);
        reader.read_to_end(&mut bytes).map_err(|error| failed(error.into()))?;
        let promised = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if promised.is_some_and(|promised: usize| promised != bytes.len()) {
            return Err(failed(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
        }
    }
    Ok(Response::from_parts(parts, bytes.into()))
}

fn failed(error: ureq::Error) -> HttpError {
    let (kind, reason) = match error {
        ureq::Error::Timeout(_) => (HttpErrorKind::Timeout, "no answer in time".to_owned()),
        ureq::Error::HostNotFound => (HttpErrorKind::Connect, "its name has no address".to_owned()),
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => (HttpErrorKind::Connect, error.kind().to_string()),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                (HttpErrorKind::Timeout, "no answer in time".to_owned())
            }
            io::ErrorKind::UnexpectedEof => (HttpErrorKind::Interrupted, "the answer was cut short".to_owned()),
            kind => (HttpErrorKind::Interrupted, kind.to_string()),
        },
        ureq::Error::Rustls(error) => {
            (HttpErrorKind::Unknown, format!("TLS: {error}; behind a proxy that opens TLS set SSL_CERT_FILE"))
        }
        _ => (HttpErrorKind::Interrupted, "the connection failed".to_owned()),
    };
    HttpError::new(kind, Failure(reason))
}
