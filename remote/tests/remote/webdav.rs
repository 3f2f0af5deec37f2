//! A WebDAV server: no conditional writes, no parts, and folders that must be made.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use okapi_remote::{Address, CollectRequest, Options, Pushed, Remote, Replace, RunRoot};

use crate::moto::find;
use crate::support::{LARGE, agrees, is_clean, store, three};

/// Ended when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_webdav_server_shares_as_any_other() {
    let Some(program) = find("wsgidav") else {
        eprintln!("did not run: there is no wsgidav in PATH or target/moto-venv");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let served = folder.path().join("served");
    std::fs::create_dir(&served).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(program);
    command.args([
        "--host",
        "127.0.0.1",
        "--port",
        &address.port().to_string(),
        "--auth",
        "anonymous",
    ]);
    command.arg("--root").arg(&served).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Server(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(120);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "wsgidav did not come up");
        std::thread::sleep(Duration::from_millis(100));
    }
    let url = Address::parse(&format!("http://{address}/a/team"), folder.path()).unwrap();
    let remote = Remote::open(&url, &Options::default()).unwrap();
    let (one, two) = (store(folder.path(), "one"), store(folder.path(), "two"));
    let actions = three(&one, folder.path(), LARGE);
    // All at once: all of them make the folders.
    remote.push_all(&one, &actions, Replace::Damaged, &mut |_, became| {
        assert!(matches!(became, Ok(Pushed::New(_))), "{became:?}");
    });
    remote.push_all(&one, &actions, Replace::Damaged, &mut |_, became| {
        assert!(matches!(became, Ok(Pushed::Agreed(_))), "{became:?}");
    });
    for action in &actions {
        remote.pull(&two, action).unwrap().unwrap();
        assert!(agrees(&two, &one, action));
    }
    two.flush().unwrap();
    is_clean(&two);
    assert_eq!(remote.verify(&two, None, None, &|_| {}).unwrap().wrong, []);
    remote.put_run("run", &RunRoot::new("p".to_owned(), 1, actions[..1].to_vec())).unwrap();
    let all = CollectRequest { keep_runs: 1, max_size: None, written_before_unix_ms: u64::MAX };
    let collection = remote.survey(&two, &all).unwrap();
    assert_eq!((collection.kept_results, collection.doomed.len()), (1, 5));
    remote.remove(&collection).unwrap();
    assert_eq!(remote.results(&actions).len(), 1);
    assert_eq!(remote.take_notices(), Vec::<String>::new());
}
