//! What stands before a recording upstream so that it is reached in another way: over TLS, or through a unix socket.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::tls::{Authority, Pair};

/// A TLS server that passes on what it decrypts. It ends when it is dropped.
pub struct TlsFront {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ends: Notify,
    handshakes: AtomicUsize,
    cuts: AtomicBool,
    client: std::sync::Mutex<Option<usize>>,
}

impl TlsFront {
    /// Offers these protocols, each with the address that what it carries is for; whoever negotiates none gets the last.
    pub fn start(pair: &Pair, protocols: &[(&str, SocketAddr)]) -> Self {
        Self::with(pair, protocols, None)
    }

    /// The same for clients with a certificate of `authority` only.
    pub fn for_clients_of(authority: &Authority, pair: &Pair, protocols: &[(&str, SocketAddr)]) -> Self {
        Self::with(pair, protocols, Some(authority))
    }

    fn with(pair: &Pair, protocols: &[(&str, SocketAddr)], clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_file_iter(&pair.cert).expect("a chain").map(|one| one.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(authority.file()).expect("PEM")).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let mut config = builder.with_single_cert(chain, key).expect("a server");
        config.alpn_protocols = protocols.iter().map(|(name, _)| name.as_bytes().to_vec()).collect();
        let protocols: Vec<(Vec<u8>, SocketAddr)> =
            protocols.iter().map(|(name, address)| (name.as_bytes().to_vec(), *address)).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("a local address");
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let acceptor = TlsAcceptor::from(Arc::new(config));
                tokio::select! {
                    () = accept(&listener, &acceptor, &protocols, &for_thread) => {}
                    () = for_thread.ends.notified() => {}
                }
            });
        });
        Self { address, shared, running: Some(running) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many handshakes have succeeded.
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::SeqCst)
    }

    /// How many certificates the last client has shown; `None` while there was none.
    pub fn certificates_of_client(&self) -> Option<usize> {
        *self.shared.client.lock().expect("not poisoned")
    }

    /// From now on, connections end without a word when the upstream ends its own.
    pub fn cut(&self) {
        self.shared.cuts.store(true, Ordering::SeqCst);
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.shared.ends.notify_one();
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    acceptor: &TlsAcceptor,
    protocols: &[(Vec<u8>, SocketAddr)],
    shared: &Arc<Shared>,
) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let (acceptor, protocols, shared) = (acceptor.clone(), protocols.to_vec(), Arc::clone(shared));
        tokio::spawn(async move {
            let Ok(secure) = acceptor.accept(socket).await else { return };
            shared.handshakes.fetch_add(1, Ordering::SeqCst);
            let state = secure.get_ref().1;
            *shared.client.lock().expect("not poisoned") = state.peer_certificates().map(<[_]>::len);
            let chosen = state.alpn_protocol().map(<[u8]>::to_vec);
            let found = protocols.iter().find(|(name, _)| Some(name) == chosen.as_ref()).or(protocols.last());
            let (_, address) = found.expect("an address");
            let Ok(plain) = tokio::net::TcpStream::connect(*address).await else { return };
            pass(secure, plain, &shared).await;
        });
    }
}

async fn pass(
    secure: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    plain: tokio::net::TcpStream,
    shared: &Shared,
) {
    let (mut secure_in, mut secure_out) = tokio::io::split(secure);
    let (mut plain_in, mut plain_out) = plain.into_split();
    let there = async {
        let _ = tokio::io::copy(&mut secure_in, &mut plain_out).await;
        let _ = plain_out.shutdown().await;
    };
    let back = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = plain_in.read(&mut buffer).await {
            if secure_out.write_all(&buffer[..count]).await.is_err() || secure_out.flush().await.is_err() {
                return true;
            }
        }
        let cuts = shared.cuts.load(Ordering::SeqCst);
        if !cuts {
            let _ = secure_out.shutdown().await;
        }
        cuts
    };
    tokio::pin!(there);
    tokio::select! {
        () = &mut there => {}
        is_cut = back => if !is_cut { there.await },
    }
}

/// A unix socket that passes on what comes in. It ends when it is dropped, and so does the socket.
pub struct UnixFront {
    folder: TempDir,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl UnixFront {
    pub fn start(target: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("app.sock")).expect("a unix socket");
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        let accepting = std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(far) = TcpStream::connect(target) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                std::thread::spawn(move || copy(near, far));
                std::thread::spawn(move || copy_back(far_too, near_too));
            }
        });
        Self { folder, ended, accepting: Some(accepting) }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("app.sock")
    }
}

fn copy(mut near: UnixStream, mut far: TcpStream) {
    let _ = std::io::copy(&mut near, &mut far);
    let _ = far.shutdown(Shutdown::Write);
}

fn copy_back(mut far: TcpStream, mut near: UnixStream) {
    let _ = std::io::copy(&mut far, &mut near);
    let _ = near.shutdown(Shutdown::Write);
}

impl Drop for UnixFront {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.path());
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A path at which nothing listens.
pub fn dead_socket(folder: &Path) -> PathBuf {
    let path = folder.join("dead.sock");
    drop(UnixListener::bind(&path).expect("a unix socket"));
    path
}
