//! The rules for the head of a response that came in a form of its own, and not as HTTP/1 bytes.

use http::{HeaderMap, StatusCode};

use super::Malformed;
use super::lengths::{Lengths, Version};
use super::response::BadResponse;

/// Judges what its own framing does not: the status, the number of fields and the lengths that they give.
///
/// # Errors
/// [`BadResponse`]: the response must not be passed on.
pub fn check_response(status: StatusCode, fields: &HeaderMap, fields_max: usize) -> Result<(), BadResponse> {
    if !(200..=599).contains(&status.as_u16()) {
        return Err(BadResponse::Status);
    }
    if fields.len() > fields_max {
        return Err(Malformed::FieldsTooMany.into());
    }
    let mut lengths = Lengths::default();
    for (name, value) in fields {
        lengths.note(name.as_str().as_bytes(), value.as_bytes(), Version::Http11)?;
    }
    Ok(())
}
