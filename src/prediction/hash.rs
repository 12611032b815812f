//! Shares of traffic that stay the same: by hashes of what is asked about, not by chance.

use xxhash_rust::xxh3::Xxh3;

/// Where a key falls in `[0, 1)`, the same in every process; `purpose` makes choices independent of each other.
pub fn share(purpose: &[&str], key: &str) -> f64 {
    let mut hasher = Xxh3::new();
    for part in purpose {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(key.as_bytes());
    // The bits that a float64 holds exactly.
    (hasher.digest() >> 11) as f64 / (1_u64 << 53) as f64
}
