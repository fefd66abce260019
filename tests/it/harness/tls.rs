//! Certificates made for a test, and a blocking TLS client that trusts them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use super::DEADLINE;
use super::wire::Wire;

/// The name that the gate's certificate is for unless a test says otherwise.
pub const GATE: &str = "gate.test";

/// An authority, and a folder with what it has issued.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The PEM files of a certificate and its key.
#[derive(Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("writable");
        Self { folder, issuer }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority's own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Issues `NAME.pem` and `NAME.key`, or replaces them, for a server with these names.
    pub fn server(&self, file: &str, names: &[&str]) -> Pair {
        self.issue(file, names, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// Issues a client's certificate with the subject `CN=NAME,O=Example`.
    pub fn client(&self, name: &str) -> Pair {
        self.client_with(name, |_| {})
    }

    pub fn client_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue(name, &[], |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    /// Writes the list of the certificates that the authority has revoked, by their serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2200, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder().join("revoked.pem");
        let list = list.signed_by(&self.issuer).expect("a list").pem().expect("PEM");
        // Replaced whole, as a file that is read at any time must be.
        std::fs::write(path.with_extension("new"), list).expect("writable");
        std::fs::rename(path.with_extension("new"), &path).expect("one folder");
        path
    }

    pub fn issue(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair =
            Pair { cert: self.folder().join(format!("{file}.pem")), key: self.folder().join(format!("{file}.key")) };
        std::fs::write(&pair.cert, certificate.pem()).expect("writable");
        std::fs::write(&pair.key, key.serialize_pem()).expect("writable");
        pair
    }
}

/// Ends the validity so many seconds from now, in the past if negative.
pub fn expires_in(params: &mut CertificateParams, seconds: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let at = now.checked_add_signed(seconds).expect("after 1970");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(at);
}

impl Pair {
    /// As a line of `[tls.X]` has it.
    pub fn toml(&self) -> String {
        format!("{{ cert = {:?}, key = {:?} }}", self.cert, self.key)
    }

    /// The first certificate in the file.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).expect("a certificate")
    }
}

/// How a client shakes hands. Keeps the tickets that it is given.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

impl TlsClient {
    pub fn trusting(authority: &Authority) -> Self {
        Self::with(authority, None, rustls::ALL_VERSIONS)
    }

    /// Speaks only these versions.
    pub fn speaking(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::with(authority, None, versions)
    }

    /// Shows this certificate when it is asked for one.
    pub fn showing(authority: &Authority, own: &Pair) -> Self {
        Self::with(authority, Some(own), rustls::ALL_VERSIONS)
    }

    pub fn with(authority: &Authority, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::build(authority, own.map(|own| (own, Vec::new())), versions)
    }

    fn build(
        authority: &Authority,
        own: Option<(&Pair, Vec<CertificateDer<'static>>)>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).expect("a certificate")).expect("an authority");
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match own {
            Some((own, more)) => {
                let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
                let chain = std::iter::once(own.certificate()).chain(more).collect();
                builder.with_client_auth_cert(chain, key).expect("a certificate with its key")
            }
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config) }
    }

    /// Offers its cipher suites in the opposite order.
    pub fn backwards(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.reverse();
        let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.file()).expect("a certificate")).expect("an authority");
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Self { config: Arc::new(config) }
    }

    /// Shows this certificate and then so many copies of that of its authority.
    pub fn showing_chain(authority: &Authority, own: &Pair, issuer: &Authority, length: usize) -> Self {
        let issuer = CertificateDer::from_pem_file(issuer.file()).expect("a certificate");
        Self::build(authority, Some((own, vec![issuer; length])), rustls::ALL_VERSIONS)
    }

    /// For a client of another kind.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&[u8]]) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        self
    }

    /// A connection after the client's part of the handshake. A server that refuses a client's certificate is only heard
    /// of by the first read.
    #[track_caller]
    pub fn connect(&self, address: SocketAddr, name: &str) -> Wire {
        Wire::over_tls(self.shake(address, name).unwrap_or_else(|error| panic!("{name} at {address}: {error}")))
    }

    /// The gate's own certificate, and how the handshake went.
    #[track_caller]
    pub fn certificate_shown(&self, address: SocketAddr, name: &str) -> CertificateDer<'static> {
        let stream = self.shake(address, name).unwrap_or_else(|error| panic!("{name} at {address}: {error}"));
        stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    /// Whether the session was resumed, once a request was answered on it.
    #[track_caller]
    pub fn resumes(&self, address: SocketAddr, request: &[u8]) -> bool {
        let mut stream = self.shake(address, GATE).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.write_all(request).expect("taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer with an orderly end");
        assert!(answer.starts_with(b"HTTP/1.1 "), "{:?}", String::from_utf8_lossy(&answer));
        stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Why there is no connection: what the client says of its handshake and of the first read after it.
    #[track_caller]
    pub fn refusal(&self, address: SocketAddr, name: &str) -> String {
        let mut stream = match self.shake(address, name) {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        let asked =
            stream.write_all(b"GET /public/x HTTP/1.1\r\nHost: gate.test\r\n\r\n").and_then(|()| stream.flush());
        let mut answer = [0; 32];
        match asked.and_then(|()| stream.read(&mut answer)) {
            Ok(count) => panic!("not refused: {:?}", String::from_utf8_lossy(&answer[..count])),
            Err(error) => error.to_string(),
        }
    }

    /// The bytes of a client's first message.
    pub fn hello(&self, name: &str) -> Vec<u8> {
        let mut hello = Vec::new();
        self.connection(name).write_tls(&mut hello).expect("a vector takes all");
        hello
    }

    fn connection(&self, name: &str) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        ClientConnection::new(Arc::clone(&self.config), name).expect("a client")
    }

    /// Shakes hands over a connection, sending the client's bytes as `send` does.
    pub fn shake(&self, address: SocketAddr, name: &str) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        self.shake_behind(b"", address, name)
    }

    /// As [`TlsClient::shake`], with these bytes in clear text before the handshake.
    pub fn shake_behind(
        &self,
        header: &[u8],
        address: SocketAddr,
        name: &str,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut socket = TcpStream::connect_timeout(&address, DEADLINE)?;
        socket.write_all(header)?;
        self.shake_on(socket, name)
    }

    /// As [`TlsClient::shake`], over a connection that is there.
    pub fn shake_on(&self, socket: TcpStream, name: &str) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        let mut stream = StreamOwned::new(self.connection(name), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// As [`TlsClient::connect`], each byte of the handshake in a segment of its own.
    #[track_caller]
    pub fn connect_dribbling(&self, address: SocketAddr, name: &str) -> Wire {
        let mut socket = TcpStream::connect_timeout(&address, DEADLINE).expect("the gate accepts connections");
        socket.set_nodelay(true).expect("nodelay");
        socket.set_read_timeout(Some(DEADLINE)).expect("read timeout");
        let mut conn = self.connection(name);
        while conn.is_handshaking() {
            let mut bytes = Vec::new();
            while conn.wants_write() {
                conn.write_tls(&mut bytes).expect("a vector takes all");
            }
            bytes.iter().for_each(|byte| socket.write_all(&[*byte]).expect("taken"));
            if conn.is_handshaking() {
                conn.read_tls(&mut socket).expect("the gate's part");
                conn.process_new_packets().expect("a good handshake");
            }
        }
        Wire::over_tls(StreamOwned::new(conn, socket))
    }
}
