//! Laws of sharing, with a remote that is a folder.

use std::fs;
use std::path::{Path, PathBuf};

use okapi_cache::{ActionDigest, ResultFile};
use okapi_remote::{Obtained, Options, Pushed, RemoteError, Replace, RunRoot};

use crate::support::{LARGE, agrees, commit, is_clean, kinds, obtain, remote, store, three};

/// All files of the remote, sorted.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![folder.join("remote")];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { stack.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn what_one_store_has_another_gets() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    let actions = three(&one, folder.path(), LARGE);
    for action in &actions {
        assert!(matches!(obtain(&remote, &two, action, kinds(&one, action)), Obtained::Nothing));
        assert!(matches!(remote.push(&one, action, Replace::Damaged).unwrap(), Pushed::New(_)));
        // Again: nothing is sent.
        let again = remote.push(&one, action, Replace::Damaged).unwrap();
        assert_eq!(again, Pushed::Agreed(okapi_remote::Moved::default()));
    }
    assert_eq!(remote.results(&actions).len(), 3);
    for action in &actions {
        let obtained = obtain(&remote, &two, action, kinds(&one, action));
        assert!(matches!(obtained, Obtained::Fetched(_)), "{obtained:?}");
        assert!(agrees(&two, &one, action));
    }
    two.flush().unwrap();
    let log = one.document(&actions[0]).unwrap().unwrap().info.log.unwrap();
    assert!(two.object_size(&log).is_some(), "the log comes along");
    is_clean(&two);
    assert_eq!(remote.take_notices(), Vec::<String>::new());
}

#[test]
fn whoever_was_first_is_believed_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    let first = one.put_bytes(b"first").unwrap();
    let second = two.put_bytes(b"second").unwrap();
    let action = commit(&one, "{\"chance\":1}", &[first]);
    commit(&two, "{\"chance\":1}", &[second]);
    remote.push(&one, &action, Replace::Damaged).unwrap();
    let differs = remote.push(&two, &action, Replace::Damaged).unwrap();
    assert_eq!(differs, Pushed::Differs { there: vec![first] });
    assert_eq!(remote.results(&[action])[&action].outputs, [first]);
    assert!(matches!(remote.push(&two, &action, Replace::Any).unwrap(), Pushed::Replaced(_)));
    assert_eq!(remote.results(&[action])[&action].outputs, [second]);
}

#[test]
fn whatever_file_of_it_is_damaged_nothing_wrong_enters_a_store_and_a_push_or_a_repair_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path(), "one");
    let actions = three(&one, folder.path(), 1000);
    {
        let remote = remote(folder.path(), &Options::default());
        actions.iter().for_each(|it| drop(remote.push(&one, it, Replace::Damaged).unwrap()));
    }
    let whole = files(folder.path());
    assert!(whole.len() > 20);
    for (number, path) in whole.iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let mut flipped = bytes.clone();
        if let Some(byte) = flipped.get_mut(bytes.len() / 2) {
            *byte ^= 4;
        }
        let damages = [Some(flipped), Some(bytes[..bytes.len() / 3].to_vec()), None];
        let damage = &damages[number % damages.len()];
        match damage {
            Some(damaged) => fs::write(path, damaged).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let options = Options::default();
        let remote = remote(folder.path(), &options);
        let two = store(folder.path(), &format!("two-{number}"));
        for action in &actions {
            obtain(&remote, &two, action, kinds(&one, action));
            agrees(&two, &one, action);
        }
        two.flush().unwrap();
        is_clean(&two);
        let report = remote.verify(&one, None, None, &|_| {}).unwrap();
        let is_result = path.to_str().unwrap().contains("/action/");
        // A result that is gone is no mistake, nor a log or a kept file.
        let is_found = !report.wrong.is_empty();
        assert!(is_found || damage.is_none(), "{}", path.display());
        if is_result {
            actions.iter().for_each(|it| drop(remote.push(&one, it, Replace::Damaged).unwrap()));
        } else {
            remote.verify(&one, None, Some(&|_| None), &|_| {}).unwrap();
            // What is merely gone is sent with its result.
            actions.iter().for_each(|it| drop(remote.push(&one, it, Replace::Damaged).unwrap()));
        }
        assert_eq!(remote.verify(&one, None, None, &|_| {}).unwrap().wrong, []);
        assert_eq!(fs::read(path).unwrap(), bytes, "{}", path.display());
        fs::remove_dir_all(two.root()).unwrap();
    }
    assert_eq!(files(folder.path()), whole);
}

#[test]
fn a_result_with_other_outputs_than_the_action_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    let output = one.put_bytes(b"x").unwrap();
    let action = commit(&one, "{}", &[output]);
    remote.push(&one, &action, Replace::Damaged).unwrap();
    for wrong in [vec![], vec![okapi_cache::ArtifactKind::Tree], vec![output.kind; 2]] {
        assert!(matches!(obtain(&remote, &two, &action, wrong), Obtained::Nothing));
    }
    assert_eq!(two.lookup(&action), None);
    assert_eq!(remote.take_notices().len(), 3);
}

#[test]
fn whoever_holds_the_lease_fetches() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    let action = commit(&one, "{}", &[one.put_bytes(b"x").unwrap()]);
    remote.push(&one, &action, Replace::Damaged).unwrap();
    let lease = two.try_lease(&action).unwrap().unwrap();
    let obtained = obtain(&remote, &two, &action, kinds(&one, &action));
    assert!(matches!(obtained, Obtained::Leased));
    drop(lease);
    let obtained = obtain(&remote, &two, &action, kinds(&one, &action));
    assert!(matches!(obtained, Obtained::Fetched(_)));
    two.flush().unwrap();
    assert!(two.try_lease(&action).unwrap().is_some(), "it is given back");
}

#[test]
fn read_only_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path(), "one");
    let action = commit(&one, "{}", &[one.put_bytes(b"x").unwrap()]);
    let remote = remote(folder.path(), &Options { read_only: true, ..Options::default() });
    assert!(!remote.can_write() && remote.can_read());
    let pushed = remote.push(&one, &action, Replace::Damaged);
    assert!(matches!(pushed, Err(RemoteError::ReadOnly)));
    let root = RunRoot::new("p".to_owned(), 1, vec![action]);
    assert!(matches!(remote.put_run("r", &root), Err(RemoteError::ReadOnly)));
    assert!(matches!(
        remote.verify(&one, None, Some(&|_| None), &|_| {}),
        Err(RemoteError::ReadOnly)
    ));
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_is_lost_or_damaged_here_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path(), "one");
    let remote = remote(folder.path(), &Options::default());
    let output = one.put_bytes(b"the output").unwrap();
    let action = commit(&one, "{}", &[output]);
    let path = one.object_path(&output.digest);
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&path, writable).unwrap();
    fs::write(&path, b"the 0utput").unwrap();
    let pushed = remote.push(&one, &action, Replace::Damaged);
    assert!(matches!(pushed, Err(RemoteError::Store(_))), "{pushed:?}");
    // It was set aside, so it is lost now.
    assert_eq!(remote.push(&one, &action, Replace::Damaged).unwrap(), Pushed::NotHere);
    let unknown = ActionDigest(okapi_cache::Digest::of(b"unknown"));
    assert_eq!(remote.push(&one, &unknown, Replace::Damaged).unwrap(), Pushed::NotHere);
    assert!(remote.results(&[action]).is_empty());
}

#[test]
fn two_writers_at_once_agree() {
    let folder = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..4).map(|n| store(folder.path(), &n.to_string())).collect();
    let remote = remote(folder.path(), &Options::default());
    for round in 0..10 {
        let document = format!("{{\"round\":{round}}}");
        let all: Vec<_> = std::thread::scope(|scope| {
            let pushed = stores.iter().enumerate().map(|(n, store)| {
                let (remote, document) = (&remote, &document);
                scope.spawn(move || {
                    let output = store.put_bytes(format!("by {n}").as_bytes()).unwrap();
                    let action = commit(store, document, &[output]);
                    remote.push(store, &action, Replace::Damaged).unwrap()
                })
            });
            let threads: Vec<_> = pushed.collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let new = all.iter().filter(|it| matches!(it, Pushed::New(_))).count();
        let differ = all.iter().filter(|it| matches!(it, Pushed::Differs { .. })).count();
        assert_eq!((new, differ), (1, 3), "{all:?}");
        let action = ActionDigest(okapi_cache::Digest::of(document.as_bytes()));
        let there: &ResultFile = &remote.results(&[action])[&action];
        let winner = all.iter().position(|it| matches!(it, Pushed::New(_))).unwrap();
        assert_eq!(there.outputs, stores[winner].lookup(&action).unwrap().outputs());
    }
}
