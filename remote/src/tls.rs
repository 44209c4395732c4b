//! Whom a connection trusts: Mozilla's certificates, or those of a file.

use std::io;
use std::path::Path;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// `certificates`: a file of them, as SSL_CERT_FILE names it.
pub(crate) fn config(certificates: Option<&Path>) -> io::Result<TlsConfig> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = certificates {
        let pem = std::fs::read(path)?;
        let certificates = parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        tls = tls.root_certs(RootCerts::from(certificates));
    }
    Ok(tls.build())
}
