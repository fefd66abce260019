//! The canonical reading of a request's path, and its segments. Refuses what two programs could read in two ways.

/// A path that has one reading: no dot segments, no empty ones, no second spelling of a character.
///
/// Two doubtful things are only flagged, since a route may opt in to them: [`Path::has_encoded_slash`] and
/// [`Path::has_semicolon`]. Whoever forwards must refuse them where the route did not.
#[derive(Clone, Copy, Debug)]
pub struct Path<'r> {
    raw: &'r str,
    escaped: bool,
    encoded_slash: bool,
    semicolon: bool,
}

/// Why a path has no safe reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    #[error("the path has a % that is not followed by two hexadecimal digits")]
    BadEscape,
    #[error("the path has an encoded control character")]
    ControlCharacter,
    #[error("the path has a segment . or ..")]
    DotSegment,
    #[error("the path has an empty segment")]
    EmptySegment,
    #[error("the path has an encoded backslash")]
    EncodedBackslash,
    #[error("the path has an encoded dot")]
    EncodedDot,
    #[error("the path has an encoded percent sign")]
    EncodedPercent,
    #[error("the path has an encoded letter, digit, hyphen, underscore or tilde")]
    EncodedUnreserved,
    #[error("the path has a character that must be percent-encoded")]
    IllegalCharacter,
    #[error("the path does not start with a slash")]
    NotAbsolute,
    #[error("the path has escapes that are not UTF-8")]
    NotText,
}

impl<'r> Path<'r> {
    /// Reads the part of an origin-form target that precedes `?`. Linear in its length; does not allocate.
    ///
    /// # Errors
    /// [`PathError`] for whatever has no single canonical reading.
    pub fn parse(raw: &'r str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let mut path = Self { raw, escaped: false, encoded_slash: false, semicolon: false };
        let bytes = raw.as_bytes();
        let (mut at, mut segment_start) = (1, 1);
        while let Some(&byte) = bytes.get(at) {
            if PLAIN[usize::from(byte)] {
                at += 1;
                continue;
            }
            at += match byte {
                b'/' => {
                    check_segment(&bytes[segment_start..at])?;
                    segment_start = at + 1;
                    1
                }
                b'%' => path.escape(&bytes[at..])?,
                b';' => {
                    path.semicolon = true;
                    1
                }
                _ => return Err(PathError::IllegalCharacter),
            };
        }
        // An empty last segment is a trailing slash.
        if segment_start < bytes.len() {
            check_segment(&bytes[segment_start..])?;
        }
        if path.encoded_slash || path.semicolon {
            path.check_lax_segments()?;
        }
        Ok(path)
    }

    pub fn raw(&self) -> &'r str {
        self.raw
    }

    /// Whether a segment holds `%2F`. It stays inside its segment when the path is matched.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether a segment holds `;`, raw or encoded.
    pub fn has_semicolon(&self) -> bool {
        self.semicolon
    }

    pub(super) fn segments(&self) -> Segments<'r> {
        Segments {
            raw: self.raw.as_bytes(),
            at: 1,
            escaped: self.escaped,
            split_encoded_from: usize::MAX,
            cut_semicolons: false,
        }
    }

    /// The segments as an upstream may see them that decodes `%2F` from byte `split_from` on, and drops what follows
    /// a `;` in a segment, before it picks a handler.
    pub(super) fn lax_segments(&self, split_from: usize) -> Segments<'r> {
        Segments { split_encoded_from: split_from, cut_semicolons: true, ..self.segments() }
    }

    /// Judges the lax reading where it differs, since `/a%2F..%2Fb` and `/a/..;/b` climb too.
    fn check_lax_segments(&self) -> Result<(), PathError> {
        let mut segments = self.lax_segments(0);
        while let Some(segment) = segments.next() {
            if !segment.is_empty() || !segments.is_done() {
                check_segment(segment)?;
            }
        }
        Ok(())
    }

    /// Judges the escape, or the run of escapes of one character, that `left` starts with. Returns its length.
    fn escape(&mut self, left: &[u8]) -> Result<usize, PathError> {
        self.escaped = true;
        match escaped_byte(left).ok_or(PathError::BadEscape)? {
            0..=0x1f | 0x7f => return Err(PathError::ControlCharacter),
            0x80.. => return escaped_char(left),
            b'%' => return Err(PathError::EncodedPercent),
            b'.' => return Err(PathError::EncodedDot),
            b'\\' => return Err(PathError::EncodedBackslash),
            b'/' => self.encoded_slash = true,
            b';' => self.semicolon = true,
            byte if is_unreserved(byte) => return Err(PathError::EncodedUnreserved),
            _ => (),
        }
        Ok(3)
    }
}

fn check_segment(segment: &[u8]) -> Result<(), PathError> {
    match segment {
        [] => Err(PathError::EmptySegment),
        [b'.'] | [b'.', b'.'] => Err(PathError::DotSegment),
        _ => Ok(()),
    }
}

/// The segments that are left of a path, raw. A trailing slash is an empty last one.
#[derive(Clone, Copy)]
pub(super) struct Segments<'r> {
    raw: &'r [u8],
    /// Where the next segment starts; beyond the end when there is none.
    at: usize,
    escaped: bool,
    split_encoded_from: usize,
    cut_semicolons: bool,
}

impl Segments<'_> {
    /// Where in the raw path the next segment starts.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether any segment of the path holds an escape.
    pub(super) fn are_escaped(&self) -> bool {
        self.escaped
    }

    fn is_done(&self) -> bool {
        self.at > self.raw.len()
    }
}

impl<'r> Iterator for Segments<'r> {
    type Item = &'r [u8];

    fn next(&mut self) -> Option<&'r [u8]> {
        let left = self.raw.get(self.at..)?;
        let slash = left.iter().position(|byte| *byte == b'/').unwrap_or(left.len());
        let mut segment = &left[..slash];
        let mut separator = 1;
        if self.at >= self.split_encoded_from
            && let Some(encoded) = find_escape(segment, b"%2F")
        {
            segment = &segment[..encoded];
            separator = 3;
        }
        self.at += segment.len() + separator;
        if self.cut_semicolons {
            let end =
                segment.iter().position(|byte| *byte == b';').into_iter().chain(find_escape(segment, b"%3B")).min();
            segment = &segment[..end.unwrap_or(segment.len())];
        }
        Some(segment)
    }
}

/// Decodes a segment of a [`Path`] into `buffer`. `None` when it does not fit.
pub(super) fn decode<'b>(segment: &[u8], buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let mut left = segment;
    let mut length = 0;
    while let Some(&byte) = left.first() {
        let escaped = escaped_byte(left);
        *buffer.get_mut(length)? = escaped.unwrap_or(byte);
        left = &left[if escaped.is_some() { 3 } else { 1 }..];
        length += 1;
    }
    buffer.get(..length)
}

fn find_escape(segment: &[u8], escape: &[u8; 3]) -> Option<usize> {
    segment.windows(escape.len()).position(|window| window.eq_ignore_ascii_case(escape))
}

/// The byte that `%XX` at the start of `left` stands for.
fn escaped_byte(left: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = left else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Judges a character outside ASCII, of which every byte is escaped: overlong forms and surrogates are not UTF-8.
fn escaped_char(left: &[u8]) -> Result<usize, PathError> {
    let mut utf8 = [0; 4];
    let width = match escaped_byte(left) {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return Err(PathError::NotText),
    };
    for (index, byte) in utf8[..width].iter_mut().enumerate() {
        *byte = left.get(3 * index..).and_then(escaped_byte).ok_or(PathError::NotText)?;
    }
    let text = std::str::from_utf8(&utf8[..width]).map_err(|_| PathError::NotText)?;
    if text.contains(char::is_control) {
        return Err(PathError::ControlCharacter);
    }
    Ok(3 * width)
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.3: the bytes of `pchar` but for escapes and the semicolon.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        plain[byte as usize] = is_unreserved(byte)
            || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@');
        byte += 1;
    }
    plain
};
