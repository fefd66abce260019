//! The fields that say where a body ends. Two answers, or one that can be read twice, are no answer.

use super::{Body, Malformed};

/// RFC 9112 §2.3: the version of a message, and so what may frame it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Http10,
    Http11,
}

/// 2^53: beyond any body, and exact in every language that an upstream is written in.
const LENGTH_MAX: u64 = 1 << 53;

/// What the fields of one head have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    body: Option<Body>,
}

impl Lengths {
    pub(super) fn note(&mut self, name: &[u8], value: &[u8], version: Version) -> Result<(), Malformed> {
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value, version),
            _ => Ok(()),
        }
    }

    /// `None`: no field said anything.
    pub(super) fn body(self) -> Option<Body> {
        self.body
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        match self.body {
            Some(Body::Chunked) => Err(Malformed::LengthWithEncoding),
            Some(_) => Err(Malformed::LengthRepeated),
            None => {
                self.body = Some(Body::Sized(decimal(value).ok_or(Malformed::Length)?));
                Ok(())
            }
        }
    }

    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Malformed> {
        match self.body {
            _ if version == Version::Http10 => Err(Malformed::EncodingVersion),
            Some(Body::Chunked) => Err(Malformed::EncodingRepeated),
            Some(_) => Err(Malformed::LengthWithEncoding),
            None if value.eq_ignore_ascii_case(b"chunked") => {
                self.body = Some(Body::Chunked);
                Ok(())
            }
            None => Err(Malformed::Encoding),
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let is_plain = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_digit);
    if !is_plain || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    let value = digits.iter().fold(0, |value: u64, digit| value * 10 + u64::from(digit - b'0'));
    (value <= LENGTH_MAX).then_some(value)
}
