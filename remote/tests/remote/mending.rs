//! What a remote has lost or damaged is mended by whoever makes it anew, pushes it, or repairs it.

use std::fs;

use okapi_cache::{ActionDigest, Artifact, Digest, Store};
use okapi_remote::{
    Address, CollectRequest, Key, Moved, Obtained, Options, Pushed, Remote, Repaired, Replace,
    RunRoot,
};

use crate::support::{agrees, commit, kinds, obtain, remote, store, tree};

/// What becomes of an object there: other bytes of its length, fewer bytes, or nothing.
const DAMAGES: [Option<&[u8]>; 3] = [Some(b"the 0utput"), Some(b"the"), None];

fn damage(folder: &std::path::Path, output: &Artifact, damage: Option<&[u8]>) {
    let path = folder.join(format!("remote/{}", Key::Object(output.digest)));
    match damage {
        Some(bytes) => fs::write(path, bytes).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

/// Whoever gets nothing makes it anew and offers it; the next one gets it.
#[test]
fn a_result_that_could_not_be_fetched_is_mended_by_who_makes_it_anew() {
    for bytes in DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        let names = ["one", "two", "three"];
        let [one, two, three] = names.map(|name| store(folder.path(), name));
        let output = one.put_bytes(b"the output").unwrap();
        let action = commit(&one, "{}", &[output]);
        let open = || remote(folder.path(), &Options::default());
        open().push(&one, &action, Replace::Damaged).unwrap();
        damage(folder.path(), &output, bytes);

        let remote = open();
        let obtained = obtain(&remote, &two, &action, kinds(&one, &action));
        assert!(matches!(obtained, Obtained::Nothing), "{obtained:?}");
        let made = two.put_bytes(b"the output").unwrap();
        commit(&two, "{}", &[made]);
        let pushed = remote.push(&two, &action, Replace::Damaged).unwrap();
        assert_eq!(pushed, Pushed::Replaced(Moved { objects: 1, bytes: 10 }));
        let again = remote.push(&two, &action, Replace::Damaged).unwrap();
        assert_eq!(again, Pushed::Agreed(Moved::default()));

        let obtained = obtain(&open(), &three, &action, kinds(&one, &action));
        assert!(matches!(obtained, Obtained::Fetched(_)), "{obtained:?}");
        assert!(agrees(&three, &one, &action));
    }
}

/// Whoever fetches a folder stops at the first file that is damaged, and sends what has not arrived.
#[test]
fn all_that_is_damaged_of_a_folder_is_mended_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["one", "two", "three"];
    let [one, two, three] = names.map(|name| store(folder.path(), name));
    let made = tree(&one, folder.path(), 40);
    let action = commit(&one, "{}", &[made]);
    let open = || remote(folder.path(), &Options::default());
    open().push(&one, &action, Replace::Damaged).unwrap();
    for number in 0..40 {
        let bytes = format!("file {number}");
        let key = Key::Object(Digest::of(bytes.as_bytes()));
        fs::write(folder.path().join(format!("remote/{key}")), "x".repeat(bytes.len())).unwrap();
    }
    let remote = open();
    let obtained = obtain(&remote, &two, &action, kinds(&one, &action));
    assert!(matches!(obtained, Obtained::Nothing), "{obtained:?}");
    commit(&two, "{}", &[tree(&two, &folder.path().join("again"), 40)]);
    assert!(matches!(remote.push(&two, &action, Replace::Damaged), Ok(Pushed::Replaced(_))));
    let obtained = obtain(&open(), &three, &action, kinds(&one, &action));
    assert!(matches!(obtained, Obtained::Fetched(_)), "{obtained:?}");
    assert!(agrees(&three, &one, &action));
}

/// A node that is not repeatable gives other bytes, so what was lost can never come back: the new result takes the old one's place.
#[test]
fn a_result_that_lost_an_object_gives_way_to_another() {
    for asks_before in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
        let remote = remote(folder.path(), &Options::default());
        let first = one.put_bytes(b"the output").unwrap();
        let second = two.put_bytes(b"another").unwrap();
        let action = commit(&one, "{}", &[first]);
        commit(&two, "{}", &[second]);
        remote.push(&one, &action, Replace::Damaged).unwrap();
        let differs = remote.push(&two, &action, Replace::Damaged).unwrap();
        assert_eq!(differs, Pushed::Differs { there: vec![first] });
        damage(folder.path(), &first, None);
        if asks_before {
            let three = store(folder.path(), "three");
            obtain(&remote, &three, &action, kinds(&one, &action));
        }
        let pushed = remote.push(&two, &action, Replace::Damaged).unwrap();
        assert!(matches!(pushed, Pushed::Replaced(_)), "{pushed:?}");
        assert_eq!(remote.results(&[action])[&action].outputs, [second]);
    }
}

/// `cache push` asks for nothing before: it looks whether the objects are there.
#[test]
fn a_push_sends_what_a_result_has_lost() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path(), "one");
    let output = one.put_bytes(b"the output").unwrap();
    let action = commit(&one, "{}", &[output]);
    let remote = remote(folder.path(), &Options::default());
    let pushed = |expected: Pushed| {
        remote.push_all(&one, &[action], Replace::Damaged, &mut |_, became| {
            assert_eq!(became.unwrap(), expected);
        });
    };
    let all = Moved { objects: 3, bytes: 10 + 9 + 8 };
    pushed(Pushed::New(all));
    damage(folder.path(), &output, None);
    pushed(Pushed::Replaced(Moved { objects: 1, bytes: 10 }));
    pushed(Pushed::Agreed(Moved::default()));
}

#[test]
fn a_repair_leaves_no_result_without_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    let output = one.put_bytes(b"the output").unwrap();
    let action = commit(&one, "{}", &[output]);
    remote.push(&one, &action, Replace::Damaged).unwrap();
    damage(folder.path(), &output, DAMAGES[0]);
    // A sample of nothing else: whatever names what was deleted is looked at.
    let objects = 3;
    let report = remote.verify(&two, Some(objects), Some(&|_| None), &|_| {}).unwrap();
    let repaired: Vec<_> = report.wrong.iter().map(|wrong| (&wrong.key, wrong.repaired)).collect();
    let deleted = Some(Repaired::Deleted);
    let keys = [Key::Object(output.digest), Key::Action(action)];
    assert_eq!(repaired, [(&keys[0], deleted), (&keys[1], deleted)]);
    assert_eq!(remote.verify(&two, None, None, &|_| {}).unwrap().wrong, []);
    let obtained = obtain(&remote, &two, &action, kinds(&one, &action));
    assert!(matches!(obtained, Obtained::Nothing), "{obtained:?}");
    assert_eq!(remote.take_notices(), Vec::<String>::new());
}

#[test]
fn a_damaged_run_is_found_and_repaired_and_collection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let here = store(folder.path(), "here");
    let remote = remote(folder.path(), &Options::default());
    let action = ActionDigest(Digest::of(b"x"));
    let root = |pipeline: &str| RunRoot::new(pipeline.to_owned(), 1, vec![action]);
    for name in ["ours", "theirs", "whole"] {
        remote.put_run(name, &root(name)).unwrap();
    }
    let run = |name: &str| folder.path().join(format!("remote/okapi/v1/run/{name}.json"));
    for name in ["ours", "theirs"] {
        fs::write(run(name), &fs::read(run(name)).unwrap()[..50]).unwrap();
    }
    let all = CollectRequest { keep_runs: 9, max_size: None, written_before_unix_ms: u64::MAX };
    let error = remote.survey(&here, &all).unwrap_err();
    assert!(error.hint().unwrap().contains("verify --remote --repair"));

    let found = remote.verify(&here, None, None, &|_| {}).unwrap();
    assert_eq!((found.good_runs, found.wrong.len()), (1, 2));
    let roots = |name: &str| (name == "ours").then(|| root(name));
    let report = remote.verify(&here, None, Some(&roots), &|_| {}).unwrap();
    let repaired: Vec<_> = report.wrong.iter().map(|wrong| wrong.repaired.unwrap()).collect();
    assert_eq!(repaired, [Repaired::Sent, Repaired::Deleted]);
    let names: Vec<_> = remote.runs().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["whole", "ours"]);
    assert_eq!(remote.survey(&here, &all).unwrap().kept_runs, 2);
}

/// A machine that is no cloud's has no credentials to give, and the service that would have them is not the user's concern.
#[test]
fn without_credentials_the_user_is_told_which_variables_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let here: &Store = &store(folder.path(), "here");
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    // Nobody listens there.
    let closed = "http://127.0.0.1:1";
    let open = |more: &[(String, String)]| {
        let mut environment = vec![
            variable("AWS_METADATA_ENDPOINT", closed),
            variable("AWS_ENDPOINT_URL", closed),
            variable("AWS_REGION", "us-east-1"),
        ];
        environment.extend(more.iter().cloned());
        let limits = okapi_remote::Limits { retries: 0, ..okapi_remote::Limits::default() };
        let options = Options { limits, environment, ..Options::default() };
        let address = Address::parse("s3://bucket", folder.path()).unwrap();
        Remote::open(&address, &options).unwrap()
    };
    let action = ActionDigest(Digest::of(b"x"));
    let without = open(&[]);
    assert!(without.pull_all(here, &[action]).unwrap().is_empty());
    assert_eq!(without.failures(), 1);
    let said = without.take_notices().join("\n");
    assert!(said.contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{said}");
    let error = without.pull(here, &action).unwrap_err();
    assert!(error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"), "{error}");
    // With credentials that is not the matter.
    let with = open(&[variable("AWS_ACCESS_KEY_ID", "a"), variable("AWS_SECRET_ACCESS_KEY", "b")]);
    let error = with.pull(here, &action).unwrap_err();
    assert!(error.hint().is_none(), "{error}");
}
