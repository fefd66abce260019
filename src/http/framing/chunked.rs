//! The chunked coding, walked byte by byte (data in one step), so that the end of a body is known exactly.
//!
//! Of requests it only finds the end: hyper decodes them again, and reads the same since nothing loose gets this far. Of
//! responses it tells the data from what frames it.

use super::Malformed;
use super::field::{is_token, is_value};

const SIZE_DIGITS_MAX: u8 = 15;
const EXTENSION_BYTES_MAX: u16 = 256;
const TRAILER_BYTES_MAX: u16 = 8 * 1024;

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    state: State,
    /// Of the chunk whose size line is being read.
    size: u64,
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
        Self { state: State::Size { digits: 0 }, size: 0, trailer_bytes: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// How many of `bytes` are data of the present chunk.
    pub(super) fn data_len(&self, bytes: &[u8]) -> usize {
        match self.state {
            State::Data { left } => usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()),
            _ => 0,
        }
    }

    /// Whether the last chunk has come, and fields or the end are next.
    pub(super) fn is_in_trailers(&self) -> bool {
        matches!(
            self.state,
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf | State::EndLf
        )
    }

    /// Walks over `bytes` up to the next data or the trailers; returns how many of them it took, at least one.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub(super) fn advance_framing(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && !self.is_in_trailers() && !matches!(self.state, State::Data { .. }) {
            match self.next(bytes[at]) {
                Ok(state) => self.state = state,
                Err(_) if at > 0 => break,
                Err(malformed) => return Err(malformed),
            }
            at += 1;
        }
        Ok(at)
    }

    /// Walks over `bytes` up to the end of the body; returns how many of them belong to it.
    ///
    /// # Errors
    /// Only when the very first byte is wrong: bytes before a wrong one are walked first.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let State::Data { left } = &mut self.state {
                let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= step as u64;
                at += step;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            match self.next(bytes[at]) {
                Ok(state) => self.state = state,
                Err(_) if at > 0 => break,
                Err(malformed) => return Err(malformed),
            }
            at += 1;
        }
        Ok(at)
    }

    fn next(&mut self, byte: u8) -> Result<State, Malformed> {
        match self.state {
            State::Size { digits } => self.size_byte(digits, byte),
            State::Extension { bytes } => match byte {
                b'\r' => Ok(State::SizeLf),
                _ if is_value(byte) && bytes < EXTENSION_BYTES_MAX => Ok(State::Extension { bytes: bytes + 1 }),
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
            // `advance` stops at End and skips Data itself.
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
