//! The upstream's side of a connection: for each announced request one response, and nothing in between.
//!
//! Reads in place: whoever has the bytes is told, part by part, what the next of them are. Knows nothing of sockets.

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};

use super::chunked::{self, Chunked};
use super::interim;
use super::response_head::Head;
use super::spans::Spans;
use super::{Body, Malformed, malformed};

/// RFC 9110 §15.2 sets no bound on interim responses; nobody needs more.
pub(crate) const INTERIM_MAX: usize = 16;

/// Why an upstream's answer cannot be passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadResponse {
    #[error("connection closed before the request was sent")]
    Closed,
    #[error("more than {INTERIM_MAX} interim responses")]
    InterimTooMany,
    #[error("response is malformed: {0}")]
    Message(Malformed),
    #[error("status is not 100 to 599")]
    Status,
    #[error("status line is not HTTP/1.0 or HTTP/1.1, one blank, three digits")]
    StatusLine,
    #[error("bytes that belong to no response")]
    Stray,
    #[error("switched protocols without being asked to, or to another one")]
    Switched,
}

impl BadResponse {
    /// What was wrong with the response that ended in `error`; `None` when the connection itself failed.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        malformed::find(error)
    }
}

impl From<Malformed> for BadResponse {
    fn from(malformed: Malformed) -> Self {
        Self::Message(malformed)
    }
}

/// How much of a response head is taken.
#[derive(Clone, Copy, Debug)]
pub struct ResponseLimits {
    /// Status line and fields together, line ends included.
    pub head_bytes_max: usize,
    pub fields_max: usize,
}

/// What an announced request will be answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expected {
    HeadAndBody,
    HeadOnly,
    /// A switch to a WebSocket, or a response like any other.
    SwitchOrBody,
}

/// What the next bytes of an upstream are.
#[derive(Debug)]
pub enum Part {
    /// So many bytes of the content.
    Data(usize),
    /// So many bytes that only frame the content.
    Framing(usize),
    /// The head of the response; [`Responses::head`] reads it. What follows is content, if [`Responses::is_over`] does
    /// not say that there is none.
    Head(usize),
    /// An interim response, if it is for the client.
    Interim(usize, Option<Response<()>>),
    /// The start of a head: nothing can be said before there is more of it.
    Partial,
    /// What ends the content; the fields may be none.
    Trailers(usize, HeaderMap),
}

/// The rules for what an upstream may send.
pub struct Responses {
    limits: ResponseLimits,
    state: State,
    /// `None` between messages.
    expected: Option<Expected>,
    interim: usize,
    reusable: bool,
    is_heard: bool,
    /// Of the last head.
    spans: Spans,
    status: u16,
}

enum State {
    Chunked(Chunked, Vec<u8>),
    Head(Head),
    Idle,
    Sized(u64),
    /// Another protocol, whose bytes are nobody's to judge.
    Switched,
    UntilClose,
}

impl Responses {
    pub fn new(limits: ResponseLimits) -> Self {
        Self {
            limits,
            state: State::Idle,
            expected: None,
            interim: 0,
            reusable: true,
            is_heard: false,
            spans: Spans::default(),
            status: 0,
        }
    }

    /// Announces a request: an answer to nothing is a violation.
    pub fn announce(&mut self, method: &Method) {
        self.expected = Some(if method == Method::HEAD { Expected::HeadOnly } else { Expected::HeadAndBody });
        self.is_heard = false;
    }

    /// The announced request asks for a WebSocket.
    pub fn announce_upgrade(&mut self) {
        self.expected = Some(Expected::SwitchOrBody);
    }

    /// Whether any byte of an answer to the announced request has come, be it an interim one.
    pub fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Whether nothing more belongs to the last response.
    pub fn is_over(&self) -> bool {
        self.expected.is_none()
    }

    /// Whether the next request may be sent: the last one was answered to its end, and the upstream keeps the connection.
    /// True of a new connection.
    pub fn is_reusable(&self) -> bool {
        self.expected.is_none() && self.reusable
    }

    /// How much content is still to come, when the head said so.
    pub fn content_left(&self) -> Option<u64> {
        match self.state {
            State::Sized(left) => Some(left),
            State::Idle => Some(0),
            State::Chunked(..) | State::Head(_) | State::Switched | State::UntilClose => None,
        }
    }

    /// Whether the upstream has switched to another protocol.
    pub fn is_switched(&self) -> bool {
        matches!(self.state, State::Switched)
    }

    /// Says what the bytes are that follow those of the last part; there is at least one. A [`Part::Partial`] is to be
    /// shown again with more behind it.
    ///
    /// # Errors
    /// When they cannot be what they should. Valid bytes before a violation are parts of their own.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Part, BadResponse> {
        if matches!(self.state, State::Idle) {
            if self.expected.is_none() {
                return Err(BadResponse::Stray);
            }
            self.is_heard = true;
            self.interim = 0;
            self.state = State::Head(Head::default());
        }
        match &mut self.state {
            State::Head(head) => match head.advance(bytes, &self.limits, &mut self.spans)? {
                Some(len) => self.head_ended(&bytes[..len]),
                None => Ok(Part::Partial),
            },
            State::Sized(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                if *left == 0 {
                    self.message_ended();
                }
                Ok(Part::Data(len))
            }
            State::Chunked(chunked, trailers) => {
                let part = match chunked.next_part(bytes, trailers)? {
                    chunked::Part::Data(len) => Part::Data(len),
                    chunked::Part::Framing(len) => Part::Framing(len),
                    chunked::Part::End(len, fields) => Part::Trailers(len, fields),
                };
                if chunked.is_done() {
                    self.message_ended();
                }
                Ok(part)
            }
            State::Idle | State::Switched | State::UntilClose => Ok(Part::Data(bytes.len())),
        }
    }

    /// The upstream will send no more. Returns whether that is how the response ends.
    pub fn end(&mut self) -> bool {
        self.reusable = false;
        if matches!(self.state, State::UntilClose) {
            self.message_ended();
        }
        self.expected.is_none()
    }

    /// The head that [`Part::Head`] told of; `block` begins with it, and is kept as long as a value is.
    ///
    /// # Errors
    /// When there are more fields than a map can hold.
    pub fn head(&mut self, block: &Bytes) -> Result<Response<()>, BadResponse> {
        let fields = self.spans.fields(block)?;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).map_err(|_| BadResponse::Status)?;
        *response.headers_mut() = fields;
        Ok(response)
    }

    fn head_ended(&mut self, bytes: &[u8]) -> Result<Part, BadResponse> {
        let State::Head(head) = std::mem::replace(&mut self.state, State::Idle) else {
            return Ok(Part::Partial);
        };
        let part = Part::Head(bytes.len());
        self.status = head.status;
        if head.status == 101 {
            // RFC 9110 §15.2.2: to what the request asked for. No message follows, so nothing may frame one.
            let is_asked_for = self.expected == Some(Expected::SwitchOrBody);
            if !is_asked_for || !head.upgrade.is_to_websocket() || head.lengths.body().is_some() {
                return Err(BadResponse::Switched);
            }
            self.state = State::Switched;
            return Ok(part);
        }
        if head.status < 200 {
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(BadResponse::InterimTooMany);
            }
            self.spans.clear();
            self.state = State::Head(Head::default());
            return Ok(Part::Interim(bytes.len(), interim::parse(head.status, bytes)));
        }
        self.reusable = head.keeps_alive();
        // RFC 9112 §6.3: these have no body, whatever their fields say.
        let has_body = self.expected != Some(Expected::HeadOnly) && !matches!(head.status, 204 | 304);
        match head.lengths.body() {
            Some(Body::Chunked) if has_body => self.state = State::Chunked(Chunked::new(), Vec::new()),
            Some(Body::Sized(length)) if has_body && length > 0 => self.state = State::Sized(length),
            None if has_body => self.state = State::UntilClose,
            _ => self.message_ended(),
        }
        Ok(part)
    }

    fn message_ended(&mut self) {
        self.state = State::Idle;
        self.expected = None;
    }
}
