//! What the system's allocator does with memory.

use std::time::Duration;

/// How often the size of the process is looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// By how much it grows before what is free is given back.
const GROWN_BYTES: usize = 128 << 20;

/// Lets the threads of a command share two arenas of memory.
///
/// They hand large arrays to each other: with an arena for each thread, as the allocator has it, what one frees is not
/// there for the others, and a batch answer takes a quarter more memory. A server's threads keep theirs.
pub fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes a setting of the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// From now on gives back to the system, whenever the process has grown by much, what was freed and what the allocator
/// keeps for the thread that had it: a third of a server that takes streams, after half an hour.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let give_back = || {
            let mut least = resident_bytes();
            loop {
                std::thread::sleep(INTERVAL);
                if resident_bytes() > least.saturating_add(GROWN_BYTES) {
                    // SAFETY: it takes the allocator's own locks, and touches nothing that is in use.
                    unsafe { libc::malloc_trim(0) };
                    least = resident_bytes();
                }
                least = least.min(resident_bytes());
            }
        };
        // Without it more memory is held, and that is all.
        let _ = std::thread::Builder::new().name("asof-memory".to_owned()).spawn(give_back);
    }
}

/// 0 where the system does not tell.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<usize>().ok()).unwrap_or(0);
    // SAFETY: it reads a setting of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.saturating_mul(usize::try_from(page).unwrap_or(0))
}
