//! The streams of one connection, and how much either side may still send on them: what flow control says of who waits
//! for whom.
//!
//! Invariants: a stream is listed from its first frame until either side has reset it or both have ended it; no more are
//! listed than twice what may run, and a few; a deadline exists only while somebody waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::settings::Http2;
use crate::http::framing::frames::Frame;
use crate::server::settings::Client;
use crate::server::watch::{Moment, Phase, Watch};

/// RFC 9113 §6.9.2: what every window is until somebody says otherwise.
const WINDOW: i64 = 65_535;

pub(super) struct Streams {
    /// The connection's.
    watch: Arc<Watch>,
    listed: BTreeMap<u32, Stream>,
    listed_max: usize,
    /// What a client may send on a new stream.
    stream_window: i64,
    body_timeout: Duration,
    write_timeout: Duration,
    /// Responses that have begun and not ended.
    sending: usize,
    /// What the client takes on each new stream.
    initial_window: i64,
    /// What it still takes on all together, and what it may still send.
    window: i64,
    credit: i64,
    /// How many streams have a deadline.
    waits: usize,
    /// When to give up on a client that takes nothing on any stream.
    stalled_until: Option<Moment>,
    /// The present, once somebody has asked for it.
    now: Option<Instant>,
}

struct Stream {
    window: i64,
    credit: i64,
    has_request_ended: bool,
    /// Whether its client may be waiting to be asked for its body.
    holds_back: bool,
    response: Progress,
    /// Of its handler.
    watch: Option<Arc<Watch>>,
    /// When to give up on a client that takes nothing.
    stalled_until: Option<Moment>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Progress {
    Awaited,
    Begun,
    Ended,
}

impl Streams {
    pub(super) fn new(client: &Client, http2: &Http2, watch: Arc<Watch>) -> Self {
        let streams_max = usize::try_from(http2.streams_max.get()).unwrap_or(usize::MAX);
        Self {
            watch,
            listed: BTreeMap::new(),
            listed_max: streams_max.saturating_mul(2).saturating_add(16),
            stream_window: http2.stream_window.get().into(),
            body_timeout: client.body_timeout,
            write_timeout: client.write_timeout,
            sending: 0,
            initial_window: WINDOW,
            window: WINDOW,
            credit: WINDOW,
            waits: 0,
            stalled_until: None,
            now: None,
        }
    }

    /// To be called before a run of events: time has passed.
    pub(super) fn begin(&mut self) {
        self.now = None;
    }

    pub(super) fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Lists a new stream; `false` when there are too many.
    pub(super) fn open(&mut self, id: u32) -> bool {
        if self.listed.len() >= self.listed_max {
            return false;
        }
        let stream = Stream {
            window: self.initial_window,
            credit: self.stream_window,
            has_request_ended: false,
            holds_back: false,
            response: Progress::Awaited,
            watch: None,
            stalled_until: None,
        };
        self.listed.insert(id, stream);
        true
    }

    /// `watch` is that of the stream's handler.
    pub(super) fn adopt(&mut self, id: u32, watch: &Arc<Watch>, holds_back: bool) {
        if let Some(stream) = self.listed.get_mut(&id) {
            stream.holds_back = holds_back;
            stream.watch = Some(Arc::clone(watch));
            self.await_body(id);
        }
    }

    pub(super) fn is_answered(&self, id: u32) -> bool {
        self.listed.get(&id).is_none_or(|stream| stream.response == Progress::Ended)
    }

    /// Whether a client waits to be asked for a body: neither anything of it has come, nor the answer been begun.
    pub(super) fn is_held_back(&self, id: u32) -> bool {
        self.listed.get(&id).is_some_and(|stream| stream.holds_back && stream.response == Progress::Awaited)
    }

    /// Whether a request has no answer yet, not even the begin of one.
    pub(super) fn is_unanswered(&self, id: u32) -> bool {
        self.listed.get(&id).is_some_and(|stream| stream.response == Progress::Awaited)
    }

    /// The client is asked for a body, once. `false` when that would be needless.
    pub(super) fn invite(&mut self, id: u32) -> bool {
        let is_due = self.is_held_back(id);
        if let Some(stream) = self.listed.get_mut(&id) {
            stream.holds_back = false;
        }
        if is_due {
            self.await_body(id);
        }
        is_due
    }

    /// The client has sent a piece of a body.
    pub(super) fn received(&mut self, data: Frame) {
        let len = i64::try_from(data.len).unwrap_or(i64::MAX);
        let was_open = self.credit > 0;
        self.credit -= len;
        if let Some(stream) = self.listed.get_mut(&data.stream) {
            stream.credit -= len;
            stream.holds_back = false;
        }
        if was_open && self.credit <= 0 {
            self.await_bodies();
        } else {
            self.await_body(data.stream);
        }
    }

    pub(super) fn request_ended(&mut self, id: u32) {
        let Some(stream) = self.listed.get_mut(&id) else { return };
        stream.has_request_ended = true;
        stream.holds_back = false;
        stream.await_nothing();
        if stream.response == Progress::Ended {
            self.forget(id);
        }
    }

    /// A response's head is on its way. Both sides may take their time from now on: a conversation is no upload.
    pub(super) fn response_begun(&mut self, head: Frame) {
        let Some(stream) = self.listed.get_mut(&head.stream) else { return };
        if stream.response != Progress::Awaited {
            return;
        }
        stream.response = Progress::Begun;
        stream.await_nothing();
        self.sending += 1;
        // What ends the response waits for no window.
        if !head.ends_stream() {
            self.check_stalls(head.stream);
        }
    }

    /// A piece of a response's body is on its way.
    pub(super) fn sent(&mut self, data: Frame) {
        let len = i64::try_from(data.len).unwrap_or(i64::MAX);
        self.window -= len;
        if let Some(stream) = self.listed.get_mut(&data.stream) {
            stream.window -= len;
        }
        if !data.ends_stream() {
            self.check_stalls(data.stream);
        }
    }

    pub(super) fn response_ended(&mut self, id: u32) {
        let Some(stream) = self.listed.get_mut(&id) else { return };
        self.sending -= usize::from(stream.response == Progress::Begun);
        self.waits -= usize::from(stream.stalled_until.take().is_some());
        stream.response = Progress::Ended;
        if stream.has_request_ended {
            self.forget(id);
        }
        self.check_connection();
    }

    /// A stream was reset, by whomever, or has ended.
    pub(super) fn forget(&mut self, id: u32) {
        let Some(stream) = self.listed.remove(&id) else { return };
        self.sending -= usize::from(stream.response == Progress::Begun);
        self.waits -= usize::from(stream.stalled_until.is_some());
        stream.await_nothing();
        self.check_connection();
    }

    /// The client takes so much on each stream.
    pub(super) fn set_initial_window(&mut self, size: u32) {
        let change = i64::from(size) - self.initial_window;
        if change == 0 {
            return;
        }
        self.initial_window = size.into();
        self.listed.values_mut().for_each(|stream| stream.window += change);
        let listed: Vec<u32> = self.listed.keys().copied().collect();
        listed.into_iter().for_each(|id| self.check_stream(id));
    }

    /// The client takes more; stream 0 is the connection.
    pub(super) fn widened(&mut self, id: u32, increment: u32) {
        if id == 0 {
            self.window += i64::from(increment);
            self.check_connection();
        } else if let Some(stream) = self.listed.get_mut(&id) {
            stream.window += i64::from(increment);
            self.check_stream(id);
        }
    }

    /// The client may send more; stream 0 is the connection.
    pub(super) fn credited(&mut self, id: u32, increment: u32) {
        if let Some(stream) = self.listed.get_mut(&id) {
            stream.credit += i64::from(increment);
            return self.await_body(id);
        }
        if id == 0 {
            let was_open = self.credit > 0;
            self.credit += i64::from(increment);
            if !was_open {
                self.await_bodies();
            }
        }
    }

    /// Whether a response is on its way to the client.
    pub(super) fn is_sending(&self) -> bool {
        self.sending > 0
    }

    /// The earliest time by which the client must have taken something.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let of_streams = match self.waits {
            0 => None,
            _ => self.listed.values().filter_map(|stream| stream.stalled_until).min(),
        };
        self.stalled_until.into_iter().chain(of_streams).min()
    }

    /// Whether the client has taken nothing of anything for too long.
    pub(super) fn has_stalled(&self) -> bool {
        self.has_expired(self.stalled_until)
    }

    /// Forgets the streams of which the client has taken nothing for too long, and tells them.
    pub(super) fn take_stalled(&mut self) -> Vec<u32> {
        if self.waits == 0 {
            return Vec::new();
        }
        let stalled = self.listed.iter().filter(|(_, stream)| self.has_expired(stream.stalled_until));
        let stalled: Vec<u32> = stalled.map(|(id, _)| *id).collect();
        stalled.iter().for_each(|id| self.forget(*id));
        stalled
    }

    pub(super) fn after(&mut self, timeout: Duration) -> Moment {
        let now = self.now();
        self.watch.moment(now + timeout)
    }

    fn has_expired(&self, until: Option<Moment>) -> bool {
        until.is_some_and(|until| self.watch.has_expired(until))
    }

    fn check_stalls(&mut self, id: u32) {
        self.check_stream(id);
        self.check_connection();
    }

    fn check_stream(&mut self, id: u32) {
        let Some(stream) = self.listed.get(&id) else { return };
        let is_stalled = stream.response == Progress::Begun && stream.window <= 0;
        if is_stalled == stream.stalled_until.is_some() {
            return;
        }
        let until = is_stalled.then(|| self.after(self.write_timeout));
        if let Some(stream) = self.listed.get_mut(&id) {
            stream.stalled_until = until;
        }
        if is_stalled { self.waits += 1 } else { self.waits -= 1 }
    }

    fn check_connection(&mut self) {
        let is_stalled = self.sending > 0 && self.window <= 0;
        if is_stalled != self.stalled_until.is_some() {
            self.stalled_until = is_stalled.then(|| self.after(self.write_timeout));
        }
    }

    /// The room that all streams share has come to an end, or there is some again.
    fn await_bodies(&mut self) {
        let listed: Vec<u32> = self.listed.keys().copied().collect();
        listed.into_iter().for_each(|id| self.await_body(id));
    }

    /// A body is waited for while the client may send it, and has been asked for it if it waits for that, and the response
    /// has not begun. Whoever reads slowly waits for nobody.
    fn await_body(&mut self, id: u32) {
        let Some(stream) = self.listed.get(&id) else { return };
        let Some(watch) = stream.watch.clone() else { return };
        if stream.has_request_ended || stream.holds_back || stream.response != Progress::Awaited {
            return;
        }
        if stream.credit <= 0 || self.credit <= 0 {
            watch.clear(Phase::Read);
        } else {
            watch.await_body(self.after(self.body_timeout));
        }
    }
}

impl Stream {
    fn await_nothing(&self) {
        if let Some(watch) = &self.watch {
            watch.clear(Phase::Read);
        }
    }
}
