//! Refusals in a form that every client of gRPC can take in.

use axum::http::{HeaderMap, HeaderName};
use tonic::{Code, Status};

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Bytes of a message as it travels. Clients take 8 KiB of headers in all, and call it another error where there are
/// more.
const MESSAGE_BYTES_MAX: usize = 4096;
/// What is kept of the two ends of a longer message.
const HEAD_BYTES: usize = 2048;
const TAIL_BYTES: usize = 1024;
const TOO_LARGE: &str = "decoded message length too large";

/// Shortens a message that repeats what was sent at length, and says of a message that is too large what bounds it.
pub(super) fn tidy(headers: &mut HeaderMap) {
    let Some(message) = headers.get(&MESSAGE) else { return };
    let is_long = message.len() > MESSAGE_BYTES_MAX;
    let is_of_range = headers.get(Status::GRPC_STATUS).is_some_and(|code| code.as_bytes() == b"11");
    if !is_long && !is_of_range {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    let tidied = match status.message() {
        message if status.code() == Code::OutOfRange && message.contains(TOO_LARGE) => Status::resource_exhausted(
            "the message is larger than the server takes at once (`limits: {request_bytes: …}`); send fewer rows",
        ),
        message => Status::with_details(status.code(), shortened(message), status.details().to_vec().into()),
    };
    // A status that headers cannot hold stays as it was.
    let _ = tidied.add_header(headers);
}

/// The beginning and the end: what a message says stands around what it repeats.
fn shortened(message: &str) -> String {
    let head: String = message.chars().scan(HEAD_BYTES, within).collect();
    let tail: Vec<char> = message[head.len()..].chars().rev().scan(TAIL_BYTES, within).collect();
    match head.len() + tail.iter().map(|c| c.len_utf8()).sum::<usize>() < message.len() {
        true => format!("{head} … {}", tail.iter().rev().collect::<String>()),
        false => message.to_owned(),
    }
}

/// The character, as long as it travels within the bytes that are left: all but visible ASCII takes three for each.
fn within(left: &mut usize, c: char) -> Option<char> {
    let bytes = if c.is_ascii_graphic() && c != '%' { 1 } else { 3 * c.len_utf8() };
    *left = left.checked_sub(bytes)?;
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tidied(status: Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        tidy(&mut headers);
        assert!(headers.get(&MESSAGE).unwrap().len() <= MESSAGE_BYTES_MAX);
        Status::from_header_map(&headers).unwrap()
    }

    #[test]
    fn long_messages_keep_their_ends_and_short_ones_all() {
        for name in ["a", "é", "語", "🦀"] {
            let status = tidied(Status::not_found(format!("there is no view `{}`; there is `b`", name.repeat(20_000))));
            assert_eq!(status.code(), Code::NotFound);
            assert!(status.message().starts_with("there is no view `"), "{status}");
            assert!(status.message().ends_with("`; there is `b`"), "{status}");
        }
        assert_eq!(tidied(Status::not_found("there is none")).message(), "there is none");
        assert_eq!(tidied(Status::out_of_range("beyond")).code(), Code::OutOfRange);
    }
}
