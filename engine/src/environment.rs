//! What is kept of the machine with a result, for people and audits. It never enters an action.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::schedule::Grant;

/// The program, the system, the host, the processor, and the threads and GPUs that were handed out. `program` is okapi's version
/// and source revision.
pub fn describe(program: &str, grant: &Grant) -> BTreeMap<String, String> {
    let system = rustix::system::uname();
    let threads = (grant.resources.cpu_milli / 1000).max(1);
    let mut environment = BTreeMap::from([
        ("okapi".to_owned(), program.to_owned()),
        (
            "system".to_owned(),
            format!(
                "{} {} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy(),
                system.machine().to_string_lossy()
            ),
        ),
        ("host".to_owned(), host()),
        ("processor".to_owned(), processor().to_owned()),
        ("processor_features".to_owned(), processor_features().join(" ")),
        ("threads".to_owned(), threads.to_string()),
    ]);
    if !grant.gpus.is_empty() {
        environment.insert("gpus".to_owned(), grant.gpus.join(","));
    }
    environment
}

/// The name of this machine.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of the user as the system knows it, whatever the environment says.
pub fn user() -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    user_in(&users, rustix::process::getuid().as_raw())
}

/// The name that a list of users has for a number.
fn user_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The model of the processor, as the system says it; `unknown` if it does not.
pub fn processor() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = info.lines().find(|line| line.starts_with("model name"));
        let model = line.and_then(|line| line.split_once(':'));
        model.map_or("unknown".to_owned(), |(_, model)| model.trim().to_owned())
    })
}

/// What of the processor kernels choose their code by.
#[cfg(target_arch = "x86_64")]
pub fn processor_features() -> Vec<&'static str> {
    let found = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
    ];
    found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// What of the processor kernels choose their code by.
#[cfg(not(target_arch = "x86_64"))]
pub fn processor_features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n\nx\n";
        assert_eq!(user_in(users, 1000).as_deref(), Some("anna"));
        assert_eq!(user_in(users, 1), None);
    }
}
