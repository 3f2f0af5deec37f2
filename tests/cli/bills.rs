//! What `plan` says that a pipeline would cost of which nothing is there yet.

use serde_json::Value;

use crate::hub::{COMMIT, Hub, Shelf};
use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = "
okapi: 1
name: bill
teachers:
  chat: {kind: openai, model: m, base_url: HUB, temperature: 0, input_price: 1, output_price: 2}
nodes:
  alpaca:
    stage: import
    params: {url: 'hf://datasets/o/n@COMMIT/data/a.parquet', kind: instructions, expected_rows: 1000}
  base:
    stage: import_model
    params: {repository: bigscience/bloom-560m@COMMIT}
  part: {stage: mix, inputs: {data: alpaca}, params: {count: 700}}
  spanish:
    stage: translate
    inputs: {data: part:rest}
    prompts: {translate: translate.j2}
    teacher: chat
    params: {language: es}
  translate:
    for_each: {lang: [de, hi]}
    stage: translate
    inputs: {data: alpaca}
    prompts: {translate: translate.j2}
    teacher: chat
    params: {language: '${each.lang}'}
  sft:
    for_each: {lang: [de, hi]}
    stage: sft
    inputs: {model: base, examples: translate:data}
    prompts: {prompt: prompt.j2}
    params: {device: cuda}
  generate:
    for_each: {lang: [de, hi]}
    stage: generate
    inputs: {model: sft:model, prompts: translate:data}
    prompts: {prompt: prompt.j2}
    resources: {cpu: 1}
    params: {device: cpu}
  rank:
    for_each: {lang: [de, hi]}
    stage: rank
    inputs: {responses: generate}
    prompts: {translate: rank_translate.j2, rank: rank.j2}
    teacher: chat
    params: {language: '${each.lang}'}
  reward:
    for_each: {lang: [de, hi]}
    stage: reward_model
    inputs: {model: sft:model, rankings: rank:rankings}
    prompts: {prompt: prompt.j2}
    params: {device: cuda}
  ppo:
    for_each: {lang: [de, hi]}
    stage: ppo
    inputs: {policy: sft:model, reward_model: reward:reward_model, prompts: translate:data}
    prompts: {prompt: prompt.j2}
    params: {device: cuda}
  arc:
    stage: import
    params: {url: 'hf://datasets/o/n@COMMIT/data/arc.jsonl', kind: questions, expected_rows: 100}
  evaluate:
    stage: evaluate
    inputs: {model: base, questions: arc}
    params: {task: arc, shots: 25, max_length: 2000, device: cuda}
";

fn sandbox(hub: &Hub) -> Sandbox {
    let sandbox = Sandbox::new(&PIPELINE.replace("COMMIT", COMMIT).replace("HUB", &hub.address));
    sandbox.write("translate.j2", "To {{ language }}: {{ object }}");
    sandbox.write("prompt.j2", "{{ instruction }}{{ input }}");
    let parts = "{{ language }}{{ instruction }}{{ input }}{% for it in responses %}{{ it }}{% endfor %}{{ count }}";
    sandbox.write("rank_translate.j2", parts);
    sandbox.write("rank.j2", "Rank {{ count }}");
    sandbox
}

fn plan(sandbox: &Sandbox, hub: &Hub, arguments: &[&str]) -> Said {
    let mut command = sandbox.command(&[&["plan", "p.yaml"], arguments].concat());
    command.env("HF_ENDPOINT", &hub.address).env("CUDA_VISIBLE_DEVICES", "");
    Said::of(command.output().unwrap())
}

fn charges<'a>(bill: &'a Value, node: &str) -> &'a Value {
    let nodes = bill["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|it| it["node"] == node);
    &found.unwrap_or_else(|| panic!("{node}: {bill}"))["charges"]
}

/// BLOOM-560m's numbers that a token meets: in each of 24 blocks 12 * 1024^2 in matrices and 13 * 1024 in biases and
/// norms, and 250,880 * 1024 in the head.
const BLOCK: f64 = 12_596_224.0;
const HEAD: f64 = 256_901_120.0;
const MET: f64 = 24.0 * BLOCK + HEAD;
/// Operations a second that are assumed of a GPU: for reading, and for sampling.
const READS: f64 = 0.4 * 989e12;
const SAMPLES: f64 = 0.1 * 989e12;

#[test]
fn what_is_not_there_yet_has_a_price() {
    let hub = Hub::new(Shelf::default());
    let sandbox = sandbox(&hub);
    let said = plan(&sandbox, &hub, &["--json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let plan_json = said.json();
    assert_eq!(hub.asked(), [""; 0], "nobody is asked");
    let bill = &plan_json["bill"];
    let whole = |charges: &Value, name: &str| charges[name].as_u64().unwrap();
    let check = |node: &str, expected: &[(&str, f64)]| {
        let charges = charges(bill, node);
        for (name, expected) in expected {
            let found = charges[*name].as_u64().unwrap() as f64;
            // Rounded once for each instance.
            let rounding = if *expected < 100.0 { 0.0 } else { 2.0 };
            assert!((found - expected).abs() <= rounding, "{node} {name}: {found}, not {expected}");
        }
    };

    // Alpaca's rows have 49.0 and 56.2 tokens of English; a row is 100 bytes and 4 for a token.
    check("alpaca", &[("disk_bytes", 1000.0 * (100.0 + 4.0 * 105.2)), ("requests", 0.0)]);
    // With an object of three characters the prompt has 14 of them in German, 13 in Hindi: 4 tokens, and 4 of the message.
    // The object has 12 tokens beside its texts. German takes 1.4 tokens for one, Hindi 4.
    let object = 12.0 + 49.0 + 56.2;
    let (read, written) = (1000.0 * (16.0 + 2.0 * object), 1000.0 * object * (1.4 + 4.0));
    check(
        "translate",
        &[
            ("instances", 2.0),
            ("requests", 2000.0),
            ("prompt_tokens", read),
            ("completion_tokens", written),
            ("unpriced", 0.0),
        ],
    );
    // A dollar for a million tokens read, two for as many written.
    let usd = whole(charges(bill, "translate"), "nano_usd") as f64;
    assert!((usd - 1000.0 * (read + 2.0 * written)).abs() < 1e5, "{usd}");
    // What `mix` leaves.
    check("spanish", &[("requests", 300.0)]);

    // 16 bits for each of 559,214,592 numbers, whatever is made of them.
    check("base", &[("disk_bytes", 1_118_429_184.0), ("gpu_ms", 0.0)]);
    check("sft", &[("disk_bytes", 2.0 * 1_118_429_184.0)]);
    // Table 2, and the token that ends a text. Of 1000 rows 100 are for validation; three epochs. Six operations a number
    // where it is learnt from, two where not.
    let tokens = (61.1 + 94.2 + 1.0) + (54.7 + 69.5 + 1.0);
    let operations = tokens * MET * (3.0 * 900.0 * 6.0 + 3.0 * 100.0 * 2.0);
    check(
        "sft",
        &[
            ("gpu_ms", 1000.0 * operations / READS),
            ("processor_ms", 0.0),
            ("reckoned", 2.0),
            // There is no GPU.
            ("blocked", 2.0),
        ],
    );
    // Prompts are read once, and four responses sampled, of as many tokens as those of the data.
    let read = 1000.0 * (61.1 + 54.7) * 2.0 * MET;
    let sampled = 1000.0 * 4.0 * (94.2 + 69.5) * 2.0 * MET;
    check(
        "generate",
        &[("processor_ms", 1000.0 * (read / 75e9 + sampled / 39e9)), ("gpu_ms", 0.0)],
    );
    // `German<empty>4` and `Hindi<empty>4` are 4 tokens and 4 of the message; the answer to it, empty so far, 4 of the
    // message, and `Rank 4` 2 and 4. In English the texts have 49 + 4 * 56.2 tokens; 6 parts have tags of 6 each.
    let texts = 49.0 + 4.0 * 56.2;
    let english = texts + 36.0;
    let turns = |factor: f64| (8.0 + factor * texts) + (18.0 + factor * texts + english);
    check(
        "rank",
        &[
            ("requests", 4000.0),
            ("prompt_tokens", 1000.0 * (turns(1.4) + turns(4.0))),
            ("completion_tokens", 2000.0 * (english + 4.0 * 8.0)),
        ],
    );

    // Each of 900 rankings of four has 6 pairs, of two texts each, in two epochs; 100 are measured after each. The top 12
    // blocks learn, the norm after them (2 * 1024) and a head of 1024; the gradient passes all blocks on its way to the
    // embeddings.
    let texts = (61.1 + 94.2 + 1.0) + (54.7 + 69.5 + 1.0);
    let step = 2.0 * (24.0 + 24.0 + 12.0) * BLOCK + 2.0 * (2048.0 + 1024.0);
    let operations = texts * (1800.0 * 12.0 * step + 200.0 * 4.0 * 2.0 * 24.0 * BLOCK);
    check("reward", &[("gpu_ms", 1000.0 * operations / READS)]);
    // Scores instead of a head: the embedding is the model's own.
    check("reward", &[("disk_bytes", 2.0 * (1_118_429_184.0 + 2048.0))]);

    // Five epochs of 950 prompts. Of each rollout: the prompt is read, the response sampled; policy, top of the reference,
    // and reward model read both; then four passes learn in the top four blocks, the norm, and a head for values of
    // 2 * 1024^2 + 4 * 1024 + 1 numbers.
    let top = 2.0 * (4.0 * BLOCK + HEAD);
    let back = 2.0 * (4.0 * BLOCK + HEAD + 4.0 * BLOCK + 2048.0 + 2_101_249.0);
    let rollout = |prompt: f64, response: f64| {
        let text = prompt + response;
        let read =
            prompt * 2.0 * MET + text * (2.0 * MET + top + 2.0 * 24.0 * BLOCK + 4.0 * (top + back));
        read / READS + response * 2.0 * MET / SAMPLES
    };
    let seconds = 4750.0 * (rollout(61.1, 94.2) + rollout(54.7, 69.5));
    check("ppo", &[("gpu_ms", 1000.0 * seconds), ("disk_bytes", 2.0 * 1_118_429_184.0)]);

    // A question of 80 tokens after 25 examples is longer than the model is to read, and then its choices share little.
    check("evaluate", &[("gpu_ms", 1000.0 * 100.0 * 3.1 * 2000.0 * 2.0 * MET / READS)]);

    // Sums are sums.
    let nodes = bill["nodes"].as_array().unwrap();
    for name in ["requests", "prompt_tokens", "nano_usd", "gpu_ms", "processor_ms", "disk_bytes"] {
        let sum: u64 = nodes.iter().map(|node| whole(&node["charges"], name)).sum();
        assert_eq!(sum, whole(&bill["total"], name), "{name}");
        let of_languages = |list: &Value| -> u64 {
            list.as_array().unwrap().iter().map(|it| whole(&it["charges"], name)).sum()
        };
        let with_axis = nodes.iter().filter(|node| !node["languages"].is_null());
        let by_node: u64 = with_axis.map(|node| of_languages(&node["languages"])).sum();
        assert_eq!(by_node, of_languages(&bill["languages"]), "{name}");
    }
    assert_eq!(bill["languages"][0]["lang"], "de");
    let assumptions = bill["assumptions"].to_string();
    for expected in [
        "Table 2",
        "40 % of an H100",
        "75 GFLOP/s",
        "sizes of the published one",
        "1.4 tokens for one of the English",
        "a rank takes 8 tokens",
        "3.1 texts of it are read",
    ] {
        assert!(assumptions.contains(expected), "{assumptions}");
    }
}

#[test]
fn what_two_nodes_share_is_paid_once() {
    let hub = Hub::new(Shelf::default());
    let sandbox = sandbox(&hub);
    let first = plan(&sandbox, &hub, &["--json"]).json();
    let before = &first["bill"]["total"];
    // The same translation under another name, and what follows from it, before anything is there.
    let again = "  again:
    stage: translate
    inputs: {data: alpaca}
    prompts: {translate: translate.j2}
    teacher: chat
    params: {language: de}
  tuned_again:
    stage: sft
    inputs: {model: base, examples: 'translate[lang=de]:data'}
    prompts: {prompt: prompt.j2}
    params: {device: cuda}
  other:
    stage: sft
    inputs: {model: base, examples: again:data}
    prompts: {prompt: prompt.j2}
    params: {device: cuda, epochs: 1}
";
    sandbox.write("p.yaml", &(sandbox.read("p.yaml") + again));
    let document = plan(&sandbox, &hub, &["--json"]).json();
    let total = &document["bill"]["total"];
    assert_eq!((&total["repeated"], &total["requests"]), (&2.into(), &before["requests"]));
    assert_eq!(document["summary"]["requests"], first["summary"]["requests"]);
    assert!(total["gpu_ms"].as_u64() > before["gpu_ms"].as_u64(), "{total}");
    assert_eq!(charges(&document["bill"], "tuned_again")["gpu_ms"], 0);
    assert!(charges(&document["bill"], "other")["gpu_ms"].as_u64() > Some(0), "{document}");
    let nodes = document["nodes"].as_array().unwrap();
    let again = nodes.iter().find(|it| it["node"] == "again").unwrap();
    assert_eq!(again["same_as"], "translate[lang=de]");
    let said = plan(&sandbox, &hub, &[]).stdout;
    let expected = "2 instances of `again`, `tuned_again` are the same actions as others, and are on this bill once";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn what_has_no_figure_is_named() {
    let hub = Hub::new(Shelf::default());
    let sandbox = sandbox(&hub);
    sandbox.edit("p.yaml", "bigscience/bloom-560m@", "somebody/other@");
    let said = plan(&sandbox, &hub, &[]).stdout;
    for expected in [
        "time and disk unknown: 9 instances of `sft`, `generate`, `reward`, `ppo`, `evaluate`; say how",
        "(`like`)",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let line = said.lines().find(|line| line.starts_with("sft")).unwrap_or_default();
    assert_eq!(line.matches("unknown").count(), 2, "{said}");
}

#[test]
fn the_bill_is_a_table_that_fits_the_terminal() {
    let hub = Hub::new(Shelf::default());
    let sandbox = sandbox(&hub);
    let said = plan(&sandbox, &hub, &[]);
    let bill = said.stdout.split_once("by node").unwrap_or_else(|| panic!("{}", said.stdout)).1;
    assert!(bill.lines().all(|line| line.chars().count() <= 120), "{bill}");
    let words: Vec<Vec<&str>> =
        bill.lines().map(|line| line.split_whitespace().collect()).collect();
    let line =
        |name: &str| words.iter().find(|line| line.first() == Some(&name)).unwrap().join(" ");
    assert_eq!(line("translate"), "translate 2 2,000 250 k 633 k $1.52 - - 1.7 MiB");
    assert!(line("sft").starts_with("sft 2 - - - - 7 s - 2.1 GiB"), "{}", line("sft"));
    assert!(line("de").starts_with("de 6 3,000 "), "{}", line("de"));
    assert!(line("in").starts_with("in all 18 6,300 "), "{}", line("in"));
    assert!(bill.contains("cannot run on this machine"), "{bill}");
    assert!(bill.contains("\nteachers, of what can run here: about 2300 requests"), "{bill}");
    assert!(bill.contains("assumed: a GPU reaches 40 %"), "{bill}");
    let said = plan(&sandbox, &hub, &["--all"]);
    assert!(said.stdout.contains("\n  hi "), "{}", said.stdout);
    assert_eq!(hub.asked(), [""; 0]);
}

#[test]
fn a_model_of_another_name_is_like_one_that_is_known() {
    let pipeline = |params: &str| {
        format!(
            "okapi: 1\nname: m\nnodes:\n  base: {{stage: import_model, params: {{{params}}}}}\n"
        )
    };
    for (params, expected) in [
        (
            format!("repository: bigscience/bloomz-7b1@{COMMIT}, like: bloom-7b1"),
            2 * 7_069_016_064_u64,
        ),
        (format!("repository: huggyllama/llama-7b@{COMMIT}, dtype: float32"), 4 * 6_738_415_616),
    ] {
        let plan = Sandbox::new(&pipeline(&params)).okapi(&["plan", "p.yaml", "--json"]).json();
        assert_eq!(plan["bill"]["total"]["disk_bytes"], expected, "{plan}");
    }
    let unknown = pipeline(&format!("repository: o/n@{COMMIT}, like: bloom-8b"));
    let said = Sandbox::new(&unknown).okapi(&["check", "p.yaml"]);
    assert!(said.code == Some(2) && said.stderr.contains("bloom-8b"), "{}", said.stderr);
}
