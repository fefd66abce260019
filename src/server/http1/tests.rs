//! One connection over a pair of sockets.

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

/// Gives its pieces and then nothing, not even its end.
struct Endless(VecDeque<&'static [u8]>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[derive(Clone)]
struct Answers;

impl Handler for Answers {
    type Body = Endless;

    async fn handle(&self, _: Request<Incoming>, _: Exchange) -> Response<Endless> {
        Response::new(Endless([&b"o"[..], b"k"].into()))
    }
}

#[tokio::test]
async fn response_is_over_with_its_last_byte_whenever_its_sender_says_so() {
    let (mut client, socket) = UnixStream::pair().expect("sockets");
    let (_drain, draining) = crate::server::drain();
    let info = ConnectionInfo::new(([127, 0, 0, 1], 1).into(), None);
    let settings = Client::default();
    let serving = serve(socket, info, &settings, Answers, &draining);
    let talking = async {
        client.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n".repeat(2).as_slice()).await.expect("room");
        client.write_all(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await.expect("room");
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.expect("an orderly end");
        answers
    };
    let (served, answers) = tokio::join!(serving, talking);
    served.expect("nothing went wrong");
    assert_eq!(answers.matches("\r\n\r\nok").count(), 3, "{answers}");
}
