//! HTTP/1 messages read a second time: heads by httparse, chunked bodies by the letter of RFC 9112.

/// The bytes of a message, as a second reader sees them.
#[derive(Debug, Eq, PartialEq)]
pub struct Message {
    /// Method and target, or status.
    pub start: Vec<String>,
    pub fields: Vec<(String, Vec<u8>)>,
    pub head_bytes: usize,
    /// `None`: it is not all there, and `bytes` are all that is.
    pub end: Option<usize>,
}

/// What frames a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    Chunked,
    None,
    Sized(u64),
}

impl Message {
    /// A field's values, by its name in lower case.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let same = self.fields.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_slice()).collect()
    }

    /// # Panics
    /// When two readers could disagree on where the body ends.
    pub fn framing(&self) -> Framing {
        let (lengths, encodings) = (self.values("content-length"), self.values("transfer-encoding"));
        match (&lengths[..], &encodings[..]) {
            ([], []) => Framing::None,
            ([length], []) => {
                assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit), "{self:?}");
                Framing::Sized(std::str::from_utf8(length).expect("digits").parse().expect("a length that fits"))
            }
            ([], [encoding]) => {
                assert!(encoding.eq_ignore_ascii_case(b"chunked"), "{self:?}");
                Framing::Chunked
            }
            _ => panic!("its end is doubtful: {self:?}"),
        }
    }
}

/// The request that `bytes` begin with; `None` while its head is not all there.
///
/// # Panics
/// When httparse takes it for none, or its framing is doubtful.
pub fn request(bytes: &[u8]) -> Option<Message> {
    let mut fields = [httparse::EMPTY_HEADER; 1_000];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head_bytes) =
        request.parse(bytes).unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()))
    else {
        return None;
    };
    let start = vec![request.method.unwrap_or_default().to_owned(), request.path.unwrap_or_default().to_owned()];
    let mut message = Message { start, fields: owned(request.headers), head_bytes, end: None };
    message.end = match message.framing() {
        Framing::None => Some(head_bytes),
        Framing::Sized(length) => sized(bytes, head_bytes, length),
        Framing::Chunked => chunked(&bytes[head_bytes..]).map(|length| head_bytes + length),
    };
    Some(message)
}

/// The head of a response; `None` while it is not all there.
///
/// # Panics
/// When httparse takes it for none.
pub fn response_head(bytes: &[u8]) -> Option<(u16, Message)> {
    let mut fields = [httparse::EMPTY_HEADER; 1_000];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_bytes) =
        response.parse(bytes).unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()))
    else {
        return None;
    };
    let status = response.code.unwrap_or_default();
    Some((status, Message { start: vec![status.to_string()], fields: owned(response.headers), head_bytes, end: None }))
}

fn owned(fields: &[httparse::Header<'_>]) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
}

/// Where a body of so many bytes ends.
pub fn sized(bytes: &[u8], from: usize, length: u64) -> Option<usize> {
    let end = usize::try_from(length).ok()?.checked_add(from)?;
    (end <= bytes.len()).then_some(end)
}

/// Length of a chunked body, trailers included; `None` while it is not all there. RFC 9112 §7.1, and nothing else.
///
/// # Panics
/// When it is none.
pub fn chunked(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line(&bytes[at..])?;
        at += line.len() + 2;
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(!size.is_empty() && size.iter().all(u8::is_ascii_hexdigit), "{}", line.escape_ascii());
        let size = u64::from_str_radix(std::str::from_utf8(size).expect("digits"), 16).expect("a size that fits");
        if size == 0 {
            break;
        }
        at = sized(bytes, at, size)?;
        let end = bytes.get(at..at + 2)?;
        assert_eq!(end, b"\r\n", "a chunk ends with a line end");
        at += 2;
    }
    loop {
        let line = line(&bytes[at..])?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
        let colon = line.iter().position(|byte| *byte == b':').expect("a trailer has a name");
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        assert!(colon > 0 && line[..colon].iter().all(is_token), "{}", line.escape_ascii());
    }
}

/// The data of a chunked body that is all there.
pub fn data_of_chunks(bytes: &[u8]) -> Vec<u8> {
    let (mut at, mut data) = (0, Vec::new());
    while let Some(line) = line(&bytes[at..]) {
        at += line.len() + 2;
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = usize::from_str_radix(std::str::from_utf8(size).expect("digits"), 16).expect("a size that fits");
        if size == 0 {
            break;
        }
        data.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
    }
    data
}

/// A line without its end.
///
/// # Panics
/// When it has a CR, LF or NUL within.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let line = &bytes[..end];
    assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{}", line.escape_ascii());
    Some(line)
}

/// # Panics
/// When a head has a CR, LF or NUL that is no line end.
pub fn check_lines(head: &[u8]) {
    let mut at = 0;
    while at < head.len() {
        let line = line(&head[at..]).expect("a head is whole lines");
        at += line.len() + 2;
    }
}
