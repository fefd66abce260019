//! An upstream that takes and gives bodies of any size and keeps nothing of them, for any number of connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Runs on a thread of its own until the tests end. Answers `GET …/give/N` with N bytes, everything else with `ok` once
/// the request's body is there.
pub struct Tank {
    address: SocketAddr,
    taken: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tongue {
    Http1,
    Http2,
}

/// So many zeros.
pub struct Zeros {
    left: u64,
}

const PIECE: &[u8] = &[0; 64 * 1024];

impl Zeros {
    pub fn new(count: u64) -> Self {
        Self { left: count }
    }
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = &PIECE[..PIECE.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Tank {
    pub fn start(tongue: Tongue) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        socket2::SockRef::from(&listener).listen(4_096).expect("a longer backlog");
        listener.set_nonblocking(true).expect("a socket of tokio's kind");
        let address = listener.local_addr().expect("an address");
        let (taken, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (Arc::clone(&taken), Arc::clone(&requests));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, tongue, counters))
        });
        Self { address, taken, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes of bodies that have come.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Requests that have begun.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

type Counters = (Arc<AtomicU64>, Arc<AtomicU64>);

async fn accept(listener: std::net::TcpListener, tongue: Tongue, counters: Counters) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let counters = counters.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, counters.clone()));
            let _ = match tongue {
                Tongue::Http1 => http1::Builder::new().serve_connection(TokioIo::new(socket), service).await,
                Tongue::Http2 => {
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder.max_concurrent_streams(1_000).serve_connection(TokioIo::new(socket), service).await
                }
            };
        });
    }
}

async fn answer(request: Request<Incoming>, (taken, requests): Counters) -> Result<Response<Zeros>, Infallible> {
    requests.fetch_add(1, Ordering::SeqCst);
    let (parts, mut body) = request.into_parts();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        taken.fetch_add(frame.data_ref().map_or(0, |piece| piece.len() as u64), Ordering::SeqCst);
    }
    let asked = parts.uri.path().rsplit_once("/give/").and_then(|(_, count)| count.parse().ok());
    Ok(Response::new(Zeros::new(asked.unwrap_or(2))))
}
