//! A real S3 server that misbehaves by script: it costs time, never correctness.

use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Store};
use okapi_remote::{Address, Limits, Obtained, Options, Remote, Replace};

use crate::moto::Moto;
use crate::proxy::{Asked, Fault, Proxy};
use crate::support::{LARGE, agrees, is_clean, kinds, obtain, store, three};

/// Long for what is answered, as machines are busy at times; short for what never is.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

fn open(endpoint: &str, prefix: &str, timeout: Duration) -> Remote {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let options = Options {
        limits: Limits {
            timeout,
            retries: 3,
            failures: 3,
            slowest_bytes_per_second: 8 << 20,
            ..Limits::default()
        },
        read_only: false,
        records: false,
        named_by_project: false,
        environment: vec![
            variable("AWS_ENDPOINT_URL", endpoint),
            variable("AWS_ACCESS_KEY_ID", "test"),
            variable("AWS_SECRET_ACCESS_KEY", "SECRET-key"),
            variable("AWS_REGION", "us-east-1"),
        ],
    };
    let address = Address::parse(&format!("s3://okapi/{prefix}"), ".".as_ref()).unwrap();
    Remote::open(&address, &options).unwrap()
}

fn is_object(asked: &Asked<'_>) -> bool {
    asked.path.contains("/object/")
}

type Script = fn(&Asked<'_>) -> Fault;

/// By name, what happens to requests, and whether all is well in the end.
const SCRIPTS: [(&str, Script, bool); 16] = [
    ("well", |_| Fault::None, true),
    ("down", |_| Fault::Close, false),
    ("black hole", |_| Fault::Hang, false),
    ("drip", |_| Fault::Drip, false),
    ("500", |_| Fault::Status(500), false),
    ("forbidden", |_| Fault::Status(403), false),
    ("full", |it| if it.method == "PUT" { Fault::Status(507) } else { Fault::None }, true),
    ("late", |_| Fault::Late(100), true),
    ("500 at first", |it| if it.before == 0 { Fault::Status(500) } else { Fault::None }, true),
    ("503 twice", |it| if it.before < 2 { Fault::Status(503) } else { Fault::None }, true),
    ("closed at first", |it| if it.before == 0 { Fault::Close } else { Fault::None }, true),
    ("cut at first", |it| if it.before == 0 { Fault::Cut } else { Fault::None }, true),
    ("wrong bytes", |it| if is_object(it) { Fault::Flip } else { Fault::None }, false),
    ("wrong results", |it| if is_object(it) { Fault::None } else { Fault::Flip }, false),
    ("truncated", |it| if is_object(it) { Fault::Truncate } else { Fault::None }, false),
    (
        "objects are not there",
        |it| if is_object(it) { Fault::Status(404) } else { Fault::None },
        false,
    ),
];

#[test]
fn an_s3_server_that_misbehaves_costs_time_and_never_correctness() {
    let Some(moto) = Moto::start() else { return };
    let proxy = Proxy::start(moto.address);
    let folder = tempfile::tempdir().unwrap();
    let origin = store(folder.path(), "origin");
    let actions = three(&origin, folder.path(), LARGE);
    let direct = format!("http://{}", moto.address);
    {
        let remote = open(&direct, "whole", LONG);
        actions.iter().for_each(|it| drop(remote.push(&origin, it, Replace::Damaged).unwrap()));
    }
    for (number, (name, script, is_well)) in SCRIPTS.into_iter().enumerate() {
        proxy.follow(script);
        let began = Instant::now();
        read_through(&proxy, &origin, &actions, folder.path(), number, name, is_well);
        let read = began.elapsed();
        write_through(&proxy, &direct, &origin, &actions, folder.path(), number, name);
        println!(
            "{name}: {read:?} to read, {:?} in all, {} requests",
            began.elapsed(),
            proxy.count()
        );
        // Three failures in a row set it aside.
        assert!(began.elapsed() < 3 * LONG, "{name}: {:?}", began.elapsed());
    }
}

fn timeout(name: &str) -> Duration {
    if matches!(name, "black hole" | "drip") { SHORT } else { LONG }
}

fn read_through(
    proxy: &Proxy,
    origin: &Store,
    actions: &[ActionDigest],
    folder: &std::path::Path,
    number: usize,
    name: &str,
    is_well: bool,
) {
    let remote = open(&proxy.address, "whole", timeout(name));
    let reader = store(folder, &format!("reader-{number}"));
    let mut fetched = 0;
    for action in actions {
        match obtain(&remote, &reader, action, kinds(origin, action)) {
            Obtained::Fetched(_) => {
                assert!(agrees(&reader, origin, action), "{name}");
                fetched += 1;
            }
            Obtained::Nothing => assert!(!agrees(&reader, origin, action), "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(fetched == 3, is_well, "{name}: {fetched} of 3");
    let notices = remote.take_notices();
    assert!(fetched == 3 || !notices.is_empty(), "{name}: what was lost is said");
    for notice in notices {
        assert!(!notice.contains("SECRET") && notice.len() < 1000, "{name}: {notice}");
    }
    reader.flush().unwrap();
    is_clean(&reader);
}

/// Whatever happens while results are sent, those that can be read afterwards are whole, and another push completes the rest.
fn write_through(
    proxy: &Proxy,
    direct: &str,
    origin: &Store,
    actions: &[ActionDigest],
    folder: &std::path::Path,
    number: usize,
    name: &str,
) {
    let prefix = format!("written-{number}");
    let through = open(&proxy.address, &prefix, timeout(name));
    for action in actions {
        // Whether it fails depends on the script.
        let _ = through.push(origin, action, Replace::Damaged);
    }
    through.take_notices().iter().for_each(|it| assert!(!it.contains("SECRET"), "{it}"));
    let remote = open(direct, &prefix, LONG);
    let there = remote.results(actions);
    let reader = store(folder, &format!("after-{number}"));
    for action in there.keys() {
        let pulled = remote.pull(&reader, action);
        assert!(pulled.is_ok() && agrees(&reader, origin, action), "{name}: {pulled:?}");
    }
    for action in actions {
        remote.push(origin, action, Replace::Damaged).unwrap();
        remote.pull(&reader, action).unwrap().unwrap();
        assert!(agrees(&reader, origin, action), "{name}");
    }
    is_clean(&reader);
}

#[test]
fn a_listing_that_lags_removes_nothing_that_is_kept() {
    let Some(moto) = Moto::start() else { return };
    let proxy = Proxy::start(moto.address);
    let folder = tempfile::tempdir().unwrap();
    let origin = store(folder.path(), "origin");
    let actions = three(&origin, folder.path(), 1000);
    let remote = open(&proxy.address, "lag", LONG);
    for action in &actions {
        remote.push(&origin, action, Replace::Damaged).unwrap();
    }
    remote.put_run("run", &okapi_remote::RunRoot::new("p".to_owned(), 1, actions)).unwrap();
    let request = okapi_remote::CollectRequest {
        keep_runs: 5,
        max_size: None,
        written_before_unix_ms: u64::MAX,
    };
    assert_eq!(remote.survey(&origin, &request).unwrap().doomed, []);
    // The listing of objects is empty: nothing is found to be removed, and nothing is said to be lost.
    proxy.follow(|it| match it.path.contains("list-type") && it.path.contains("object") {
        true => Fault::EmptyList,
        false => Fault::None,
    });
    assert_eq!(remote.survey(&origin, &request).unwrap().doomed, []);
    let report = remote.verify(&origin, None, None, &|_| {}).unwrap();
    assert_eq!((report.wrong, report.good_results), (vec![], 3));
    // The listing of runs fails: nothing is collected at all.
    proxy.follow(|it| match it.path.contains("list-type") && it.path.contains("run") {
        true => Fault::Status(500),
        false => Fault::None,
    });
    assert!(remote.survey(&origin, &request).is_err());
}
