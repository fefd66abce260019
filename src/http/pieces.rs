//! Bodies in small pieces, on their way into a buffer that bounds bytes and not pieces: h2 needs some two hundred bytes
//! to hold one, however short it is.
//!
//! Pieces go on as they come while their receiver takes them; those of one that does not are put together.
//!
//! Invariants: no byte is held back while fewer than 32 small pieces wait; no order changes.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// What holding a piece costs beside its bytes is little against so many of them.
const SMALL_BYTES: usize = 512;
/// Small pieces of one body that may wait.
const PENDING_MAX: usize = 32;
/// How much is put together before it goes on whoever waits.
const GATHERED_BYTES: usize = 4 * 1024;

/// Puts the small pieces of one body together while those before them wait.
#[derive(Default)]
pub struct Gatherer {
    held: BytesMut,
    /// There once a small piece has gone on.
    pending: Option<Arc<Pending>>,
}

/// The small pieces of one body that have gone on and are still there.
#[derive(Default)]
struct Pending {
    count: AtomicUsize,
    /// Of whoever holds more of them back.
    waker: Mutex<Option<Waker>>,
}

/// A small piece that has gone on. A copy: the piece itself may be all that keeps a large buffer.
struct Counted {
    bytes: Box<[u8]>,
    pending: Arc<Pending>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.pending.count.fetch_sub(1, Ordering::AcqRel) == PENDING_MAX {
            let waker = self.pending.waker().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl Pending {
    fn has_room(&self) -> bool {
        self.count.load(Ordering::Acquire) < PENDING_MAX
    }

    fn waker(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        // Whole after any panic.
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gatherer {
    /// What goes on now that `piece` has come; `None` when that is nothing.
    pub fn give(&mut self, piece: Bytes, is_last: bool) -> Option<Bytes> {
        if self.held.is_empty() {
            if piece.len() >= SMALL_BYTES || is_last {
                return Some(piece);
            }
            if self.has_room() {
                return (!piece.is_empty()).then(|| self.counted(&piece));
            }
        }
        self.held.extend_from_slice(&piece);
        if is_last || self.held.len() >= GATHERED_BYTES { self.take_held() } else { None }
    }

    /// Ready with what was held back once there is room for it. Wakes only where something is held.
    pub fn poll_held(&mut self, cx: &Context<'_>) -> Poll<Bytes> {
        if self.held.is_empty() {
            return Poll::Pending;
        }
        if let Some(pending) = &self.pending {
            *pending.waker() = Some(cx.waker().clone());
            if !pending.has_room() {
                return Poll::Pending;
            }
        }
        let held = self.held.split();
        Poll::Ready(if held.len() < SMALL_BYTES { self.counted(&held) } else { held.freeze() })
    }

    /// What was held back, wherever it is to go.
    pub fn take_held(&mut self) -> Option<Bytes> {
        // Whole, and not split off: nothing more may come.
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then(|| held.freeze())
    }

    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    fn has_room(&self) -> bool {
        self.pending.as_ref().is_none_or(|pending| pending.has_room())
    }

    fn counted(&mut self, piece: &[u8]) -> Bytes {
        let pending = Arc::clone(self.pending.get_or_insert_default());
        pending.count.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Counted { bytes: piece.into(), pending })
    }
}

/// A body whose small pieces are put together while those before them wait.
pub struct Gathered<B> {
    body: B,
    gatherer: Gatherer,
    /// What is to follow what was held back.
    trailers: Option<Frame<Bytes>>,
    is_over: bool,
}

impl<B> Gathered<B> {
    pub fn new(body: B) -> Self {
        Self { body, gatherer: Gatherer::default(), trailers: None, is_over: false }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Gathered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        while !this.is_over {
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return this.gatherer.poll_held(cx).map(|held| Some(Ok(Frame::data(held)))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) => {
                    this.is_over = true;
                    break;
                }
            };
            match frame.into_data() {
                Ok(piece) => {
                    if let Some(piece) = this.gatherer.give(piece, this.body.is_end_stream()) {
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
                Err(trailers) => {
                    this.is_over = true;
                    this.trailers = Some(trailers);
                }
            }
        }
        let held = this.gatherer.take_held().map(Frame::data);
        Poll::Ready(held.or_else(|| this.trailers.take()).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.gatherer.held_bytes() == 0 && self.trailers.is_none() && (self.is_over || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.gatherer.held_bytes() as u64;
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + held);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}
