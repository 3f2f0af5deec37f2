//! Collection: what kept runs refer to stays, and what is young.

use okapi_cache::{ActionDigest, Digest};
use okapi_remote::{CollectRequest, JobKey, JobPart, Kind, Options, Replace, RunRoot};

use crate::folder::files;
use crate::support::{agrees, commit, is_clean, remote, store};

const ALL: u64 = u64::MAX;

fn request(keep_runs: usize, max_size: Option<u64>, written_before_unix_ms: u64) -> CollectRequest {
    CollectRequest { keep_runs, max_size, written_before_unix_ms }
}

#[test]
fn kept_results_stay_complete_and_the_rest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let remote = remote(folder.path(), &Options::default());
    let shared = one.put_bytes(b"shared by all").unwrap();
    let mut made = Vec::new();
    for number in 0..4_u64 {
        let own = one.put_bytes(&vec![number as u8; 1000]).unwrap();
        let tree = crate::support::tree(&one, folder.path(), 2 + number as usize);
        let action = commit(&one, &format!("{{\"n\":{number}}}"), &[shared, own, tree]);
        remote.push(&one, &action, Replace::Damaged).unwrap();
        // The newest two are of one pipeline, the oldest two of others.
        let pipeline = if number < 2 { format!("old-{number}") } else { "main".to_owned() };
        remote
            .put_run(&format!("run-{number}"), &RunRoot::new(pipeline, number, vec![action]))
            .unwrap();
        made.push(action);
    }
    let names: Vec<_> = remote.runs().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["run-3", "run-2", "run-1", "run-0"]);

    // Everything is younger than the grace.
    let young = remote.survey(&two, &request(1, None, 0)).unwrap();
    assert_eq!(young.doomed, []);
    assert!(young.young_bytes > 1000);

    // The newest run of each pipeline stays.
    let before = files(folder.path()).len();
    let collection = remote.survey(&two, &request(1, None, ALL)).unwrap();
    assert_eq!((collection.kept_runs, collection.kept_results), (3, 3));
    assert_eq!((collection.count(Kind::Run), collection.count(Kind::Action)), (1, 1));
    assert_eq!(files(folder.path()).len(), before, "looking removes nothing");
    remote.remove(&collection).unwrap();
    check(&remote, folder.path(), &one, &[made[0], made[1], made[3]], &[made[2]], "a");

    // A limit drops the oldest.
    let collection = remote.survey(&two, &request(9, Some(3000), ALL)).unwrap();
    assert_eq!(collection.kept_runs, 1);
    assert!(collection.kept_bytes <= 3000);
    remote.remove(&collection).unwrap();
    check(&remote, folder.path(), &one, &[made[3]], &[made[0], made[1], made[2]], "b");
}

/// A run that does not fit takes nothing with it: older ones may, and be all that their pipelines have.
#[test]
fn one_run_that_does_not_fit_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path(), "one");
    let remote = remote(folder.path(), &Options::default());
    let sizes = [500, 600, 5000, 700];
    for (number, size) in sizes.into_iter().enumerate() {
        let output = one.put_bytes(&vec![number as u8; size]).unwrap();
        let action = commit(&one, &format!("{{\"n\":{number}}}"), &[output]);
        remote.push(&one, &action, Replace::Damaged).unwrap();
        let root = RunRoot::new(format!("pipeline-{number}"), number as u64, vec![action]);
        remote.put_run(&format!("run-{number}"), &root).unwrap();
    }
    let collection = remote.survey(&one, &request(9, Some(2000), ALL)).unwrap();
    assert_eq!(collection.kept_runs, 3);
    assert!((1800..=2000).contains(&collection.kept_bytes), "{}", collection.kept_bytes);
    remote.remove(&collection).unwrap();
    let names: Vec<_> = remote.runs().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["run-3", "run-1", "run-0"]);
}

fn check(
    remote: &okapi_remote::Remote,
    folder: &std::path::Path,
    origin: &okapi_cache::Store,
    kept: &[ActionDigest],
    gone: &[ActionDigest],
    name: &str,
) {
    let fresh = store(folder, name);
    for action in kept {
        remote.pull(&fresh, action).unwrap().unwrap();
        assert!(agrees(&fresh, origin, action));
    }
    for action in gone {
        assert_eq!(remote.pull(&fresh, action).unwrap(), None);
    }
    is_clean(&fresh);
    assert_eq!(remote.verify(&fresh, None, None, &|_| {}).unwrap().wrong, []);
}

#[test]
fn a_run_that_cannot_be_read_ends_collection() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(folder.path(), "one");
    let remote = remote(folder.path(), &Options::default());
    remote.put_run("run", &RunRoot::new("p".to_owned(), 1, vec![])).unwrap();
    assert!(remote.survey(&one, &request(9, None, ALL)).is_ok());
    for damage in ["{", "{\"okapi_run\":2,\"pipeline\":\"\",\"finished_unix_ms\":0,\"actions\":[]}"]
    {
        std::fs::write(folder.path().join("remote/okapi/v1/run/run.json"), damage).unwrap();
        assert!(remote.survey(&one, &request(9, None, ALL)).is_err());
    }
}

/// Jobs may wait in a queue for weeks; what is left of those that nobody came back for goes in the end.
#[test]
fn what_is_left_of_jobs_goes_after_a_month() {
    let folder = tempfile::tempdir().unwrap();
    let here = store(folder.path(), "here");
    let remote = remote(folder.path(), &Options::default());
    let key = JobKey {
        place: "a1".to_owned(),
        part: JobPart::Work,
        action: ActionDigest(Digest::of(b"work")),
    };
    remote.put_job(&key, b"{}".to_vec()).unwrap();
    assert_eq!(remote.job(&key).unwrap(), Some(b"{}".to_vec()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let in_days = |days: u64| now.as_millis() as u64 + days * 24 * 3600 * 1000;
    let young = remote.survey(&here, &request(1, None, in_days(29))).unwrap();
    assert_eq!(young.count(Kind::Job), 0);
    let old = remote.survey(&here, &request(1, None, in_days(31))).unwrap();
    assert_eq!(old.count(Kind::Job), 1);
    remote.remove(&old).unwrap();
    assert_eq!(remote.job(&key).unwrap(), None);
    // A name is a part of a path.
    let outside = JobKey { place: "../x".to_owned(), ..key };
    assert!(remote.put_job(&outside, Vec::new()).is_err());
}

/// What jobs read and make, no result names.
#[test]
fn what_jobs_need_stays_as_long_as_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (store(folder.path(), "here"), store(folder.path(), "there"));
    let remote = remote(folder.path(), &Options::default());
    let file = here.put_bytes(b"an input").unwrap();
    let tree = crate::support::tree(&here, folder.path(), 3);
    let log = here.put_bytes(b"what was written").unwrap().digest;
    remote.put_artifacts(&here, &[file, tree], Some(log)).unwrap();
    let work = format!(
        r#"{{"job":{{"inputs":[["x",{}]],"more":{}}},"log":"{log}"}}"#,
        serde_json::to_string(&file).unwrap(),
        serde_json::to_string(&tree).unwrap()
    );
    let key = JobKey {
        place: "a1".to_owned(),
        part: JobPart::Ended,
        action: ActionDigest(Digest::of(b"work")),
    };
    remote.put_job(&key, work.into_bytes()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let tomorrow = now.as_millis() as u64 + 24 * 3600 * 1000;
    let found = remote.survey(&there, &request(1, None, tomorrow)).unwrap();
    assert_eq!(found.count(Kind::Object), 0);
    remote.remove(&found).unwrap();
    remote.fetch_artifacts(&there, &[file, tree], Some(log)).unwrap();
    assert!(there.is_complete(&tree) && there.object_size(&log).is_some());
    remote.delete_job(&key).unwrap();
    let found = remote.survey(&there, &request(1, None, tomorrow)).unwrap();
    assert!(found.count(Kind::Object) >= 5);
}
