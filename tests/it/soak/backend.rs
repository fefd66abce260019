//! An upstream that answers with the path that it was asked for, or does what bad ones do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::secrets;

const EVENT: &str = "8\r\ndata: x\n\r\n";
const BETWEEN_EVENTS: Duration = Duration::from_millis(500);

/// What it does with every request from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Mood {
    /// Sends a response that has two lengths.
    Babbles,
    /// Ends in the middle of a body.
    Cuts,
    /// Answers nothing.
    Hangs,
    /// Resets the connection.
    Resets,
    #[default]
    Well,
}

/// Runs on a thread of its own until the tests end.
pub struct Backend {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
}

impl Backend {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of tokio's kind");
        let address = listener.local_addr().expect("an address");
        let mood = Arc::default();
        let moods = Arc::clone(&mood);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, moods))
        });
        Self { address, mood }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn turn(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }
}

async fn accept(listener: std::net::TcpListener, moods: Arc<Mutex<Mood>>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream, Arc::clone(&moods)));
    }
}

async fn serve(mut stream: TcpStream, moods: Arc<Mutex<Mood>>) -> Option<()> {
    let mut received = Vec::new();
    loop {
        let path = next_request(&mut stream, &mut received).await?;
        let mood = *moods.lock().unwrap_or_else(PoisonError::into_inner);
        let response = match mood {
            Mood::Babbles => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".to_owned(),
            Mood::Cuts => {
                let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{path}");
                stream.write_all(cut.as_bytes()).await.ok()?;
                return None;
            }
            Mood::Hangs => {
                while stream.read(&mut [0; 512]).await.ok()? > 0 {}
                return None;
            }
            Mood::Resets => {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return None;
            }
            Mood::Well if path.ends_with("/events") => return send_events(&mut stream).await,
            Mood::Well => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()),
        };
        stream.write_all(response.as_bytes()).await.ok()?;
    }
}

async fn send_events(stream: &mut TcpStream) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut turns = tokio::time::interval(BETWEEN_EVENTS);
    loop {
        turns.tick().await;
        stream.write_all(EVENT.as_bytes()).await.ok()?;
    }
}

/// The path of the next request, once its body has been taken too.
async fn next_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<String> {
    let end = loop {
        if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(stream, received).await?;
    };
    secrets::check("what an upstream got", &received[..end]);
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
    while received.len() < end + length {
        read_more(stream, received).await?;
    }
    received.drain(..end + length);
    Some(path)
}

async fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4_096];
    let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
    received.extend_from_slice(&buffer[..count]);
    Some(())
}
