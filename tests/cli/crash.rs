//! `kill -9` at any moment: what the store holds afterwards is correct, and the next run finishes
//! the work with the bytes of a clean run.

use std::fs;
use std::time::{Duration, Instant};

use crate::sandbox::Sandbox;

const CHAINS: usize = 12;
const LINKS: usize = 5;

/// Chains that meet in one node. A salt makes every round do all of it again.
fn pipeline(salt: u32) -> String {
    let mut pipeline = String::from("okapi: 1\nname: crash\nnodes:\n");
    for chain in 0..CHAINS {
        for link in 0..LINKS {
            let (input, read) = match link {
                0 => (String::new(), ""),
                _ => {
                    (format!("inputs: {{i: c{chain}l{}}}, ", link - 1), "cat \"$OKAPI_INPUT_I\"; ")
                }
            };
            pipeline.push_str(&format!(
                "  c{chain}l{link}: {{stage: command, {input}run: '{{ {read}echo {salt}; }} > \"$OKAPI_OUTPUT_O\"', outputs: {{o: text}}}}\n"
            ));
        }
    }
    let ends: Vec<_> = (0..CHAINS).map(|chain| format!("c{chain}l{}", LINKS - 1)).collect();
    pipeline.push_str(&format!(
        "  all: {{stage: command, inputs: {{i: [{}]}}, run: 'cat \"$OKAPI_INPUT_I\"/* > \"$OKAPI_OUTPUT_O\"', outputs: {{o: text}}}}\npublish:\n  results/all.txt: all\n",
        ends.join(", ")
    ));
    pipeline
}

/// Numbers that look random and are the same each time.
fn moments() -> impl Iterator<Item = u64> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

#[test]
fn killed_at_hundreds_of_moments() {
    let sandbox = Sandbox::new("");
    let mut moments = moments();
    let mut kills_that_hit = 0;
    for round in 0..110 {
        sandbox.write("p.yaml", &pipeline(round));
        for _ in 0..3 {
            let mut child = sandbox.start(&["run", "p.yaml", "-q", "-j", "4"]);
            std::thread::sleep(Duration::from_micros(moments.next().unwrap() % 60_000));
            child.kill().unwrap();
            kills_that_hit += u32::from(!child.wait().unwrap().success());
        }
        // Mostly the next round begins over what this one left; now and then it is looked at.
        if round % 5 > 0 {
            continue;
        }
        let verified = sandbox.okapi(&["cache", "verify"]);
        // Before the first run got as far as to make a store there is nothing to verify.
        assert!(matches!(verified.code, Some(0 | 2)), "{}\n{}", verified.stdout, verified.stderr);
        sandbox.run();
        let whole = format!("{round}\n").repeat(CHAINS * LINKS);
        assert_eq!(sandbox.read("results/all.txt"), whole);
        assert!(sandbox.run().is_empty());
    }
    sandbox.run();
    assert_eq!(sandbox.published(), sandbox.published_by_a_clean_run());
    // On a machine that is much faster or slower this may need other moments.
    assert!(kills_that_hit > 150, "only {kills_that_hit} of 330 kills hit a run");
    let stats = sandbox.okapi(&["cache", "stats", "--json"]).json();
    assert_eq!(stats["quarantined"], 0, "{stats}");
}

/// Processes whose environment names a working folder of this project.
fn commands_of(sandbox: &Sandbox) -> Vec<String> {
    let needle = sandbox.path(".okapi/work/").into_os_string().into_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.windows(needle.len()).any(|window| window == needle) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

#[test]
fn no_command_outlives_a_run_killed_while_it_starts_them() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  n:
    for_each: {n: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], place: [., /]}
    stage: command
    run: cd ${each.place}; sleep 60${each.n}
    outputs: {o: text}
"#,
    );
    let mut moments = moments();
    for _ in 0..30 {
        let mut child = sandbox.start(&["run", "p.yaml", "-q", "-j", "24"]);
        while commands_of(&sandbox).is_empty() {
            assert!(child.try_wait().unwrap().is_none());
        }
        std::thread::sleep(Duration::from_micros(moments.next().unwrap() % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let killed = Instant::now();
        loop {
            let left = commands_of(&sandbox);
            if left.is_empty() {
                break;
            }
            assert!(killed.elapsed() < Duration::from_secs(10), "{left:?} are left");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
