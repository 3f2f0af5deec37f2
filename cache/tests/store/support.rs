//! Results to put into stores.

use std::collections::BTreeMap;
use std::path::Path;

use okapi_cache::{Access, ActionDigest, Artifact, Commit, Digest, Durability, ResultInfo, Store};

pub(crate) fn open(root: &Path) -> Store {
    Store::open(root, Access::ReadWrite, Durability::None).unwrap()
}

/// The document of an action that does not exist, and its digest.
pub(crate) fn action(name: &str) -> (String, ActionDigest) {
    let document = format!("{{\"action\":1,\"declared\":{{\"name\":\"{name}\"}}}}");
    let digest = ActionDigest(Digest::of(document.as_bytes()));
    (document, digest)
}

pub(crate) fn commit(name: &str, outputs: Vec<Artifact>) -> Commit {
    let (document, action) = action(name);
    Commit {
        action,
        document,
        outputs,
        info: ResultInfo {
            metrics: BTreeMap::new(),
            duration_ms: 7,
            finished_unix_ms: 0,
            determinism: "bytes".to_owned(),
            environment: BTreeMap::new(),
            log: None,
            cost_micro_usd: None,
            keeps: Vec::new(),
        },
        lease: None,
    }
}

/// A folder with files, a folder in a folder, a symlink and a script.
pub(crate) fn make_tree(folder: &Path, text: &str) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    std::fs::create_dir_all(folder.join("a/empty")).unwrap();
    std::fs::write(folder.join("a/text"), text).unwrap();
    std::fs::write(folder.join("script"), "#!/bin/sh\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.join("script"), mode).unwrap();
    symlink("a/text", folder.join("link")).unwrap();
}
