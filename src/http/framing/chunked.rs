//! The chunked coding, walked byte by byte (data in one step), so that the end of a body is known exactly.
//!
//! Tells the data from what frames it.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;
use super::field::{is_token, is_value};

const SIZE_DIGITS_MAX: u8 = 15;
const EXTENSION_BYTES_MAX: u16 = 256;
/// Of all chunks of a body together: they cost the receiver work and carry nothing.
const EXTENSIONS_BYTES_MAX: u16 = 16 * 1024;
const TRAILER_BYTES_MAX: u16 = 8 * 1024;

/// What the next bytes of a body are.
pub(super) enum Part {
    Data(usize),
    /// So many bytes that frame data or are trailers.
    Framing(usize),
    /// What ends the body; the fields may be none.
    End(usize, HeaderMap),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    state: State,
    /// Of the chunk whose size line is being read.
    size: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Data { left: u64 },
    DataCr,
    DataLf,
    End,
    EndLf,
    Extension { bytes: u16 },
    Size { digits: u8 },
    SizeLf,
    TrailerLf,
    TrailerName,
    TrailerStart,
    TrailerValue,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self { state: State::Size { digits: 0 }, size: 0, extension_bytes: 0, trailer_bytes: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// Says what `bytes` begin with, and walks over it; there is at least one. What of the trailers was walked over is kept
    /// in `trailers` until they have ended.
    ///
    /// # Errors
    /// Only when the very first byte is wrong, or a field behind the data: bytes before a wrong one are walked first.
    pub(super) fn next_part(&mut self, bytes: &[u8], trailers: &mut Vec<u8>) -> Result<Part, Malformed> {
        if let State::Data { left } = &mut self.state {
            let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            *left -= len as u64;
            if *left == 0 {
                self.state = State::DataCr;
            }
            return Ok(Part::Data(len));
        }
        let was_in_trailers = self.is_in_trailers();
        let mut at = 0;
        while at < bytes.len() && !self.is_done() && self.is_in_trailers() == was_in_trailers {
            if matches!(self.state, State::Data { .. }) {
                break;
            }
            match self.next(bytes[at]) {
                Ok(state) => self.state = state,
                Err(_) if at > 0 => break,
                Err(malformed) => return Err(malformed),
            }
            at += 1;
        }
        if was_in_trailers {
            trailers.extend_from_slice(&bytes[..at]);
        }
        Ok(if self.is_done() { Part::End(at, fields(trailers)?) } else { Part::Framing(at) })
    }

    /// Whether the last chunk has come, and fields or the end are next.
    fn is_in_trailers(&self) -> bool {
        matches!(
            self.state,
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::EndLf
        )
    }

    fn next(&mut self, byte: u8) -> Result<State, Malformed> {
        match self.state {
            State::Size { digits } => self.size_byte(digits, byte),
            State::Extension { bytes } => match byte {
                b'\r' => Ok(State::SizeLf),
                _ if is_value(byte) && bytes < EXTENSION_BYTES_MAX && self.extension_bytes < EXTENSIONS_BYTES_MAX => {
                    self.extension_bytes += 1;
                    Ok(State::Extension { bytes: bytes + 1 })
                }
                _ => Err(Malformed::ChunkExtension),
            },
            State::SizeLf if byte == b'\n' && self.size == 0 => Ok(State::TrailerStart),
            State::SizeLf if byte == b'\n' => Ok(State::Data { left: self.size }),
            State::SizeLf => Err(Malformed::ChunkSize),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                self.size = 0;
                Ok(State::Size { digits: 0 })
            }
            State::DataCr | State::DataLf => Err(Malformed::ChunkEnd),
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::EndLf => {
                self.trailer_byte(byte)
            }
            // `next_part` stops at End and walks over Data itself.
            State::Data { .. } | State::End => Err(Malformed::ChunkEnd),
        }
    }

    fn size_byte(&mut self, digits: u8, byte: u8) -> Result<State, Malformed> {
        match (byte, char::from(byte).to_digit(16)) {
            (_, Some(digit)) if digits < SIZE_DIGITS_MAX => {
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size { digits: digits + 1 })
            }
            (b'\r', _) if digits > 0 => Ok(State::SizeLf),
            (b';', _) if digits > 0 => Ok(State::Extension { bytes: 0 }),
            _ => Err(Malformed::ChunkSize),
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, Malformed> {
        let next = match (self.state, byte) {
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::End,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_value(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            _ => return Err(Malformed::Trailer),
        };
        if self.trailer_bytes >= TRAILER_BYTES_MAX {
            return Err(Malformed::Trailer);
        }
        self.trailer_bytes += 1;
        Ok(next)
    }
}

/// The fields in the bytes of a trailer section, every one of which has been judged.
fn fields(section: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut fields = HeaderMap::new();
    // No field holds a line end.
    for line in section.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Malformed::Trailer)?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| Malformed::Trailer)?;
        fields.try_append(name, value).map_err(|_| Malformed::Trailer)?;
    }
    Ok(fields)
}
