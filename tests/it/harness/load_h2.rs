//! Requests at a steady pace over HTTP/2 and TLS, from clients that send again only what came back unserved.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::Request;
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::DEADLINE;
use super::load::Tally;
use super::tls::{GATE, TlsClient};

/// How many are sent, and how.
#[derive(Clone, Copy, Debug)]
pub struct H2Pace {
    pub connections: u32,
    /// Requests that a client sends at once, before it waits for its next turn.
    pub streams: u32,
    /// Over all connections. A client that was held up catches up.
    pub per_second: u32,
}

/// Running clients, all on one thread.
pub struct H2Load {
    stop: watch::Sender<bool>,
    begun: Instant,
    thread: JoinHandle<Vec<Tally>>,
}

impl H2Load {
    /// Gets `path` with this Authorization from now on.
    pub fn start(address: SocketAddr, tls: &TlsClient, path: &str, authorization: &str, pace: H2Pace) -> Self {
        let connector = TlsConnector::from(tls.clone().alpn(&[b"h2"]).config());
        let request = Request::get(format!("https://{GATE}{path}")).header("authorization", authorization);
        let request = Arc::new(request.body(()).expect("a request"));
        let (stop, stopped) = watch::channel(false);
        let interval = Duration::from_secs(1) * (pace.connections * pace.streams) / pace.per_second;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut clients = JoinSet::new();
                for _ in 0..pace.connections {
                    let (connector, request) = (connector.clone(), Arc::clone(&request));
                    let client = Client { address, connector, request, requests: None, tally: Tally::default() };
                    clients.spawn(client.run(pace.streams, interval, stopped.clone()));
                }
                clients.join_all().await
            })
        });
        Self { stop, begun: Instant::now(), thread }
    }

    /// Ends the clients after their present requests.
    pub fn stop(self) -> Tally {
        let _ = self.stop.send(true);
        let took = self.begun.elapsed();
        let tallies = self.thread.join().expect("clients count what goes wrong");
        Tally { took, ..tallies.into_iter().fold(Tally::default(), Tally::and) }
    }
}

struct Client {
    address: SocketAddr,
    connector: TlsConnector,
    request: Arc<Request<()>>,
    requests: Option<SendRequest<Bytes>>,
    tally: Tally,
}

/// What became of one request.
enum Outcome {
    Answered,
    Failed(String),
    /// RFC 9113 §6.8, §8.7: the gate has done nothing with it, and said so.
    Unserved,
}

impl Client {
    async fn run(mut self, streams: u32, interval: Duration, stopped: watch::Receiver<bool>) -> Tally {
        let mut next = tokio::time::Instant::now();
        while !*stopped.borrow() {
            tokio::time::sleep_until(next).await;
            next += interval;
            let begun = Instant::now();
            let mut wanted = streams;
            while wanted > 0 {
                wanted = self.send(wanted).await;
            }
            self.tally.took_turn(begun.elapsed());
        }
        self.tally
    }

    /// Sends so many at once, and returns how many must be sent again.
    async fn send(&mut self, count: u32) -> u32 {
        let requests = match self.requests.take() {
            Some(requests) => requests,
            None => {
                match timeout(DEADLINE, self.connect()).await.unwrap_or_else(|_| Err("no connection in time".into())) {
                    Ok(requests) => requests,
                    Err(failure) => {
                        self.tally.fail(failure);
                        return 0;
                    }
                }
            }
        };
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let call = call(requests.clone(), Arc::clone(&self.request));
            calls.spawn(async { timeout(DEADLINE, call).await.unwrap_or(Outcome::Failed("no answer in time".into())) });
        }
        let mut unserved = 0;
        for outcome in calls.join_all().await {
            match outcome {
                Outcome::Answered => self.tally.answered += 1,
                Outcome::Failed(failure) => self.tally.fail(failure),
                Outcome::Unserved => unserved += 1,
            }
        }
        self.tally.returned += u64::from(unserved);
        self.requests = (unserved == 0).then_some(requests);
        unserved
    }

    async fn connect(&mut self) -> Result<SendRequest<Bytes>, String> {
        self.tally.connections += 1;
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let socket = tokio::net::TcpStream::connect(self.address).await.map_err(failed("connect"))?;
        socket.set_nodelay(true).map_err(failed("nodelay"))?;
        let name = ServerName::try_from(GATE).expect("a name");
        let stream = self.connector.connect(name, socket).await.map_err(failed("handshake"))?;
        let (requests, connection) =
            h2::client::handshake(stream).await.map_err(|error| format!("preface: {error}"))?;
        tokio::spawn(connection);
        Ok(requests)
    }
}

async fn call(requests: SendRequest<Bytes>, request: Arc<Request<()>>) -> Outcome {
    let sent = match requests.ready().await {
        Ok(mut requests) => requests.send_request((*request).clone(), true),
        Err(error) => Err(error),
    };
    let head = match sent {
        Ok((head, _)) => head.await,
        Err(error) => Err(error),
    };
    let response = match head {
        Ok(response) => response,
        Err(error) if is_unserved(&error) => return Outcome::Unserved,
        Err(error) => return Outcome::Failed(format!("no answer: {error:?}")),
    };
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return Outcome::Failed(format!("a {status} broke off: {error:?}")),
        }
    }
    if status == 200 {
        Outcome::Answered
    } else {
        Outcome::Failed(format!("{status} {}", String::from_utf8_lossy(&bytes)))
    }
}

fn is_unserved(error: &h2::Error) -> bool {
    let wanted = if error.is_go_away() { Reason::NO_ERROR } else { Reason::REFUSED_STREAM };
    error.is_remote() && error.reason() == Some(wanted)
}
