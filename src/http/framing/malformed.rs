//! Every way in which a message can be wrong, with the words for whoever sent it.
//!
//! The text of a variant never repeats what was sent: it goes into responses and logs.

use http::StatusCode;

/// Why a message was refused before anything acted on it. The text tells what to send instead.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Malformed {
    #[error(":authority and Host name different hosts; send one of them")]
    AuthorityDiffers,
    #[error("the request body stopped arriving; send it without long pauses")]
    BodyTimeout,
    #[error("a chunk is not followed by CR LF where its size ends it; check the chunked coding")]
    ChunkEnd,
    #[error("a chunk extension is too long or holds control characters; leave chunk extensions out")]
    ChunkExtension,
    #[error("a chunk size is not 1 to 15 hexadecimal digits directly followed by CR LF")]
    ChunkSize,
    #[error("CONNECT is not offered here; send requests with a path")]
    Connect,
    #[error("Transfer-Encoding is given but is not exactly \"chunked\"; send the body chunked or with Content-Length")]
    Encoding,
    #[error("Transfer-Encoding is given more than once; send it once")]
    EncodingRepeated,
    #[error("Transfer-Encoding is not part of HTTP/1.0; use HTTP/1.1 or Content-Length")]
    EncodingVersion,
    #[error("Expect knows only 100-continue; leave the field out")]
    Expectation,
    #[error("a header line is folded or starts with a blank; send each field in one line")]
    FieldFolded,
    #[error("a header name is empty, holds a character that is not allowed, or is not directly followed by a colon")]
    FieldName,
    #[error("a header value holds a control character; remove it")]
    FieldValue,
    #[error("the request has too many header fields; send fewer")]
    FieldsTooMany,
    #[error("the header section did not arrive in time; send it without pauses")]
    HeadTimeout,
    #[error("the request line and header fields together are too long; send fewer or shorter ones")]
    HeadTooLarge,
    #[error("Host is not a host name or address with an optional port")]
    Host,
    #[error("Host is missing; HTTP/1.1 requires it")]
    HostMissing,
    #[error("Host is given more than once; send it once")]
    HostRepeated,
    #[error("Content-Length is not one plain decimal number without sign or leading zeros")]
    Length,
    #[error("Content-Length is given more than once; send it once")]
    LengthRepeated,
    #[error("Content-Length and Transfer-Encoding are both given; send one of them")]
    LengthWithEncoding,
    #[error("a line does not end with CR LF, or holds a CR or LF of its own")]
    LineEnd,
    #[error("the method is not a token of at most 32 characters")]
    Method,
    #[error("the request line is not METHOD, one blank, path, one blank, HTTP/1.1")]
    RequestLine,
    #[error("the target holds a character that must be percent-encoded, or a fragment")]
    TargetCharacter,
    #[error("the target is not a path; send a request target that starts with a slash")]
    TargetForm,
    #[error("the target is too long; send a shorter path and query")]
    TargetTooLong,
    #[error("the trailer section is malformed or too long; leave trailers out")]
    Trailer,
    #[error("the protocol version is not HTTP/1.0 or HTTP/1.1")]
    Version,
}

impl Malformed {
    pub fn status(self) -> StatusCode {
        match self {
            Self::BodyTimeout | Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::FieldsTooMany | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::AuthorityDiffers
            | Self::ChunkEnd
            | Self::ChunkExtension
            | Self::ChunkSize
            | Self::Encoding
            | Self::EncodingRepeated
            | Self::EncodingVersion
            | Self::FieldFolded
            | Self::FieldName
            | Self::FieldValue
            | Self::Host
            | Self::HostMissing
            | Self::HostRepeated
            | Self::Length
            | Self::LengthRepeated
            | Self::LengthWithEncoding
            | Self::LineEnd
            | Self::Method
            | Self::RequestLine
            | Self::TargetCharacter
            | Self::TargetForm
            | Self::Trailer
            | Self::Version => StatusCode::BAD_REQUEST,
        }
    }

    /// Stable, snake_case: what programs match on.
    pub fn code(self) -> &'static str {
        match self {
            Self::AuthorityDiffers => "authority_differs",
            Self::BodyTimeout => "body_timeout",
            Self::ChunkEnd => "chunk_end_invalid",
            Self::ChunkExtension => "chunk_extension_invalid",
            Self::ChunkSize => "chunk_size_invalid",
            Self::Connect => "connect_unsupported",
            Self::Encoding => "transfer_encoding_unsupported",
            Self::EncodingRepeated => "transfer_encoding_repeated",
            Self::EncodingVersion => "transfer_encoding_in_http_1_0",
            Self::Expectation => "expectation_unsupported",
            Self::FieldFolded => "header_folded",
            Self::FieldName => "header_name_invalid",
            Self::FieldValue => "header_value_invalid",
            Self::FieldsTooMany => "headers_too_many",
            Self::HeadTimeout => "header_timeout",
            Self::HeadTooLarge => "headers_too_large",
            Self::Host => "host_invalid",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::Length => "content_length_invalid",
            Self::LengthRepeated => "content_length_repeated",
            Self::LengthWithEncoding => "content_length_with_transfer_encoding",
            Self::LineEnd => "line_end_invalid",
            Self::Method => "method_invalid",
            Self::RequestLine => "request_line_invalid",
            Self::TargetCharacter => "target_character_invalid",
            Self::TargetForm => "target_form_unsupported",
            Self::TargetTooLong => "target_too_long",
            Self::Trailer => "trailer_invalid",
            Self::Version => "http_version_unsupported",
        }
    }

    /// What was wrong with the body whose reading ended in `error`; `None` when the connection itself failed.
    pub fn of_body(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        find(error)
    }
}

/// The violation that an I/O error somewhere in the chain of `error` holds.
pub(super) fn find<V: std::error::Error + Copy + 'static>(error: &(dyn std::error::Error + 'static)) -> Option<V> {
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(violation) = wrapped.and_then(|inner| inner.downcast_ref::<V>()) {
            return Some(*violation);
        }
        next = error.source();
    }
    None
}
