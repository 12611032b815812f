//! YAML text to records, with the position of everything that is wrong on the way.
//!
//! ```text
//! text ── tree ──> Node ── decode ──> records
//! ```
//!
//! Serde stops at the first error and forgets where values stood; here a file is read into a tree of [`Node`]s
//! first, and decoding goes on after an error, so that one run tells all of them.

mod decode;
mod tree;

pub(crate) use decode::record;
pub use decode::{Decode, Entries, Fields};
pub use tree::{Kind, Node, parse_documents};

#[cfg(test)]
mod tests;
