//! Places where a process may be made to end as if it were killed, to show that nothing is lost there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// `name`, or `name:n` for the n-th time that the place is reached.
const VARIABLE: &str = "ASOF_FAIL_POINT";

struct Wanted {
    name: String,
    left: AtomicU64,
}

/// Ends the process if this is the place that `ASOF_FAIL_POINT` names.
pub fn fail_point(name: &str) {
    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Wanted { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
    });
    if let Some(wanted) = wanted
        && wanted.name == name
        && wanted.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}
