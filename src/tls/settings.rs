//! `[tls]`: what a listener shows of itself, and what it demands of its clients.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificate;
use crate::settings::{Node, Value, settings};

settings! {
    /// `[tls]`: which listeners speak TLS, and how their files are kept current.
    pub struct Settings {
        /// Of the listener for clients; `None`: clear text.
        pub public: Option<ServerSettings> = None,
        /// Of the listener for metrics and health; `None`: clear text.
        pub ops: Option<ServerSettings> = None,
        /// How often the files are looked at for a change; `None`: they are read when the configuration is reloaded.
        pub reload_interval: Option<Duration> = Some(Duration::from_secs(10)),
    }
}

settings! {
    /// `[tls.public]` or `[tls.ops]`: TLS of one listener.
    pub struct ServerSettings {
        /// One for each name that clients ask for; the first is also for those that name none, or one that is not here.
        pub certificates: Vec<CertificateFiles> = Vec::new(),
        /// The oldest version that is spoken.
        pub min_version: MinVersion = MinVersion::Tls12,
        /// Whether clients show a certificate.
        pub client_auth: ClientAuth = ClientAuth::Off,
        /// PEM certificates of the authorities that issue those of clients.
        pub client_ca: Option<PathBuf> = None,
        /// PEM lists of the client certificates that their authorities have revoked: one list of each authority.
        pub client_crl: Option<PathBuf> = None,
        /// The only subjects that a client's certificate may have; empty: any.
        pub client_subjects: Vec<Subject> = Vec::new(),
    }
}

impl Settings {
    /// All files that are named.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let servers = [&self.public, &self.ops].into_iter().flatten();
        servers.flat_map(|server| {
            let own = server.certificates.iter().flat_map(|pair| [&*pair.cert, &*pair.key]);
            own.chain(server.client_ca.as_deref()).chain(server.client_crl.as_deref())
        })
    }

    /// Makes relative paths start at `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        for server in [&mut self.public, &mut self.ops].into_iter().flatten() {
            for files in &mut server.certificates {
                files.cert = folder.join(&files.cert);
                files.key = folder.join(&files.key);
            }
            for path in [&mut server.client_ca, &mut server.client_crl].into_iter().flatten() {
                *path = folder.join(&path);
            }
        }
    }
}

/// A PEM chain, the listener's own certificate first, and the PEM private key that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Value for CertificateFiles {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut section = node.section()?;
        let (cert, key) = (section.node("cert"), section.node("key"));
        section.finish();
        let (Some(cert), Some(key)) = (cert, key) else {
            return node.problem(format!("{} must be like {{ cert = \"cert.pem\", key = \"key.pem\" }}", node.path()));
        };
        let (cert, key) = (PathBuf::read(&cert), PathBuf::read(&key));
        Some(Self { cert: cert?, key: key? })
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MinVersion {
    Tls12,
    Tls13,
}

impl Value for MinVersion {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value().as_str() {
            Some("1.2") => Some(Self::Tls12),
            Some("1.3") => Some(Self::Tls13),
            _ => node.problem(format!("{} must be \"1.2\" or \"1.3\", in quotes", node.path())),
        }
    }
}

/// What is asked of a client. A certificate that is shown must always be valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAuth {
    Off,
    Optional,
    Required,
}

impl Value for ClientAuth {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value().as_str() {
            Some("off") => Some(Self::Off),
            Some("optional") => Some(Self::Optional),
            Some("required") => Some(Self::Required),
            _ => node.problem(format!("{} must be \"off\", \"optional\" or \"required\"", node.path())),
        }
    }
}

/// The subject of a certificate as RFC 4514 writes it, the most special part first: `CN=prometheus,O=Example`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject(pub(super) String);

impl Value for Subject {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text()?;
        match certificate::subject_of_text(&text) {
            Some(subject) => Some(Self(subject)),
            None => node.problem(format!(
                "{}: \"{text}\" is no subject such as \"CN=prometheus,O=Example\"; this shows a certificate's: \
                 openssl x509 -noout -subject -nameopt RFC2253 -in FILE",
                node.path()
            )),
        }
    }
}
