//! Stores with results to share.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};

use okapi_cache::{
    Access, ActionDigest, Artifact, ArtifactKind, Commit, Digest, Durability, ResultInfo, Store,
};
use okapi_remote::{Address, Obtained, Options, Remote};

pub(crate) fn store(folder: &Path, name: &str) -> Arc<Store> {
    let folder = folder.join(name);
    Arc::new(Store::open(&folder, Access::ReadWrite, Durability::None).unwrap())
}

/// A remote in a folder.
pub(crate) fn remote(folder: &Path, options: &Options) -> Remote {
    fs::create_dir_all(folder.join("remote")).unwrap();
    Remote::open(&Address::parse("remote", folder).unwrap(), options).unwrap()
}

pub(crate) fn info() -> ResultInfo {
    ResultInfo {
        metrics: BTreeMap::from([("rows".to_owned(), 3.0)]),
        duration_ms: 1234,
        finished_unix_ms: 1_700_000_000_000,
        determinism: "bytes".to_owned(),
        environment: BTreeMap::new(),
        log: None,
        cost_micro_usd: None,
        keeps: Vec::new(),
    }
}

/// Commits a result.
pub(crate) fn commit(store: &Store, document: &str, outputs: &[Artifact]) -> ActionDigest {
    let action = ActionDigest(Digest::of(document.as_bytes()));
    let log = Some(store.put_bytes(format!("log of {document}").as_bytes()).unwrap().digest);
    let keeps = vec![store.put_bytes(b"a prompt").unwrap()];
    store
        .commit(Commit {
            action,
            document: document.to_owned(),
            outputs: outputs.to_vec(),
            info: ResultInfo { log, keeps, ..info() },
            lease: None,
        })
        .unwrap();
    store.flush().unwrap();
    action
}

/// A folder with files, folders and a link, as an artifact.
pub(crate) fn tree(store: &Store, scratch: &Path, files: usize) -> Artifact {
    let folder = scratch.join(format!("tree-{files}"));
    fs::create_dir_all(folder.join("empty")).unwrap();
    fs::create_dir_all(folder.join("a/b")).unwrap();
    for number in 0..files {
        fs::write(folder.join(format!("a/b/{number}")), format!("file {number}")).unwrap();
    }
    std::os::unix::fs::symlink("b/0", folder.join("a/link")).unwrap();
    store.ingest(&folder, ArtifactKind::Tree).unwrap()
}

/// From this size on objects are sent in parts.
pub(crate) const LARGE: usize = 18 << 20;

/// Three results: of a file and a folder, of a file of so many bytes, and of nothing.
pub(crate) fn three(store: &Store, scratch: &Path, bytes: usize) -> Vec<ActionDigest> {
    let file = store.put_bytes(b"hello").unwrap();
    let tree = tree(store, scratch, 20);
    let large: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    let large = store.put_bytes(&large).unwrap();
    vec![
        commit(store, "{\"action\":1,\"n\":1}", &[file, tree]),
        commit(store, "{\"action\":1,\"n\":2}", &[large]),
        commit(store, "{\"action\":1,\"n\":3}", &[]),
    ]
}

/// The kinds of an action's outputs, as whoever asks for it knows them.
pub(crate) fn kinds(from: &Store, action: &ActionDigest) -> Vec<ArtifactKind> {
    from.lookup(action).unwrap().outputs().iter().map(|output| output.kind).collect()
}

/// Asks in the background and waits for the answer.
pub(crate) fn obtain(
    remote: &Remote,
    store: &Arc<Store>,
    action: &ActionDigest,
    kinds: Vec<ArtifactKind>,
) -> Obtained {
    let (sender, receiver) = mpsc::channel();
    let answer = move |obtained| sender.send(obtained).unwrap();
    remote.obtain(Arc::clone(store), *action, kinds, drop, answer);
    receiver.recv().unwrap()
}

/// Whatever `store` has of an action must be what `origin` has, to the last bit. Says whether it has it.
pub(crate) fn agrees(store: &Store, origin: &Store, action: &ActionDigest) -> bool {
    let Some(found) = store.lookup(action) else { return false };
    let result = origin.result_file(action).unwrap().unwrap();
    assert_eq!(found.outputs(), result.outputs);
    assert_eq!(store.result_file(action).unwrap().unwrap(), result);
    for output in found.outputs() {
        assert!(store.is_complete(output), "{action}: an output is missing");
    }
    true
}

/// Every object in a store must be what its name says, and nothing be left in `tmp/`.
pub(crate) fn is_clean(store: &Store) {
    let report = okapi_cache::verify::verify(store, false, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}
