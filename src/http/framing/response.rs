//! The upstream's side of a connection: for each announced request one response, and nothing in between.

use super::chunked::Chunked;
use super::field::{Line, line, value_len};
use super::interim;
use super::lengths::{Lengths, Version};
use super::upgrade::Upgrade;
use super::upstream::{Expected, UpstreamState};
use super::{Body, Malformed, Progress, Rules, malformed};

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

/// The rules for what an upstream may send.
pub(super) struct Responses {
    limits: ResponseLimits,
    state: State,
    announced: UpstreamState,
    interim: usize,
    reusable: bool,
    /// What was found behind bytes that had to pass first; nothing is judged after it.
    broken: Option<BadResponse>,
}

enum State {
    Chunked(Chunked),
    Head(Head),
    Idle,
    Sized(u64),
    /// Another protocol, whose bytes are nobody's to judge.
    Switched,
    UntilClose,
}

impl Responses {
    pub(super) fn new(limits: ResponseLimits, announced: UpstreamState) -> Self {
        Self { limits, state: State::Idle, announced, interim: 0, reusable: true, broken: None }
    }
}

impl Rules for Responses {
    type Violation = BadResponse;

    fn advance(&mut self, bytes: &mut [u8]) -> Result<Progress, BadResponse> {
        let mut pass = 0;
        while pass < bytes.len() && self.broken.is_none() {
            match self.step(&bytes[pass..]) {
                Ok(0) => break,
                Ok(step) => pass += step,
                Err(bad) => {
                    // At once, not when the rest is read: until then the pool may ask.
                    self.announced.spoil();
                    self.broken = Some(bad);
                }
            }
        }
        match self.broken {
            Some(bad) if pass == 0 => Err(bad),
            _ => Ok(Progress { pass, skip: 0 }),
        }
    }
}

impl Responses {
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BadResponse> {
        match &mut self.state {
            State::Idle => {
                if self.announced.expected().is_none() || self.announced.is_untouched() {
                    return Err(BadResponse::Stray);
                }
                self.announced.heard();
                self.interim = 0;
                self.state = State::Head(Head::default());
                self.step(bytes)
            }
            State::Head(head) => {
                let Some(len) = head.advance(bytes, &self.limits)? else {
                    return Ok(0);
                };
                self.head_ended(&bytes[..len])?;
                Ok(len)
            }
            State::Sized(left) => {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= step as u64;
                if *left == 0 {
                    self.message_ended();
                }
                Ok(step)
            }
            State::Chunked(chunked) => {
                let step = chunked.advance(bytes)?;
                if chunked.is_done() {
                    self.message_ended();
                }
                Ok(step)
            }
            State::Switched | State::UntilClose => Ok(bytes.len()),
        }
    }

    fn head_ended(&mut self, bytes: &[u8]) -> Result<(), BadResponse> {
        let State::Head(head) = std::mem::replace(&mut self.state, State::Idle) else {
            return Ok(());
        };
        if head.status == 101 {
            // RFC 9110 §15.2.2: to what the request asked for. No message follows, so nothing may frame one.
            let is_asked_for = self.announced.expected() == Some(Expected::SwitchOrBody);
            if !is_asked_for || !head.upgrade.is_to_websocket() || head.lengths.body().is_some() {
                return Err(BadResponse::Switched);
            }
            self.state = State::Switched;
            return Ok(());
        }
        if head.status < 200 {
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(BadResponse::InterimTooMany);
            }
            if let Some(interim) = interim::parse(head.status, bytes) {
                self.announced.interims().push(interim);
            }
            self.state = State::Head(Head::default());
            return Ok(());
        }
        self.reusable = head.keeps_alive();
        // RFC 9112 §6.3: these have no body, whatever their fields say.
        let has_body = self.announced.expected() != Some(Expected::HeadOnly) && !matches!(head.status, 204 | 304);
        match head.lengths.body() {
            Some(Body::Chunked) if has_body => self.state = State::Chunked(Chunked::new()),
            Some(Body::Sized(length)) if has_body && length > 0 => self.state = State::Sized(length),
            None if has_body => self.state = State::UntilClose,
            _ => self.message_ended(),
        }
        Ok(())
    }

    fn message_ended(&mut self) {
        self.state = State::Idle;
        self.announced.answered(self.reusable);
    }
}

#[derive(Default)]
struct Head {
    /// Where the first line that was not judged yet starts.
    at: usize,
    version: Option<Version>,
    status: u16,
    fields: usize,
    lengths: Lengths,
    says_close: bool,
    says_keep_alive: bool,
    upgrade: Upgrade,
}

impl Head {
    /// `bytes` start at the head's first byte. Returns its length once it is complete.
    fn advance(&mut self, bytes: &[u8], limits: &ResponseLimits) -> Result<Option<usize>, BadResponse> {
        let window = bytes.len().min(limits.head_bytes_max);
        let version = match self.version {
            Some(version) => version,
            None => match status_line(&bytes[..window])? {
                Some((len, version, status)) => {
                    (self.at, self.status) = (len, status);
                    *self.version.insert(version)
                }
                None => return partial(bytes, limits),
            },
        };
        loop {
            match line(&bytes[self.at..window])? {
                Line::Partial => return partial(bytes, limits),
                Line::End => return Ok(Some(self.at + 2)),
                Line::Field { name, value, len } => {
                    self.fields += 1;
                    if self.fields > limits.fields_max {
                        return Err(Malformed::FieldsTooMany.into());
                    }
                    self.lengths.note(name, value, version)?;
                    self.upgrade.note(name, value);
                    if name.eq_ignore_ascii_case(b"connection") {
                        self.note_connection(value);
                    }
                    self.at += len;
                }
            }
        }
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            self.says_close |= option.eq_ignore_ascii_case(b"close");
            self.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// RFC 9112 §9.3.
    fn keeps_alive(&self) -> bool {
        !self.says_close && (self.version == Some(Version::Http11) || self.says_keep_alive)
    }
}

fn partial(bytes: &[u8], limits: &ResponseLimits) -> Result<Option<usize>, BadResponse> {
    if bytes.len() >= limits.head_bytes_max { Err(Malformed::HeadTooLarge.into()) } else { Ok(None) }
}

/// Length, version and status of the status line; `None` while it is not complete. The reason is optional.
fn status_line(bytes: &[u8]) -> Result<Option<(usize, Version, u16)>, BadResponse> {
    const PREFIX: &[u8] = b"HTTP/1.";
    let known = bytes.len().min(PREFIX.len());
    if bytes[..known] != PREFIX[..known] {
        return Err(BadResponse::StatusLine);
    }
    let version = match bytes.get(PREFIX.len()) {
        None => return Ok(None),
        Some(b'0') => Version::Http10,
        Some(b'1') => Version::Http11,
        Some(_) => return Err(BadResponse::StatusLine),
    };
    let Some((status, reason)) = status(&bytes[PREFIX.len() + 1..])? else {
        return Ok(None);
    };
    let reason_len = match reason.first() {
        Some(b' ') => value_len(reason),
        _ => 0,
    };
    match reason[reason_len..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((PREFIX.len() + 5 + reason_len + 2, version, status))),
        _ => Err(BadResponse::StatusLine),
    }
}

/// One blank and three digits, and what comes after them.
fn status(bytes: &[u8]) -> Result<Option<(u16, &[u8])>, BadResponse> {
    let Some((blank, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let digits = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    if *blank != b' ' || digits < rest.len().min(3) {
        return Err(BadResponse::StatusLine);
    }
    let Some((digits, reason)) = rest.split_at_checked(3) else {
        return Ok(None);
    };
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    if !(100..=599).contains(&status) {
        return Err(BadResponse::Status);
    }
    Ok(Some((status, reason)))
}
