//! `kill -9` at any moment: what the store holds afterwards is correct, and the next run finishes
//! the work with the bytes of a clean run.

use std::time::Duration;

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
