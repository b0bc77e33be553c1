//! X.509 credentials: certificates, keys and whom to trust, from a directory with the file names that QEMU uses.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use rustls::{
    ClientConfig, Connection, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ClientConnection, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
        pem::PemObject,
    },
    server::{ServerConnection, WebPkiClientVerifier},
};

/// Whose credentials they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A server's.
    Server,
    /// A client's.
    Client,
}

/// Loaded credentials.
#[derive(Clone, Debug)]
pub struct Credentials(Config);

#[derive(Clone, Debug)]
enum Config {
    Server(Arc<ServerConfig>),
    Client {
        config: Arc<ClientConfig>,
        /// The server has to have a certificate for its name.
        verifies: bool,
    },
}

/// The files of a directory.
struct Files {
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Certificates, the own one first, and its key.
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Credentials {
    /// Loads `ca-cert.pem`, `ca-crl.pem` where it is there, and `server-cert.pem` with `server-key.pem`, or
    /// `client-cert.pem` with `client-key.pem` where they are there. A server asks for its clients' certificates and a
    /// client checks its server's, except without `verify_peer`.
    ///
    /// # Errors
    /// One sentence, with the file's name: it cannot be read, or is none of what it should be.
    pub fn x509(dir: &Path, endpoint: Endpoint, verify_peer: bool) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let files = Files::load(dir, endpoint)?;
        let wrong = |what: &str, error: &dyn std::fmt::Display| {
            format!("Unable to use the credentials in {}: {what}: {error}", dir.display())
        };
        let tls = |error: rustls::Error| wrong("TLS", &error);
        match endpoint {
            Endpoint::Server => {
                let verifier = if verify_peer {
                    WebPkiClientVerifier::builder_with_provider(files.roots, Arc::clone(&provider))
                        .with_crls(files.revoked)
                        .build()
                        .map_err(|error| wrong("ca-cert.pem", &error))?
                } else {
                    WebPkiClientVerifier::no_client_auth()
                };
                let (chain, key) = files.own.ok_or("a server needs a certificate")?;
                let config = ServerConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(tls)?
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain, key)
                    .map_err(|error| wrong("server-cert.pem", &error))?;
                Ok(Self(Config::Server(Arc::new(config))))
            }
            Endpoint::Client => {
                let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()
                    .map_err(tls)?;
                let builder = if verify_peer {
                    let verifier =
                        WebPkiServerVerifier::builder_with_provider(files.roots, provider)
                            .with_crls(files.revoked)
                            .build();
                    let verifier = verifier.map_err(|error| wrong("ca-cert.pem", &error))?;
                    builder.with_webpki_verifier(verifier)
                } else {
                    let anybody = Arc::new(Anybody(provider));
                    builder.dangerous().with_custom_certificate_verifier(anybody)
                };
                let config = match files.own {
                    Some((chain, key)) => builder
                        .with_client_auth_cert(chain, key)
                        .map_err(|error| wrong("client-cert.pem", &error))?,
                    None => builder.with_no_client_auth(),
                };
                Ok(Self(Config::Client { config: Arc::new(config), verifies: verify_peer }))
            }
        }
    }

    /// Whose they are.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self.0 {
            Config::Server(_) => Endpoint::Server,
            Config::Client { .. } => Endpoint::Client,
        }
    }

    /// A session that has said nothing yet. `host`: the name that a client's server has to have a certificate for.
    pub(super) fn session(&self, host: Option<&str>) -> Result<Connection, String> {
        let failed = |error: rustls::Error| format!("cannot begin with TLS: {error}");
        match &self.0 {
            Config::Server(config) => {
                ServerConnection::new(Arc::clone(config)).map(Connection::from).map_err(failed)
            }
            Config::Client { config, verifies } => {
                let name = match host {
                    Some(host) => ServerName::try_from(host.to_owned())
                        .map_err(|_| format!("'{host}' is no name of a TLS server"))?,
                    None if *verifies => {
                        return Err("No hostname for certificate validation".to_owned());
                    }
                    // An address is not told to the server.
                    None => ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])),
                };
                let session = ClientConnection::new(Arc::clone(config), name);
                session.map(Connection::from).map_err(failed)
            }
        }
    }
}

impl Files {
    fn load(dir: &Path, endpoint: Endpoint) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&dir.join("ca-cert.pem"))? {
            roots.add(certificate).map_err(|error| unusable(&dir.join("ca-cert.pem"), &error))?;
        }
        let crl = dir.join("ca-crl.pem");
        let revoked = if crl.exists() {
            let lists: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&bytes(&crl)?).collect();
            lists.map_err(|error| unusable(&crl, &error))?
        } else {
            Vec::new()
        };
        let (who, needed) = match endpoint {
            Endpoint::Server => ("server", true),
            Endpoint::Client => ("client", false),
        };
        let (cert, key) = (dir.join(format!("{who}-cert.pem")), dir.join(format!("{who}-key.pem")));
        let own = if needed || cert.exists() {
            let chain = certificates(&cert)?;
            let key_bytes = bytes(&key)?;
            let key = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|e| unusable(&key, &e))?;
            Some((chain, key))
        } else {
            None
        };
        Ok(Self { roots: Arc::new(roots), revoked, own })
    }
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("Unable to use {}: {error}", path.display())
}

/// The longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| {
        let reason = error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
        format!("Unable to access credentials {}: {reason}", path.display())
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(unusable(path, &format_args!("it is longer than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() { Err(unusable(path, &"it has no certificate")) } else { Ok(found) }
}

/// Takes any server, for `verify-peer=off`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_that_are_not_there_or_nonsense_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let load = || Credentials::x509(dir.path(), Endpoint::Server, true).expect_err("refused");
        let error = load();
        assert!(error.starts_with("Unable to access credentials "), "{error}");
        assert!(error.ends_with("ca-cert.pem: No such file or directory"), "{error}");
        fs::write(dir.path().join("ca-cert.pem"), "no certificate").expect("a file");
        let error = load();
        assert!(error.contains("ca-cert.pem: it has no certificate"), "{error}");
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fs::write(dir.path().join("ca-cert.pem"), pem).expect("a file");
        let error = load();
        assert!(error.contains("Unable to use") && error.contains("ca-cert.pem"), "{error}");
    }
}
