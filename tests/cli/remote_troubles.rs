//! Remotes that were away, lost something, or are none of the user's: what runs and commands do then.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::remotes::{PIPELINE, done, files, new, run};
use crate::sandbox::{Said, Sandbox, names};

#[test]
fn a_remote_that_never_answers_costs_seconds_and_ctrl_c_ends_the_wait() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/okapi", silent.local_addr().unwrap());
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("okapi.settings.yaml", &format!("remote: {{url: '{url}', timeout: 1}}\n"));
    let began = Instant::now();
    let said = run(&sandbox, &[]);
    assert_eq!(said.executed().len(), 3);
    assert!(said.stdout.contains("timed out"), "{}", said.stdout);
    assert!(said.stdout.contains("is set aside"), "{}", said.stdout);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());

    // Another one, as connections of the first run may not be taken yet.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/okapi", silent.local_addr().unwrap());
    let other = Sandbox::new(PIPELINE);
    other.write("okapi.settings.yaml", &format!("remote: {{url: '{url}', timeout: 3600}}\n"));
    let child = other.start(&["run", "p.yaml"]);
    // It has connected, so it is waiting.
    silent.accept().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn what_could_not_be_sent_is_sent_by_the_next_run() {
    let (one, remote) = new();
    let objects = one.path("remote/okapi/v1/object");
    fs::create_dir_all(objects.parent().unwrap()).unwrap();
    // No folder can be made where a file lies.
    fs::write(&objects, "").unwrap();
    let said = run(&one, &["--remote", &remote]);
    let used = said.events().into_iter().find(|it| it["event"] == "remote_used").unwrap();
    assert_eq!((&used["sent"], &used["unsent"]), (&0.into(), &3.into()));
    fs::remove_file(&objects).unwrap();
    // It has nothing else to do.
    let said = run(&one, &["--remote", &remote]);
    assert_eq!(said.executed(), names(&[]));
    let used = said.events().into_iter().find(|it| it["event"] == "remote_used").unwrap();
    assert_eq!((&used["sent"], &used["unsent"]), (&3.into(), &0.into()));
    let two = Sandbox::new(PIPELINE);
    assert_eq!(run(&two, &["--remote", &remote]).executed(), names(&[]));
    let said = run(&one, &["--remote", &remote]);
    assert!(!said.stdout.contains("remote_used"), "{}", said.stdout);
}

#[test]
fn what_a_killed_run_made_is_sent_by_the_next_run() {
    let (one, remote) = new();
    let objects = one.path("remote/okapi/v1/object");
    fs::create_dir_all(objects.parent().unwrap()).unwrap();
    fs::write(&objects, "").unwrap();
    one.edit("p.yaml", "run: 'mkdir", "run: 'sleep 600; mkdir");
    let mut child = one.start(&["run", "p.yaml", "-q", "--remote", &remote]);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let plan = one.okapi(&["plan", "p.yaml", "--json", "--no-remote"]);
        if plan.code == Some(0) && plan.json()["summary"]["cached"] == 1 {
            break;
        }
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_file(&objects).unwrap();
    one.write("p.yaml", PIPELINE);
    assert_eq!(run(&one, &["--remote", &remote]).executed(), names(&["two", "three"]));
    let two = Sandbox::new(PIPELINE);
    assert_eq!(run(&two, &["--remote", &remote]).executed(), names(&[]));
}

#[test]
fn a_remote_that_lost_an_object_is_mended_by_the_next_run_or_push() {
    let (one, remote) = new();
    run(&one, &["--remote", &remote]);
    let lose = || fs::remove_file(files(&one, "remote/okapi/v1/object").pop().unwrap()).unwrap();
    lose();
    let push = one.okapi(&["cache", "push", "--remote", &remote, "--json"]).json();
    assert_eq!((&push["replaced"], &push["sent_objects"]), (&1.into(), &1.into()), "{push}");
    done(&one.okapi(&["cache", "verify", &format!("--remote={remote}")]));
    for path in files(&one, "remote/okapi/v1/object") {
        fs::write(path, "damaged").unwrap();
    }
    // The first pays for it, and nobody after.
    let two = Sandbox::new(PIPELINE);
    assert_eq!(run(&two, &["--remote", &remote]).executed().len(), 3);
    let three = Sandbox::new(PIPELINE);
    assert_eq!(run(&three, &["--remote", &remote]).executed(), names(&[]));
}

#[test]
fn a_pull_that_nobody_answered_has_failed() {
    let sandbox = Sandbox::new(PIPELINE);
    // Nobody listens there.
    sandbox.write("okapi.settings.yaml", "remote: {url: 's3://okapi', timeout: 1}\n");
    let pull = |variables: &[(&str, &str)]| {
        let mut command = sandbox.command(&["cache", "pull", "p.yaml"]);
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "us-east-1");
        command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
        let said = Said::of(command.envs(variables.iter().copied()).output().unwrap());
        assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
        assert!(said.stdout.starts_with("fetched 0 results"), "{}", said.stdout);
        said.stderr
    };
    let key = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "SECRET")];
    let said = pull(&key);
    assert!(said.contains("cannot read okapi/v1/action/"), "{said}");
    assert!(!said.contains("SECRET") && !said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert!(pull(&[]).contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
}

/// Whoever clones a project and runs it has not chosen the host that its settings name.
#[test]
fn a_header_with_a_secret_goes_where_the_user_says() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = server.local_addr().unwrap().to_string();
    let heads = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&heads);
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut head = [0; 8192];
            let read = stream.read(&mut head).unwrap_or(0);
            noted.lock().unwrap().push_str(&String::from_utf8_lossy(&head[..read]));
            let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let url = format!("http://{host}/dav");
    let settings = format!("remote: {{url: '{url}'}}\n");
    let run = |settings: &str, variables: &[(&str, &str)]| {
        let sandbox = Sandbox::new(PIPELINE);
        sandbox.write("okapi.settings.yaml", settings);
        let mut command = sandbox.command(&["run", "p.yaml", "--progress", "json"]);
        command.env("OKAPI_REMOTE_AUTHORIZATION", "Bearer SECRET");
        let said = Said::of(command.envs(variables.iter().copied()).output().unwrap());
        done(&said);
        assert!(!said.stdout.contains("SECRET") && !said.stderr.contains("SECRET"));
        let heads = std::mem::take(&mut *heads.lock().unwrap());
        (said.stdout, heads)
    };
    let (said, heads) = run(&settings, &[]);
    let remedy = format!("set OKAPI_REMOTE_AUTHORIZATION_HOST={host}");
    assert!(said.contains(&remedy), "{said}");
    assert_eq!(heads, "");
    for (settings, variable) in [
        (&*settings, ("OKAPI_REMOTE_AUTHORIZATION_HOST", &*host)),
        ("{}\n", ("OKAPI_REMOTE", &url)),
    ] {
        let (_, heads) = run(settings, &[variable]);
        assert!(heads.to_lowercase().contains("authorization: bearer secret"), "{heads}");
    }
    // It is for another: this one is asked without.
    let (_, heads) = run(&settings, &[("OKAPI_REMOTE_AUTHORIZATION_HOST", "dav.example")]);
    assert!(heads.contains("/dav/okapi/v1/") && !heads.contains("SECRET"), "{heads}");
}
