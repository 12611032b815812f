//! Threads whose work may wait for that of others.

/// Leaves the processors to every other thread that wants them.
pub fn yield_to_all() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes how the calling thread alone is scheduled; a refusal changes nothing.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters);
    }
}

/// Takes a small share of the processors while others want them.
pub fn yield_to_most() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes the priority of the calling thread alone.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}
