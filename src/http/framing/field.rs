//! One header or trailer line: `name: value CR LF`, nothing looser.
//!
//! Invariant: the answer depends on a prefix of the bytes, so that a line cut anywhere gets the verdict of the whole.

use super::Malformed;

pub(super) enum Line<'b> {
    /// The empty line that ends a section.
    End,
    Field {
        name: &'b [u8],
        /// Without the blanks around it.
        value: &'b [u8],
        /// Bytes of the line, its end included.
        len: usize,
    },
    Partial,
}

pub(super) fn line(bytes: &[u8]) -> Result<Line<'_>, Malformed> {
    match bytes {
        [] | [b'\r'] => return Ok(Line::Partial),
        [b'\r', b'\n', ..] => return Ok(Line::End),
        [b'\r' | b'\n', ..] => return Err(Malformed::LineEnd),
        [b' ' | b'\t', ..] => return Err(Malformed::FieldFolded),
        _ => {}
    }
    let name_len = token_len(&bytes[..bytes.len().min(NAME_BYTES_MAX + 1)]);
    match bytes.get(name_len) {
        None => return Ok(Line::Partial),
        Some(b':') if (1..=NAME_BYTES_MAX).contains(&name_len) => {}
        Some(_) => return Err(Malformed::FieldName),
    }
    let (name, after) = (&bytes[..name_len], &bytes[name_len + 1..]);
    let value_len = value_len(after);
    match after[value_len..] {
        [] | [b'\r'] => Ok(Line::Partial),
        [b'\r', b'\n', ..] => {
            Ok(Line::Field { name, value: after[..value_len].trim_ascii(), len: name_len + 1 + value_len + 2 })
        }
        [b'\r' | b'\n', ..] => Err(Malformed::LineEnd),
        _ => Err(Malformed::FieldValue),
    }
}

/// Bounds what is scanned again when a name arrives byte by byte; the longest registered name has 46 bytes.
const NAME_BYTES_MAX: usize = 256;

/// Length of the token that `bytes` start with.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len())
}

/// Length of the run of bytes that a field value may hold.
pub(super) fn value_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    // Eight at a time: the end of a value is mostly followed by more bytes, so that few are looked at one by one.
    while let Some(word) = bytes[at..].first_chunk() {
        match first_control(*word) {
            None => at += word.len(),
            Some(offset) if word[offset] == b'\t' => at += offset + 1,
            Some(offset) => return at + offset,
        }
    }
    at + bytes[at..].iter().take_while(|byte| is_value(**byte)).count()
}

/// Where the first control character is.
fn first_control(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let deleted = word ^ (ONES * 0x7f);
    // A borrow marks bytes behind the first one wrongly, and never before it.
    let marks = HIGH & ((word.wrapping_sub(ONES * 0x20) & !word) | (deleted.wrapping_sub(ONES) & !deleted));
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

/// RFC 9110 §5.6.2 `tchar`.
pub(super) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            let character = byte as u8;
            table[byte] = character.is_ascii_alphanumeric()
                || matches!(
                    character,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            byte += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// RFC 9110 §5.5: visible characters, blanks, tabs and obs-text.
pub(super) fn is_value(byte: u8) -> bool {
    byte == b'\t' || !is_control(byte)
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_ends_at_its_first_control_character_wherever_that_is() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                for filler in [b'a', b'\t', 0x80, 0xff] {
                    let mut bytes = [filler; 20];
                    bytes[at] = byte;
                    bytes[19] = 0x7f;
                    let expected = if is_value(byte) || at == 19 { 19 } else { at };
                    assert_eq!(value_len(&bytes), expected, "{byte:#x} at {at} in {filler:#x}");
                }
            }
        }
    }
}
