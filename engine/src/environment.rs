//! What is kept of the machine with a result, for people and audits. It never enters an action.

use std::collections::BTreeMap;

use crate::schedule::Grant;

/// okapi's version, the system, the host, and the GPUs that were handed out.
pub fn describe(grant: &Grant) -> BTreeMap<String, String> {
    let system = rustix::system::uname();
    let mut environment = BTreeMap::from([
        ("okapi".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (
            "system".to_owned(),
            format!(
                "{} {} {}",
                system.sysname().to_string_lossy(),
                system.release().to_string_lossy(),
                system.machine().to_string_lossy()
            ),
        ),
        ("host".to_owned(), system.nodename().to_string_lossy().into_owned()),
    ]);
    if !grant.gpus.is_empty() {
        environment.insert("gpus".to_owned(), grant.gpus.join(","));
    }
    environment
}
