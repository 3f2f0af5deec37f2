//! Collection: kept results stay whole, everything else goes, and other handles notice.

use okapi_cache::gc::{GcRequest, gc};
use okapi_cache::verify::verify;
use okapi_cache::{ArtifactKind, StoreError};
use proptest::prelude::*;

use crate::support::{action, commit, make_tree, open};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kept_results_stay_complete_and_the_rest_goes(
        contents in prop::collection::vec((0_u8..6, any::<bool>()), 1..8),
        keep in prop::collection::vec(any::<bool>(), 8),
        max_size in prop::option::of(0_u64..80),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("store"));
        let other = open(&folder.path().join("store"));
        for (position, (content, is_tree)) in contents.iter().enumerate() {
            let artifact = if *is_tree {
                let path = folder.path().join("tree");
                let _ = std::fs::remove_dir_all(&path);
                make_tree(&path, &format!("content {content}"));
                store.adopt(&path, ArtifactKind::Tree).unwrap()
            } else {
                store.put_bytes(format!("content {content}").as_bytes()).unwrap()
            };
            store.commit(commit(&format!("n{position}"), vec![artifact])).unwrap();
        }
        store.flush().unwrap();
        other.refresh().unwrap();
        let wanted: Vec<_> = (0..contents.len())
            .filter(|&position| keep[position])
            .map(|position| action(&format!("n{position}")).1)
            .collect();
        let request = GcRequest { keep: wanted.clone(), max_size };
        let dry = gc(&store, &request, None).unwrap();
        let alone = store.alone().unwrap();
        let report = gc(&store, &request, Some(&alone)).unwrap();
        drop(alone);
        prop_assert_eq!(&dry, &report, "a dry run says what a real one does");
        for store in [&store, &other] {
            store.refresh().unwrap();
            for (position, action) in wanted.iter().enumerate() {
                let kept = (position as u64) < report.kept_actions;
                let cached = store.lookup(action);
                prop_assert_eq!(cached.is_some(), kept);
                if let Some(cached) = cached {
                    prop_assert_eq!(store.missing_output(&cached), None);
                    prop_assert!(store.document(action).unwrap().is_some());
                }
            }
            prop_assert_eq!(store.all_actions().len() as u64, report.kept_actions);
        }
        prop_assert!(max_size.is_none_or(|max| report.kept_bytes <= max));
        let verified = verify(&store, false, &mut |_| {}).unwrap();
        prop_assert!(verified.is_clean());
        prop_assert_eq!(store.stats().unwrap().objects, report.kept_objects);
        // And the store goes on working for both.
        let artifact = other.put_bytes(b"after").unwrap();
        other.commit(commit("after", vec![artifact])).unwrap();
        other.flush().unwrap();
        store.refresh().unwrap();
        prop_assert!(store.lookup(&action("after").1).is_some());
    }
}

#[test]
fn a_run_keeps_the_collector_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let guard = store.enter_run().unwrap();
    let refused = open(&folder.path().join("store")).alone();
    assert!(matches!(refused, Err(StoreError::InUse { .. })));
    drop(guard);
    store.alone().unwrap();
}

#[test]
fn two_handles_that_append_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    drop(open(&root));
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let root = &root;
            scope.spawn(move || {
                let store = open(root);
                for number in 0..50 {
                    let name = format!("w{writer}n{number}");
                    let artifact = store.put_bytes(name.as_bytes()).unwrap();
                    store.commit(commit(&name, vec![artifact])).unwrap();
                    if number % 7 == 0 {
                        store.flush().unwrap();
                    }
                }
                store.flush().unwrap();
            });
        }
    });
    let store = open(&root);
    assert_eq!(store.all_actions().len(), 200);
    assert_eq!(store.damaged_log_bytes(), 0);
    for writer in 0..4 {
        for number in 0..50 {
            let (document, digest) = action(&format!("w{writer}n{number}"));
            assert_eq!(store.document(&digest).unwrap().unwrap().document, document);
        }
    }
}
