//! Each command once or twice; most of what they do is tested below the command line.

use std::fs;

use crate::sandbox::{Sandbox, names};

const PIPELINE: &str = r#"
okapi: 1
name: commands
vars: {greeting: hello}
nodes:
  greet:
    for_each: {who: [anna, ben]}
    stage: command
    prompts: {text: prompts/greet.txt}
    run: 'echo "${vars.greeting} ${each.who}" | cat - "$OKAPI_PROMPT_TEXT" > "$OKAPI_OUTPUT_LINE"; echo logged'
    outputs: {line: text}
  book:
    stage: command
    inputs: {lines: greet}
    run: |
      mkdir -p "$OKAPI_OUTPUT_PAGES/a"
      cat "$OKAPI_INPUT_LINES"/* > "$OKAPI_OUTPUT_PAGES/a/all.txt"
      ls "$OKAPI_INPUT_LINES" > "$OKAPI_OUTPUT_NAMES"
    outputs: {pages: tree, names: text}
"#;

fn project() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("prompts/greet.txt", "first line\nsecond line\n");
    sandbox
}

#[test]
fn plan_gives_verdicts_and_check_gives_an_exit_code() {
    let sandbox = project();
    let plan = sandbox.okapi(&["plan", "p.yaml", "--json"]).json();
    assert_eq!(plan["summary"]["runs"], 3);
    assert_eq!(sandbox.okapi(&["plan", "p.yaml", "--check"]).code, Some(10));
    sandbox.run();
    assert_eq!(sandbox.okapi(&["plan", "p.yaml", "--check"]).code, Some(0));
    let said = sandbox.okapi(&["plan", "p.yaml", "--set", "vars.greting=hi"]);
    assert!(said.stderr.contains("did you mean `vars.greeting`?"), "{}", said.stderr);
    let edited = ["plan", "p.yaml", "--json", "--set", "vars.greeting=hi"];
    let plan = sandbox.okapi(&edited).json();
    let verdicts: Vec<_> = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["runs", "runs", "may_run"]);
    assert_eq!(plan["nodes"][0]["reason"], "run changed");
    assert_eq!(plan["nodes"][2]["waits_for"], "greet[who=anna]");
}

#[test]
fn plan_does_not_take_what_never_ran_for_free() {
    let sandbox = Sandbox::new(&format!(
        "okapi: 1\nname: cost\nvars: {{all: {:?}}}\nnodes:\n  n:\n    for_each: {{i: \"${{vars.all}}\"}}\n    stage: command\n    run: 'sleep 0.01; echo ${{each.i}} > \"$OKAPI_OUTPUT_O\"'\n    outputs: {{o: text}}\n",
        (1..=12).collect::<Vec<_>>()
    ));
    let plan = |arguments: &[&str]| {
        let said = sandbox.okapi(&[&["plan", "p.yaml"], arguments].concat());
        said.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        plan(&[]),
        [
            "runs  n[12 instances]  never run before  unknown",
            "0 cached, 12 to run, 0 may run, 0 blocked; of unknown cost: 12 nodes that never ran",
        ]
    );
    assert!(plan(&["n[i=3]"])[0].ends_with("never run before  unknown"));
    sandbox.run_with(&["n[i=1]"]);
    let forced = plan(&["--force", "n"]);
    assert!(forced[0].ends_with("ms, 11 unknown"), "{forced:?}");
    assert!(forced[1].ends_with("ms of work and 11 nodes that never ran"), "{forced:?}");
}

#[test]
fn explain_shows_old_and_new_values_and_a_diff_of_a_prompt() {
    let sandbox = project();
    sandbox.run();
    sandbox.write("prompts/greet.txt", "first line\nanother line\n");
    let said = sandbox.okapi(&["explain", "p.yaml", "greet[who=ben]"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for expected in [
        "changed   prompts.text",
        "-second line",
        "+another line",
        " first line",
        "as the last time",
    ] {
        assert!(said.stdout.contains(expected), "no `{expected}` in {}", said.stdout);
    }
    let json = sandbox
        .okapi(&["explain", "p.yaml", "greet", "--set", "vars.greeting=hi", "--json"])
        .json();
    let fields: Vec<_> = json["nodes"][0]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["prompts.text", "run"]);
}

#[test]
fn explain_shows_so_many_instances_and_words_a_first_run_as_one() {
    let sandbox = Sandbox::new(&format!(
        r#"
okapi: 1
name: many
vars: {{word: a}}
nodes:
  first: {{stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_O"', outputs: {{o: text}}}}
  many:
    for_each: {{n: {:?}}}
    stage: command
    inputs: {{i: first}}
    run: 'cat "$OKAPI_INPUT_I" > "$OKAPI_OUTPUT_O"'
    outputs: {{o: text}}
"#,
        (1..=23).collect::<Vec<_>>()
    ));
    let said = sandbox.okapi(&["explain", "p.yaml", "many"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let heads = |text: &str| text.lines().filter(|line| line.starts_with("many[")).count();
    assert_eq!(heads(&said.stdout), 20, "{}", said.stdout);
    assert!(said.stdout.ends_with("\n\nand 3 instances more; --all shows them\n"));
    // What never ran cannot come out as before.
    assert!(
        said.stdout.contains(
            "many[n=1] runs: never run before\n  it runs for the first time, once first has run\n"
        ),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("as before"), "{}", said.stdout);
    let all = sandbox.okapi(&["explain", "p.yaml", "many", "--all"]).stdout;
    assert_eq!(heads(&all), 23);
    assert!(!all.contains("--all"), "{all}");
    let json = sandbox.okapi(&["explain", "p.yaml", "many", "--json"]).json();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 23);

    sandbox.run();
    sandbox.edit("p.yaml", "echo 1", "echo  1");
    let said = sandbox.okapi(&["explain", "p.yaml", "many[n=1]"]);
    assert!(said.stdout.contains("if that comes out as before, this is cached"), "{}", said.stdout);
}

#[test]
fn show_and_get_find_artifacts() {
    let sandbox = project();
    let said = sandbox.okapi(&["show", "p.yaml", "book:names"]);
    assert_eq!(said.code, Some(1), "nothing has run yet: {}", said.stderr);
    sandbox.run();
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "book:names"]).stdout, "who=anna\nwho=ben\n");
    assert!(sandbox.okapi(&["show", "p.yaml", "book:pages"]).stdout.contains("a/all.txt"));
    let said = sandbox.okapi(&["show", "p.yaml", "book"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("names, pages"), "{}", said.stderr);
    let said = sandbox.okapi(&["show", "p.yaml", "greet"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("greet[who=anna]"), "{}", said.stderr);

    assert_eq!(sandbox.okapi(&["get", "p.yaml", "book:pages", "out/pages"]).code, Some(0));
    assert!(sandbox.read("out/pages/a/all.txt").starts_with("hello anna\n"));
    assert_eq!(sandbox.okapi(&["get", "p.yaml", "book:names", "out/pages"]).code, Some(2));
    let overwrite = ["get", "p.yaml", "book:names", "out/pages", "--overwrite"];
    assert_eq!(sandbox.okapi(&overwrite).code, Some(0));
    // The copy is the user's: it can be edited, and the store does not notice.
    sandbox.write("out/pages", "mine");
    assert_eq!(sandbox.okapi(&["cache", "verify"]).code, Some(0));
}

#[test]
fn runs_log_and_diff_look_back() {
    let sandbox = project();
    sandbox.run();
    sandbox.run_with(&["--set", "vars.greeting=hi"]);
    let runs = sandbox.okapi(&["runs", "--json"]).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2);
    assert_eq!(runs["runs"][0]["overrides"][0], "vars.greeting=hi");
    assert_eq!(sandbox.okapi(&["log", "last", "greet[who=ben]"]).stdout, "logged\n");
    assert!(sandbox.okapi(&["log", "--json"]).stdout.contains("\"event\":\"run_finished\""));
    let diff = sandbox.okapi(&["diff", "--json"]).json();
    assert_eq!(diff["same"], 0);
    assert_eq!(diff["nodes"][0]["node"], "book");
    assert_eq!(diff["nodes"][1]["fields"][0]["field"], "run");
    assert_eq!(sandbox.okapi(&["log", "last~7"]).code, Some(2));
}

#[test]
fn gc_keeps_what_kept_runs_need_and_nothing_else() {
    let sandbox = project();
    sandbox.run();
    sandbox.run_with(&["--set", "vars.greeting=hi"]);
    let before = sandbox.okapi(&["cache", "stats", "--json"]).json();
    let dry = sandbox.okapi(&["gc", "--keep-runs", "1", "--dry-run"]);
    assert!(dry.stdout.starts_with("would remove"), "{}", dry.stdout);
    assert_eq!(sandbox.okapi(&["cache", "stats", "--json"]).json(), before);
    assert_eq!(sandbox.okapi(&["gc", "--keep-runs", "1"]).code, Some(0));
    let after = sandbox.okapi(&["cache", "stats", "--json"]).json();
    assert_eq!(after["actions"], 3);
    assert!(after["objects"].as_u64() < before["objects"].as_u64());
    assert_eq!(sandbox.okapi(&["cache", "verify"]).code, Some(0));
    assert_eq!(sandbox.run_with(&["--set", "vars.greeting=hi"]), names(&[]));
    assert_eq!(sandbox.run().len(), 3, "what was collected is made anew");
}

#[test]
fn check_reports_every_mistake_with_its_place() {
    let sandbox = Sandbox::new(
        "okapi: 1\nname: bad\nnodes:\n  a: {stage: comand, outputs: {o: file}}\n  b:\n    stage: command\n    inputs: {x: c}\n    run: echo ${vars.nothing}\n    outputs: {o: fil}\n",
    );
    let said = sandbox.okapi(&["check", "p.yaml"]);
    assert_eq!(said.code, Some(2));
    for expected in
        ["did you mean `command`?", "p.yaml:4", "p.yaml:7", "p.yaml:8", "p.yaml:9", "4 errors"]
    {
        assert!(said.stderr.contains(expected), "no `{expected}` in {}", said.stderr);
    }
    let json = sandbox.okapi(&["check", "p.yaml", "--json"]).json();
    assert_eq!(json["diagnostics"].as_array().unwrap().len(), 4, "{json}");
    assert_eq!(sandbox.okapi(&["run", "p.yaml"]).code, Some(2));
    assert!(!sandbox.path(".okapi/work").join("x").exists());
}

#[test]
fn graph_stages_schema_completions_and_init_work() {
    let sandbox = project();
    let dot = sandbox.okapi(&["graph", "p.yaml"]).stdout;
    assert!(dot.contains("\"greet[who=ben]\" -> \"book\""), "{dot}");
    let dot = sandbox.okapi(&["graph", "p.yaml", "--collapse"]).stdout;
    assert!(dot.contains("\"greet\" -> \"book\""), "{dot}");
    let svg = sandbox.okapi(&["graph", "p.yaml", "--format", "svg", "--collapse"]).stdout;
    assert!(svg.starts_with("<svg") && svg.contains("command × 2"), "{svg}");
    let both = sandbox.okapi(&["graph", "p.yaml", "--instances", "--collapse"]);
    assert_eq!(both.code, Some(2));
    assert!(
        sandbox.okapi(&["graph", "p.yaml", "--format", "mermaid"]).stdout.contains("n0 --> n2")
    );
    assert!(sandbox.okapi(&["stages"]).stdout.contains("import"));
    assert!(sandbox.okapi(&["stages", "command"]).stdout.contains("OKAPI_INPUT_<PORT>"));
    assert!(sandbox.okapi(&["completions", "bash"]).stdout.contains("okapi"));
    let said = sandbox.okapi(&["init", "new"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    sandbox.write("new/okapi.yaml", "mine");
    assert_eq!(sandbox.okapi(&["init", "new"]).code, Some(0));
    assert_eq!(sandbox.read("new/okapi.yaml"), "mine", "init writes over nothing");
}

#[test]
fn the_committed_schema_is_the_programs() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/okapi.schema.json");
    let said = project().okapi(&["schema"]);
    assert_eq!(
        fs::read_to_string(committed).unwrap(),
        said.stdout,
        "okapi schema > okapi.schema.json"
    );
}

#[test]
fn targets_select_and_an_unknown_one_is_named() {
    let sandbox = project();
    assert_eq!(sandbox.run_with(&["greet[who=ben]"]), names(&["greet[who=ben]"]));
    let said = sandbox.okapi(&["run", "p.yaml", "gret"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("did you mean `greet`?"), "{}", said.stderr);
    assert_eq!(
        sandbox.run_with(&["--force", "greet"]),
        names(&["greet[who=anna]", "greet[who=ben]", "book"])
    );
    assert_eq!(
        sandbox.run_with(&["--force", "greet"]),
        names(&["greet[who=anna]", "greet[who=ben]"])
    );
}

#[test]
fn a_read_only_store_can_be_looked_at() {
    let sandbox = project();
    sandbox.run();
    // Root may write anywhere; what is tested is that looking does not need to.
    let before = sandbox.okapi(&["cache", "stats"]).stdout;
    assert_eq!(sandbox.okapi(&["runs"]).code, Some(0));
    assert_eq!(sandbox.okapi(&["cache", "stats"]).stdout, before);
}

#[test]
fn an_import_of_a_folder_is_a_tree() {
    let sandbox = Sandbox::new(
        "okapi: 1\nname: i\nnodes:\n  data: {stage: import, params: {path: data, kind: tree}}\n  list: {stage: command, inputs: {d: data}, run: 'ls \"$OKAPI_INPUT_D\" > \"$OKAPI_OUTPUT_O\"', outputs: {o: text}}\n",
    );
    sandbox.write("data/x.txt", "1");
    sandbox.write("data/y.txt", "2");
    sandbox.run();
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "list"]).stdout, "x.txt\ny.txt\n");
    sandbox.write("data/z.txt", "3");
    assert_eq!(sandbox.run(), names(&["data", "list"]));
    sandbox.edit("p.yaml", "kind: tree", "kind: file");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("kind"), "{}", said.stderr);
}
