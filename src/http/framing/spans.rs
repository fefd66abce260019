//! Where the fields are in a head that was judged, so that it is read once.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Malformed;

/// Room for fields that is kept between heads.
const KEPT: usize = 32;

/// What a head gets on its way: fields that say whence a request comes, whose it is, which way a response took. A map that
/// has to grow for them puts all of its fields in place again.
const ADDED: usize = 12;

/// The fields of one head.
#[derive(Default)]
pub(super) struct Spans(Vec<Span>);

/// A field's place in its head.
#[derive(Clone, Copy)]
struct Span {
    name: usize,
    name_len: usize,
    value: usize,
    value_len: usize,
}

impl Spans {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// `name` and `value` are of the line that begins `at` in `head`.
    pub(super) fn note(&mut self, head: &[u8], at: usize, name: &[u8], value: &[u8]) {
        let colon = at + name.len();
        let value_at = colon + 1 + blanks(&head[colon + 1..]);
        self.0.push(Span { name: at, name_len: name.len(), value: value_at, value_len: value.len() });
    }

    /// The fields; `block` begins with their head, and is kept as long as a value is.
    ///
    /// # Errors
    /// When there are more than a map can hold.
    pub(super) fn fields(&mut self, block: &Bytes) -> Result<HeaderMap, Malformed> {
        let mut fields = HeaderMap::with_capacity(self.0.len() + ADDED);
        for span in self.0.drain(..) {
            let name = HeaderName::from_bytes(&block[span.name..span.name + span.name_len])
                .map_err(|_| Malformed::FieldName)?;
            let value = block.slice(span.value..span.value + span.value_len);
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed::FieldValue)?;
            fields.try_append(name, value).map_err(|_| Malformed::FieldsTooMany)?;
        }
        self.0.shrink_to(KEPT);
        Ok(fields)
    }
}

/// How many blanks `bytes` begin with.
fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}
