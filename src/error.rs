//! What a caller can do about an error, whatever module it comes from.

/// Kinds of error, named for what the caller does next.
///
/// Every error type of the crate answers `kind()`; [`grpc codes`](crate::serving) and
/// [exit statuses](ErrorKind::exit_status) are derived from it in one place each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Fix the call or the definition.
    Invalid,
    /// Name something that exists.
    NotFound,
    /// Do something else first: apply, materialize, configure.
    Precondition,
    /// Send a token.
    Unauthenticated,
    /// Ask for the role.
    Denied,
    /// Ask for less, or later.
    Exhausted,
    /// Somebody else was faster: read again and retry.
    Conflict,
    /// Retry later.
    Unavailable,
    /// Repair the data.
    Corrupt,
    /// Report a bug.
    Internal,
}

impl ErrorKind {
    /// What documents of commands call it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Precondition => "precondition",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::Denied => "denied",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Internal => "internal",
        }
    }

    /// Exit status of a command: 2 when the call or a definition is wrong, else 1.
    pub fn exit_status(self) -> u8 {
        match self {
            ErrorKind::Invalid | ErrorKind::NotFound => 2,
            _ => 1,
        }
    }
}

/// The text of an error and of every source below it, joined by `: `.
///
/// A source whose text its parent already repeats is left out.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text.push_str(": ");
            text.push_str(&next_text);
        }
        source = next.source();
    }
    text
}
