//! The k-th write fails, for every k: nothing that can be read afterwards is wrong.

use okapi_cache::verify::verify;
use okapi_cache::{Access, ArtifactKind, Durability, Faults, Placement, Store, StoreError};

use crate::support::{action, commit, make_tree, open};

/// Stores three results; says how many of them the store claims to have committed.
fn work(root: &std::path::Path, faults: Faults) -> Result<(), StoreError> {
    let store = Store::open_with_faults(root, Access::ReadWrite, Durability::Batch, faults)?;
    let outside = root.parent().unwrap().join("outside");
    let _ = std::fs::remove_dir_all(&outside);
    make_tree(&outside, "the text of the tree");
    let tree = store.adopt(&outside, ArtifactKind::Tree)?;
    store.commit(commit("tree", vec![tree]))?;
    store.flush()?;
    let bytes = store.put_bytes(b"some bytes")?;
    store.commit(commit("bytes", vec![bytes, tree]))?;
    store.flush()?;
    std::fs::write(root.parent().unwrap().join("file"), "a file").unwrap();
    let file = store.ingest(&root.parent().unwrap().join("file"), ArtifactKind::File)?;
    store.commit(commit("file", vec![file]))?;
    store.flush()
}

#[test]
fn whichever_write_fails_the_store_stays_right() {
    let mut failures = 0;
    for writes in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let result = work(&root, Faults::after(writes));
        let store = open(&root);
        let report = verify(&store, false, &mut |_| {}).unwrap();
        assert!(report.is_clean(), "after {writes} writes: {report:?}");
        for name in ["tree", "bytes", "file"] {
            let (document, digest) = action(name);
            if let Some(cached) = store.lookup(&digest) {
                assert_eq!(store.missing_output(&cached), None);
                assert_eq!(store.document(&digest).unwrap().unwrap().document, document);
            }
        }
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0, "rubbish is left");
        // Work that was not finished is done again, and all is well.
        drop(store);
        work(&root, Faults::default()).unwrap();
        assert!(verify(&open(&root), false, &mut |_| {}).unwrap().is_clean());
        match result {
            Ok(()) => {
                assert!(failures > 10, "only {failures} writes were tried");
                return;
            }
            Err(error) => {
                failures += 1;
                let full = matches!(error, StoreError::Full { .. });
                assert!(full || error.to_string().contains("no space"), "{error}");
            }
        }
    }
}

#[test]
fn trees_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let original = folder.path().join("original");
    make_tree(&original, "text");
    let artifact = store.ingest(&original, ArtifactKind::Tree).unwrap();
    assert_eq!(store.digest_source(&original).unwrap(), artifact);
    for placement in [Placement::Private, Placement::Shared] {
        let copy = folder.path().join(format!("{placement:?}"));
        store.place(&artifact, &copy, placement).unwrap();
        assert_eq!(store.digest_source(&copy).unwrap(), artifact);
        assert!(copy.join("a/empty").is_dir());
        assert_eq!(std::fs::read_link(copy.join("link")).unwrap().to_str(), Some("a/text"));
    }
}
