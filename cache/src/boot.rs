//! Which boot of the machine this is: what was written in another one may not have reached the disk.

/// Names this boot of the machine.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_else(|_| "unknown".to_owned())
}
