//! The body of a request on its way into an HTTP/2 stream.
//!
//! Keeps what little of it was sent until the response begins, so that a request that the upstream did not look at can
//! be sent elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::RequestContent;
use super::http2::Permit;
use crate::http::pieces::Gatherer;

/// How much of a body is kept. Small requests are most of those that an upstream refuses when it shuts down.
const KEPT_BYTES_MAX: usize = 64 << 10;
const KEPT_PIECES_MAX: usize = 64;

/// What was read of a request's body, whole and in order.
#[derive(Debug, Default)]
pub struct Unread {
    pub pieces: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
}

pub(super) struct Upload<B> {
    body: B,
    stream: SendStream<Bytes>,
    gatherer: Gatherer,
    /// A piece that waits for room in the stream's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    /// What follows all of that, once it has come.
    trailers: Option<HeaderMap>,
    is_over: bool,
    /// `None` once it would be too much.
    kept: Option<Unread>,
    kept_bytes: usize,
    /// Pieces that were handed over.
    moved: u64,
}

/// The client's body did not reach its end. Its own state says why.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the request's body broke off")]
pub(super) struct Broken;

impl<B: RequestContent> Upload<B> {
    pub(super) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        let kept = Some(Unread::default());
        Self {
            body,
            stream,
            gatherer: Gatherer::default(),
            waiting: None,
            trailers: None,
            is_over: false,
            kept,
            kept_bytes: 0,
            moved: 0,
        }
    }

    /// Sends what there is. Ready when all of it is handed over, or the upstream takes no more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.is_over {
            // Why it was reset is told to whoever waits for the response.
            if self.stream.poll_reset(cx).is_ready() {
                self.is_over = true;
                break;
            }
            match &self.waiting {
                Some((piece, _)) if !piece.is_empty() && self.stream.capacity() == 0 => {
                    match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => self.is_over = true,
                    }
                }
                Some(_) => self.send_waiting(),
                None if self.trailers.is_some() => self.send_trailers(),
                None => ready!(self.poll_body(cx))?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send_waiting(&mut self) {
        let Some((piece, is_last)) = self.waiting.take() else { return };
        self.moved += 1;
        self.is_over = self.stream.send_data(piece, is_last).is_err() || is_last;
    }

    fn send_trailers(&mut self) {
        let Some(trailers) = self.trailers.take() else { return };
        self.stream.reserve_capacity(0);
        let _ = self.stream.send_trailers(trailers);
        self.is_over = true;
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                let held = ready!(self.gatherer.poll_held(cx));
                self.wait_with(held, false);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(None) => {
                let held = self.gatherer.take_held().unwrap_or_default();
                self.wait_with(held, true);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(_))) => {
                self.is_over = true;
                self.stream.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(Broken));
            }
        };
        match frame.into_data() {
            Ok(piece) => {
                self.keep(&piece);
                let is_last = self.body.is_end_stream();
                if let Some(piece) = self.gatherer.give(piece, is_last) {
                    self.wait_with(piece, is_last);
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                if let Some(kept) = &mut self.kept {
                    kept.trailers = Some(trailers.clone());
                }
                if let Some(held) = self.gatherer.take_held() {
                    self.wait_with(held, false);
                }
                self.trailers = Some(trailers);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wait_with(&mut self, piece: Bytes, is_last: bool) {
        // More than it has is asked for when it is sent; a whole piece now would starve other streams.
        self.stream.reserve_capacity(usize::from(!piece.is_empty()));
        self.waiting = Some((piece, is_last));
    }

    fn keep(&mut self, piece: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        self.kept_bytes += piece.len();
        if self.kept_bytes > KEPT_BYTES_MAX || kept.pieces.len() >= KEPT_PIECES_MAX {
            self.kept = None;
        } else {
            kept.pieces.push(piece.clone());
        }
    }

    /// The body as it was before any of it was sent; `None` when that is no longer known.
    pub(super) fn into_body(self) -> Option<B> {
        let (mut body, kept) = (self.body, self.kept?);
        body.unread(kept);
        Some(body)
    }

    /// Sends the rest beside the response. `None` when there is no rest.
    pub(super) fn spawn(mut self, permit: Arc<Permit>, stall_max: Duration) -> Option<Uploading> {
        if self.is_over {
            return None;
        }
        self.kept = None;
        Some(Uploading::spawn(stall_max, move |progress| async move {
            // The stream has been reset if it broke, which is all that there is to tell.
            let _ = std::future::poll_fn(|cx| {
                let before = self.moved;
                let polled = self.poll(cx);
                if self.moved > before {
                    progress.moved();
                }
                polled
            })
            .await;
            drop(permit);
        }))
    }
}

/// How the sending of what is left goes.
#[derive(Default)]
pub(super) struct Progress {
    /// Grows with every piece.
    moved: AtomicU64,
    /// Told once when nobody waits for the response any more.
    is_alone: Notify,
}

impl Progress {
    pub(super) fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends when nothing has moved for `max` after the response was whole.
    async fn stall(&self, max: Duration) {
        self.is_alone.notified().await;
        loop {
            let before = self.moved.load(Ordering::Relaxed);
            tokio::time::sleep(max).await;
            if self.moved.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// A request's body that goes on while its response arrives. Dropped, it stops, and its stream is reset.
pub(super) struct Uploading {
    task: Option<AbortHandle>,
    progress: Arc<Progress>,
}

impl Uploading {
    /// Starts what sends the rest, and says so whenever something moves.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        stall_max: Duration,
        send: impl FnOnce(Arc<Progress>) -> F,
    ) -> Self {
        let progress = Arc::<Progress>::default();
        let (watched, sending) = (Arc::clone(&progress), send(Arc::clone(&progress)));
        let task = tokio::spawn(async move {
            tokio::select! {
                () = sending => {}
                () = watched.stall(stall_max) => {}
            }
        });
        Self { task: Some(task.abort_handle()), progress }
    }

    /// Lets the rest of the body follow a response that is whole. An upstream that takes nothing of it for too long has
    /// no use for it; nobody else would notice.
    pub(super) fn go_on_alone(mut self) {
        self.task = None;
        self.progress.is_alone.notify_one();
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
