//! What the frames of one connection say, kept count of: what is too much, and whom nobody waits for any longer.
//!
//! Sees frames as the guard passes them on. What it [`orders`](super::orders) (a reset, an invitation, an interim
//! response, the end) the guard carries out between two frames.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::orders::Orders;
use super::outlay::Outlay;
use super::settings::Http2;
use super::streams::Streams;
use crate::http::framing::allowance::Allowance;
use crate::http::framing::frames::{self, Event, Frame, FrameKind};
use crate::metrics::Http2Cut;
use crate::server::settings::Client;
use crate::server::watch::{Moment, Watch};

const ENHANCE_YOUR_CALM: u32 = 11;
const NO_ERROR: u32 = 0;
const SETTINGS_TIMEOUT: u32 = 4;
const HEADER_TABLE_SIZE: u16 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// RFC 9113 §6.5.2: what a client remembers of headers until it says otherwise.
const TABLE_BYTES: u32 = 4_096;
/// A window update answers what was sent; for less than this it would be a strange answer.
const DATA_WORTH_AN_UPDATE: usize = 256;

/// A ledger shared within its connection's thread: the lock never contends.
#[derive(Clone)]
pub(super) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self(Arc::new(Mutex::new(ledger)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Numbers alone: whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Ledger {
    /// The connection's.
    watch: Arc<Watch>,
    streams: Streams,
    /// The last stream that the client has opened.
    newest: u32,
    /// A stream whose header block has passed, until hyper has made a request of it.
    fresh: Option<u32>,
    pub(super) outlay: Outlay,
    pause: Pause,
    /// Requests that hyper has made.
    requests: u64,
    /// Of the request that was made last, for its task.
    starting: Option<Arc<Watch>>,
    /// The initial window that the present settings frame says: the last one counts.
    announced: Option<u32>,
    /// The header table that the client last announced, and whether one was ever smaller than the one before it.
    table: u32,
    has_table_shrunk: bool,
    /// Whether the client's preface has come.
    has_greeted: bool,
    header_timeout: Duration,
    /// When the client must have acknowledged our settings.
    settings_until: Option<Moment>,
    control: Allowance,
    /// Apart, since peers that speak gRPC send one with each piece that they get, however small.
    pings: Allowance,
    resets: Allowance,
    orders: Orders,
    /// The connection's: always the same.
    task: Option<Waker>,
    cut: Option<Http2Cut>,
    is_cut_told: bool,
}

/// Reading stops behind each new stream's header block until hyper has made a request of it or dropped it: only so is it
/// known which stream a request belongs to.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Pause {
    Due,
    None,
    Taken { told: bool },
}

/// What to do with the bytes of an event.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Pass {
    AndGoOn,
    AndStop,
}

impl Ledger {
    pub(super) fn new(client: &Client, http2: &Http2, watch: Arc<Watch>, now: Instant) -> Self {
        Self {
            streams: Streams::new(client, http2, Arc::clone(&watch)),
            watch,
            newest: 0,
            fresh: None,
            outlay: Outlay::default(),
            pause: Pause::None,
            requests: 0,
            starting: None,
            announced: None,
            table: TABLE_BYTES,
            has_table_shrunk: false,
            has_greeted: false,
            header_timeout: client.header_timeout,
            settings_until: None,
            control: Allowance::new(http2.control_frames, now),
            pings: Allowance::new(http2.control_frames, now),
            resets: Allowance::new(http2.resets, now),
            orders: Orders::default(),
            task: None,
            cut: None,
            is_cut_told: false,
        }
    }

    /// To be called before a run of events: time has passed.
    pub(super) fn begin(&mut self) {
        self.streams.begin();
    }

    /// The client's preface has passed.
    pub(super) fn greeted(&mut self) {
        self.has_greeted = true;
        self.settings_until = Some(self.streams.after(self.header_timeout));
    }

    pub(super) fn has_greeted(&self) -> bool {
        self.has_greeted
    }

    /// Something that the client sent.
    ///
    /// # Errors
    /// Why no byte of it may be passed on.
    pub(super) fn read(&mut self, event: Event) -> Result<Pass, Http2Cut> {
        match event {
            Event::Begins(frame) => self.read_begins(frame)?,
            Event::Ends(frame) => return Ok(self.read_ends(frame)),
            Event::Setting { id: INITIAL_WINDOW_SIZE, value } => self.announced = Some(value),
            Event::Setting { id: HEADER_TABLE_SIZE, value } => {
                self.has_table_shrunk |= value < self.table;
                self.table = value;
            }
            Event::GoAway { .. } | Event::Setting { .. } => {}
            Event::WindowUpdate { stream, increment } => self.streams.widened(stream, increment),
        }
        Ok(Pass::AndGoOn)
    }

    fn read_begins(&mut self, frame: Frame) -> Result<(), Http2Cut> {
        match frame.kind {
            FrameKind::Headers => self.open(frame),
            FrameKind::Data => {
                self.streams.received(frame);
                Ok(())
            }
            FrameKind::Reset if !self.streams.is_answered(frame.stream) => {
                let streams = &mut self.streams;
                if self.resets.take(|| streams.now()) { Ok(()) } else { Err(Http2Cut::Resets) }
            }
            FrameKind::Ping if !frame.is_ack() => {
                let streams = &mut self.streams;
                if self.pings.take(|| streams.now()) { Ok(()) } else { Err(Http2Cut::ControlFrames) }
            }
            FrameKind::Settings if frame.is_ack() => {
                self.settings_until = None;
                self.take_control()
            }
            FrameKind::Continuation => {
                self.outlay.block_goes_on(frame);
                self.take_control()
            }
            FrameKind::GoAway
            | FrameKind::Ping
            | FrameKind::Priority
            | FrameKind::PushPromise
            | FrameKind::Reset
            | FrameKind::Settings
            | FrameKind::Unknown
            | FrameKind::WindowUpdate => self.take_control(),
        }
    }

    fn read_ends(&mut self, frame: Frame) -> Pass {
        self.outlay.frame_ended(frame);
        match frame.kind {
            FrameKind::Reset => self.streams.forget(frame.stream),
            FrameKind::Settings => {
                if let Some(size) = self.announced.take() {
                    self.streams.set_initial_window(size);
                }
            }
            _ if frame.ends_stream() => self.streams.request_ended(frame.stream),
            _ => {}
        }
        if frame.ends_block() && self.fresh.is_some() && self.pause == Pause::None {
            self.pause = Pause::Due;
            return Pass::AndStop;
        }
        Pass::AndGoOn
    }

    fn take_control(&mut self) -> Result<(), Http2Cut> {
        let streams = &mut self.streams;
        if self.control.take(|| streams.now()) { Ok(()) } else { Err(Http2Cut::ControlFrames) }
    }

    /// A header block begins: of a new stream, or (trailers) of an old one.
    fn open(&mut self, frame: Frame) -> Result<(), Http2Cut> {
        if frame.stream <= self.newest {
            return Ok(());
        }
        if !self.streams.open(frame.stream) {
            return Err(Http2Cut::Streams);
        }
        self.newest = frame.stream;
        self.fresh = Some(frame.stream);
        self.outlay.block_begins(frame);
        Ok(())
    }

    /// Something that was sent to the client.
    pub(super) fn wrote(&mut self, event: Event) {
        match event {
            Event::Begins(frame) => match frame.kind {
                FrameKind::Data => {
                    self.streams.sent(frame);
                    self.pings.grant(1);
                    if frame.len >= DATA_WORTH_AN_UPDATE {
                        // One for the stream, one for the connection.
                        self.control.grant(2);
                    }
                }
                FrameKind::Headers => self.streams.response_begun(frame),
                _ => {}
            },
            Event::Ends(frame) if frame.kind == FrameKind::Reset => self.streams.forget(frame.stream),
            Event::Ends(frame) if frame.ends_stream() => self.streams.response_ended(frame.stream),
            Event::GoAway { code } if code != NO_ERROR => {
                let cut = if code == ENHANCE_YOUR_CALM { Http2Cut::Excess } else { Http2Cut::Protocol };
                self.cut.get_or_insert(cut);
            }
            Event::WindowUpdate { stream, increment } => self.streams.credited(stream, increment),
            Event::Ends(_) | Event::GoAway { .. } | Event::Setting { .. } => {}
        }
    }

    /// hyper makes a request: of the stream whose header block was passed on last, since reading has paused there.
    pub(super) fn adopt(&mut self, holds_back: bool) -> (Arc<Watch>, Option<u32>) {
        self.begin();
        let watch = Arc::new(self.watch.for_stream());
        self.requests += 1;
        self.starting = Some(Arc::clone(&watch));
        let id = self.fresh.take();
        if let Some(id) = id {
            self.streams.adopt(id, &watch, holds_back);
        }
        (watch, id)
    }

    /// The watch of the request that was made last, for the task that it becomes.
    pub(super) fn take_starting(&mut self) -> Option<Arc<Watch>> {
        self.starting.take()
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether a response is on its way to the client.
    pub(super) fn is_sending(&self) -> bool {
        self.streams.is_sending()
    }

    /// Whether to read nothing this time.
    pub(super) fn pauses(&mut self) -> bool {
        match self.pause {
            Pause::Due => {
                self.pause = Pause::Taken { told: false };
                true
            }
            Pause::Taken { .. } => {
                // What was not made a request by now never is.
                self.fresh = None;
                self.pause = Pause::None;
                false
            }
            Pause::None => false,
        }
    }

    /// Whether reading goes on if it is only tried again. Told once for each pause.
    pub(super) fn take_pause(&mut self) -> bool {
        let is_new = self.pause == Pause::Taken { told: false };
        if is_new {
            self.pause = Pause::Taken { told: true };
        }
        is_new
    }

    /// The earliest time by which the client must have done something.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        if self.orders.is_ending() {
            return None;
        }
        self.settings_until.into_iter().chain(self.streams.next_deadline()).min()
    }

    /// Gives up on whatever has expired.
    pub(super) fn expire(&mut self) {
        if self.settings_until.is_some_and(|until| self.watch.has_expired(until)) {
            return self.end(Http2Cut::SettingsTimeout);
        }
        if self.streams.has_stalled() {
            return self.end(Http2Cut::Stalled);
        }
        self.orders.reset(self.streams.take_stalled());
    }

    /// Ends the connection, and tells the client why.
    pub(super) fn end(&mut self, cut: Http2Cut) {
        if self.orders.is_ending() {
            return;
        }
        self.cut.get_or_insert(cut);
        let code = match cut {
            Http2Cut::SettingsTimeout => SETTINGS_TIMEOUT,
            _ => ENHANCE_YOUR_CALM,
        };
        self.orders.end(&frames::go_away(self.newest, code));
    }

    pub(super) fn is_ending(&self) -> bool {
        self.orders.is_ending()
    }

    /// Why the connection ends, if it is the client's doing. Told once.
    pub(super) fn take_cut(&mut self) -> Option<Http2Cut> {
        let cut = self.cut.filter(|_| !self.is_cut_told);
        self.is_cut_told |= cut.is_some();
        cut
    }

    /// See [`Orders::take_reset`].
    pub(super) fn take_reset(&mut self) -> Option<[u8; frames::RESET_BYTES]> {
        self.orders.take_reset()
    }

    /// `waker` wakes the connection's task.
    pub(super) fn set_task(&mut self, waker: &Waker) {
        self.task = Some(waker.clone());
    }

    /// The body of a stream is waited for. Returns whom to wake when its client has to be asked for it.
    pub(super) fn invite(&mut self, id: u32) -> Option<Waker> {
        if self.orders.invite(id, &self.streams) { self.task.clone() } else { None }
    }

    /// An interim response, as a frame, is to be sent. Returns whom to wake for it.
    pub(super) fn interim(&mut self, id: u32, frame: Vec<u8>) -> Option<Waker> {
        if self.orders.interim(id, frame, &self.streams) { self.task.clone() } else { None }
    }

    pub(super) fn has_frames(&self) -> bool {
        self.orders.has_frames()
    }

    /// See [`Orders::take_frames`].
    pub(super) fn take_frames(&mut self) -> Vec<u8> {
        self.orders.take_frames(&mut self.streams, self.has_table_shrunk)
    }
}
