//! Damage is found, named, and never used.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use okapi_cache::verify::verify;
use okapi_cache::{Access, ArtifactKind, Durability, Store, StoreError};

use crate::support::{action, commit, open};

fn store_with(folder: &std::path::Path, names: &[&str]) -> Store {
    let store = open(&folder.join("store"));
    for name in names {
        let artifact = store.put_bytes(name.as_bytes()).unwrap();
        store.commit(commit(name, vec![artifact])).unwrap();
    }
    store.flush().unwrap();
    store
}

#[test]
fn a_flipped_byte_in_the_log_costs_one_result_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    drop(store_with(folder.path(), &["one", "two", "three"]));
    let log = folder.path().join("store/actions.log");
    let whole = fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&log, damaged).unwrap();
    let store = open(&folder.path().join("store"));
    let found = ["one", "two", "three"].map(|name| store.lookup(&action(name).1).is_some());
    assert_eq!(found.iter().filter(|&&found| found).count(), 2);
    assert!(store.damaged_log_bytes() > 0);
}

#[test]
fn a_log_that_is_no_log_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    drop(store_with(folder.path(), &["one"]));
    fs::write(folder.path().join("store/actions.log"), "garbage").unwrap();
    let store = store_with(folder.path(), &["two"]);
    assert!(store.lookup(&action("one").1).is_none());
    assert!(store.lookup(&action("two").1).is_some());
    drop(store);
    assert!(open(&folder.path().join("store")).lookup(&action("two").1).is_some());
    let quarantine = folder.path().join("store/quarantine");
    assert_eq!(fs::read_dir(quarantine).unwrap().count(), 1);
}

#[test]
fn an_object_with_wrong_bytes_is_found_by_verify_and_its_result_becomes_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &["one", "two"]);
    let output = store.lookup(&action("one").1).unwrap().outputs()[0];
    let path = store.object_path(&output.digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, "ONE").unwrap();
    let report = verify(&store, true, &mut |_| {}).unwrap();
    assert_eq!(report.damaged, [output.digest]);
    assert_eq!(report.incomplete, [(action("one").1, output)]);
    let cached = store.lookup(&action("one").1).unwrap();
    assert_eq!(store.missing_output(&cached), Some(output));
    store.put_bytes(b"one").unwrap();
    assert_eq!(store.missing_output(&cached), None);
}

#[test]
fn objects_of_a_run_that_a_power_cut_ended_are_hashed_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &["one", "two"]);
    // What a power cut leaves: a marker of another boot, and a file of the right length without
    // its bytes.
    fs::write(folder.path().join("store/inflight/1-0"), "another boot").unwrap();
    let output = store.lookup(&action("two").1).unwrap().outputs()[0];
    let path = store.object_path(&output.digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, [0; 3]).unwrap();
    let guard = store.enter_run().unwrap();
    assert_eq!(guard.recovered, [output.digest]);
    let cached = store.lookup(&action("two").1).unwrap();
    assert_eq!(store.missing_output(&cached), Some(output));
    drop(guard);
    assert!(store.enter_run().unwrap().recovered.is_empty(), "the marker is gone");
}

#[test]
fn stores_of_another_kind_or_a_newer_format_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        Store::open(&folder.path().join(name), Access::ReadWrite, Durability::Batch).map(|_| ())
    };
    fs::create_dir(folder.path().join("other")).unwrap();
    fs::write(folder.path().join("other/file"), "").unwrap();
    assert!(matches!(open("other"), Err(StoreError::NotAStore { .. })));
    open("store").unwrap();
    fs::write(folder.path().join("store/format"), "okapi store 2\n").unwrap();
    assert!(matches!(open("store"), Err(StoreError::NewerFormat { found: 2, known: 1, .. })));
    fs::write(folder.path().join("store/format"), "something\n").unwrap();
    assert!(matches!(open("store"), Err(StoreError::NotAStore { .. })));
}

#[test]
fn reading_only_writes_nothing_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let missing = Store::open(&root, Access::ReadOnly, Durability::Batch);
    assert!(matches!(missing, Err(StoreError::NotAStore { .. })));
    assert!(!root.exists());
    drop(store_with(folder.path(), &["one"]));
    let store = Store::open(&root, Access::ReadOnly, Durability::Batch).unwrap();
    assert!(store.lookup(&action("one").1).is_some());
    let refused = store.commit(commit("two", vec![]));
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })));
}

#[test]
fn things_that_are_no_artifacts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    assert!(matches!(
        store.ingest(&tree, ArtifactKind::Tree),
        Err(StoreError::Unstorable { path, .. }) if path == tree.join("link")
    ));
    assert!(store.ingest(std::path::Path::new("/dev/null"), ArtifactKind::File).is_err());
}
