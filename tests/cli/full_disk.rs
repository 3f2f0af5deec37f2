//! Disks that are full and writes that fail: the run says so, the store stays right, and the next
//! run finishes.

use std::process::Command;

use crate::sandbox::{Said, Sandbox};

/// Eight outputs of 100 kB, no two alike.
const PIPELINE: &str = r#"
okapi: 1
name: full
nodes:
  big:
    for_each: {n: [1, 2, 3, 4, 5, 6, 7, 8]}
    stage: command
    run: 'yes "${each.n}${each.n}" | head -c 100000 > "$OKAPI_OUTPUT_O"'
    outputs: {o: text}
  sum: {stage: command, inputs: {i: big}, run: 'cat "$OKAPI_INPUT_I"/* | cksum > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
publish:
  results/sum.txt: sum
"#;

/// Runs a shell script with `$OKAPI` in the sandbox's folder; `wrapper` is put before the shell.
fn script(sandbox: &Sandbox, wrapper: &[&str], script: &str) -> Said {
    let okapi = sandbox.command(&[]);
    let shell = ["sh", "-c", script];
    let mut words = wrapper.iter().chain(&shell);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir(okapi.get_current_dir().unwrap()).env_clear();
    for (name, value) in okapi.get_envs() {
        command.env(name, value.unwrap());
    }
    Said::of(command.env("OKAPI", okapi.get_program()).output().unwrap())
}

/// What lets a script mount file systems of its own.
const OWN: [&str; 3] = ["unshare", "--map-root-user", "--mount"];

/// Whether the kernel lets users make small file systems of their own; says so if not.
fn can_mount(sandbox: &Sandbox) -> bool {
    let mount = "mkdir -p small && mount -t tmpfs -o size=1m none small";
    let can = Command::new("unshare").arg("--help").output().is_ok()
        && script(sandbox, &OWN, mount).code == Some(0);
    if !can {
        let mut stderr = std::io::stderr();
        std::io::Write::write_all(&mut stderr, b"skipped: no file systems of one's own here\n")
            .unwrap();
    }
    can
}

/// The advice was to collect garbage in the store, and the file named was the one that was to be copied.
#[test]
fn an_audit_says_which_disk_is_full() {
    let sandbox = Sandbox::new(PIPELINE);
    if !can_mount(&sandbox) {
        return;
    }
    sandbox.run();
    assert_eq!(sandbox.okapi(&["audit", "p.yaml", "--export", "bundle"]).code, Some(0));
    for (arguments, size, hint) in [
        ("p.yaml --reexecute all", "200k", "TMPDIR"),
        ("bundle", "16k", "set TMPDIR to a folder with room"),
        ("p.yaml --export small/bundle", "16k", "name a folder where there is room"),
    ] {
        let said = script(
            &sandbox,
            &OWN,
            &format!(
                "mount -t tmpfs -o size={size} none small || exit 99
                 TMPDIR=$PWD/small \"$OKAPI\" audit {arguments} > said.txt; echo $?; ls -A small"
            ),
        );
        assert_eq!(said.stdout, "1\n", "{arguments}: {}", said.stderr);
        assert!(said.stderr.contains(hint), "{arguments}: {}", said.stderr);
        assert!(said.stderr.contains("small/") && !said.stderr.contains("gc"), "{}", said.stderr);
    }
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let sandbox = Sandbox::new(PIPELINE);
    if !can_mount(&sandbox) {
        return;
    }
    let own = OWN;
    sandbox.run();
    let expected = sandbox.read("results/sum.txt");
    std::fs::remove_dir_all(sandbox.path(".okapi")).unwrap();
    let mut was_full = 0;
    // In units of the page: a few for the store's own files, and then always a little more.
    for pages in (4..280).step_by(23) {
        std::fs::remove_dir_all(sandbox.path("results")).unwrap();
        let said = script(
            &sandbox,
            &own,
            &format!(
                "mkdir -p .okapi && mount -t tmpfs -o size={}k none .okapi || exit 99
                 \"$OKAPI\" run p.yaml -q; echo first $?
                 mount -o remount,size=64m .okapi || exit 99
                 \"$OKAPI\" cache verify > verify.txt 2>&1; echo verify $?
                 \"$OKAPI\" run p.yaml -q; echo second $?
                 \"$OKAPI\" plan p.yaml --check > /dev/null; echo plan $?",
                pages * 4
            ),
        );
        let first = said.stdout.lines().next().unwrap_or_default().to_owned();
        let context = format!("{pages} pages: {}\n{}", said.stdout, said.stderr);
        let rest: Vec<_> = said.stdout.lines().skip(1).collect();
        // A command whose own output finds no room fails as a command does.
        assert!(["first 0", "first 1", "first 3"].contains(&&*first), "{context}");
        assert!(matches!(rest[0], "verify 0" | "verify 2"), "{context}");
        assert_eq!(rest[1..], ["second 0", "plan 0"], "{context}");
        assert_eq!(sandbox.read("results/sum.txt"), expected, "{context}");
        if first != "first 0" {
            was_full += 1;
            assert!(said.stderr.contains("space"), "{context}");
        }
    }
    assert!(was_full >= 5, "the disk was full only {was_full} times");
}

#[test]
fn writes_that_are_refused_lose_nothing() {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.run();
    let expected = sandbox.read("results/sum.txt");
    let mut failed = 0;
    // The largest file that may be written, in blocks of 512 bytes: the logs, the documents and the
    // outputs reach it at different places.
    for blocks in [0, 1, 2, 3, 4, 6, 8, 12, 100, 190, 250] {
        std::fs::remove_dir_all(sandbox.path(".okapi")).unwrap();
        std::fs::remove_dir_all(sandbox.path("results")).unwrap();
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$OKAPI\" run p.yaml -q");
        let said = script(&sandbox, &["env"], &limited);
        assert!(matches!(said.code, Some(0 | 1 | 3)), "{blocks}: {said:?}");
        failed += u32::from(said.code != Some(0));
        assert!(said.code == Some(0) || !said.stderr.is_empty(), "{blocks}: {said:?}");
        let verified = sandbox.okapi(&["cache", "verify"]);
        // With no byte written there is no store yet.
        assert!(matches!(verified.code, Some(0 | 2)), "{blocks}: {verified:?}");
        sandbox.run();
        assert_eq!(sandbox.read("results/sum.txt"), expected, "{blocks}");
        assert!(sandbox.run().is_empty());
    }
    assert!(failed >= 5, "only {failed} runs met the limit");
}
