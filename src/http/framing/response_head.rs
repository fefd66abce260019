//! The head of one response, judged line by line as it comes.

use super::Malformed;
use super::field::{Line, line, value_len};
use super::lengths::{Lengths, Version};
use super::response::{BadResponse, ResponseLimits};
use super::spans::Spans;
use super::upgrade::Upgrade;

#[derive(Default)]
pub(super) struct Head {
    /// Where the first line that was not judged yet starts.
    at: usize,
    version: Option<Version>,
    pub(super) status: u16,
    fields: usize,
    pub(super) lengths: Lengths,
    says_close: bool,
    says_keep_alive: bool,
    pub(super) upgrade: Upgrade,
}

impl Head {
    /// `bytes` start at the head's first byte. Returns its length once it is complete.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: &ResponseLimits,
        spans: &mut Spans,
    ) -> Result<Option<usize>, BadResponse> {
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
                    spans.note(bytes, self.at, name, value);
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
    pub(super) fn keeps_alive(&self) -> bool {
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
