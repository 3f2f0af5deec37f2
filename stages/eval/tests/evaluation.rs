//! Evaluations against what the harness itself and a script for the authors' fork say of the same models and
//! questions: `tests/fixtures/eval`. And laws: what is computed together changes nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use okapi_data::{Question, Task};
use okapi_eval::{
    Edition, Encoded, Evaluation, HarnessFiles, Item, ItemScore, Protocol, Score, Scorer, Setting,
    Summary, items, max_length,
};
use okapi_model::{CausalLm, Sequences, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

const FAMILIES: [&str; 3] = ["bloom", "gpt_neox", "llama"];
const TOKENS_AT_ONCE: usize = 2048;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/eval")
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

fn questions() -> BTreeMap<String, Vec<Question>> {
    serde_json::from_value(json("questions.json")).unwrap()
}

fn open(family: &str) -> (CausalLm, Tokenizer) {
    let folder = folder().join("models").join(family);
    let model = CausalLm::open(&folder).unwrap();
    let tokenizer = Tokenizer::open(&folder, model.config().vocabulary()).unwrap();
    (model, tokenizer)
}

fn digest(texts: &[&str]) -> String {
    let hash = Sha256::digest(texts.join("\0"));
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().map(|number| number as usize)
}

/// A run of a fixture.
struct Run {
    expected: Value,
    setting: Setting,
    questions: Vec<Question>,
    examples: Vec<Question>,
}

fn runs(fixture: &str) -> Vec<Run> {
    let questions = questions();
    let of = |name: &Value| name.as_str().map(|name| questions[name].clone()).unwrap_or_default();
    let fixture = json(fixture);
    let runs = fixture["runs"].as_array().unwrap();
    runs.iter()
        .map(|expected| {
            let task: Task = serde_json::from_value(expected["task"].clone()).unwrap();
            let protocol = match expected["edition"].as_str() {
                None => Protocol::Authors,
                Some("original") => Protocol::Harness(Edition::Original),
                Some(_) => Protocol::Harness(Edition::Translated),
            };
            let (shots, limit) = (whole(&expected["shots"]).unwrap(), whole(&expected["limit"]));
            let setting = Setting { shots, limit, ..Setting::new(task, protocol) };
            let (questions, examples) = (of(&expected["questions"]), of(&expected["examples"]));
            Run { expected: expected.clone(), setting, questions, examples }
        })
        .collect()
}

/// The places of the expected items among ours: where subjects are tasks of their own, they stand together there.
fn order<T>(run: &Run, ours: &[T], number: impl Fn(&T) -> usize) -> Vec<usize> {
    let expected: Vec<usize> =
        run.expected["numbers"].as_array().unwrap().iter().map(|it| whole(it).unwrap()).collect();
    let found: Vec<usize> = ours.iter().map(&number).collect();
    if run.setting.is_by_subject() {
        let place = |wanted| found.iter().position(|number| *number == wanted).unwrap();
        assert_eq!(expected.len(), found.len());
        return expected.into_iter().map(place).collect();
    }
    assert_eq!(found, expected);
    (0..found.len()).collect()
}

/// Compares every prompt and every continuation.
fn check_prompts(fixture: &str) -> usize {
    let mut count = 0;
    for run in runs(fixture) {
        let Run { expected, setting, questions, examples } = &run;
        let items = items(setting, questions, examples).unwrap();
        for (place, item) in order(&run, &items, |item| item.number).into_iter().enumerate() {
            let item: &Item = &items[item];
            let continuations: Vec<String> = item.continuations().collect();
            let continuations: Vec<&str> = continuations.iter().map(String::as_str).collect();
            let context = item.context.as_str();
            let at = format!("{}, item {place}", expected["questions"]);
            if let Some(whole) = expected["whole"].get(place.to_string()) {
                let texts: Vec<&str> =
                    whole.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
                assert_eq!([&[context], &continuations[..]].concat(), texts, "{at}");
            }
            assert_eq!(digest(&[context]), expected["contexts"][place], "{at}:\n{context}");
            assert_eq!(digest(&continuations), expected["continuations"][place], "{at}");
            count += 1;
        }
    }
    count
}

#[test]
fn prompts_are_those_of_the_harness() {
    assert!(check_prompts("harness.json") > 600);
}

#[test]
fn prompts_are_those_of_the_authors() {
    assert!(check_prompts("authors.json") > 600);
}

/// The digits that are printed.
fn printed(value: f64) -> String {
    format!("{value:.4}")
}

fn check_score(score: &Score, expected: &Value, metric: &str, at: &str) {
    let value = expected[metric].as_f64().unwrap();
    let error = expected[format!("{metric}_stderr")].as_f64().unwrap();
    let found = score.standard_error.unwrap();
    assert_eq!((printed(score.value), printed(found)), (printed(value), printed(error)), "{at}");
    // And beyond what is printed.
    assert!((score.value - value).abs() < 1e-14 && (found - error).abs() < 1e-14, "{at}");
}

/// Compares every log-likelihood, every decision and every score. Gives the items, and how many were cut.
fn check_scores(fixture: &str, family: &str) -> (usize, usize) {
    let (model, tokenizer) = open(family);
    let longest = max_length(&model, &tokenizer);
    let (mut count, mut cut) = (0, 0);
    for run in runs(fixture) {
        let Run { expected, setting, questions, examples } = &run;
        let at = expected["questions"].as_str().unwrap();
        let evaluation =
            Evaluation::new(setting, (questions, examples), &tokenizer, longest).unwrap();
        let scores = evaluation.scorer(&model, TOKENS_AT_ONCE).score_all().unwrap();
        let expected = &expected["models"][family];
        let greedy: Vec<[usize; 2]> = serde_json::from_value(expected["greedy"].clone()).unwrap();
        for (place, ours) in order(&run, &scores, |item| item.number).into_iter().enumerate() {
            let item: &ItemScore = &scores[ours];
            let at = format!("{family}, {at}, item {place}");
            let wanted = expected["log_likelihoods"][place].as_array().unwrap();
            assert_eq!(item.choices.len(), wanted.len(), "{at}");
            for (choice, (found, wanted)) in item.choices.iter().zip(wanted).enumerate() {
                let (found, wanted, is_greedy) =
                    (found.log_likelihood, wanted.as_f64().unwrap(), found.is_greedy);
                let difference = (found - wanted).abs();
                assert!(difference < 1e-4 * wanted.abs(), "{at}, {choice}: {found}, not {wanted}");
                assert_eq!(is_greedy, greedy.contains(&[place, choice]), "{at}, choice {choice}");
            }
            let digit = |name: &str| {
                let digit = expected[name].as_str().unwrap().as_bytes()[place];
                usize::from(digit - b'0')
            };
            assert_eq!(item.predicted, digit("predicted"), "{at}");
            assert_eq!(item.predicted_norm, digit("predicted_norm"), "{at}");
            assert_eq!(usize::from(item.predicted == item.gold), digit("right"), "{at}");
            assert_eq!(usize::from(item.predicted_norm == item.gold), digit("right_norm"), "{at}");
            count += 1;
            cut += usize::from(item.choices.iter().any(|choice| choice.cut > 0));
        }
        let summary = Summary::of(&scores, setting.is_by_subject()).unwrap();
        check_score(&summary.acc, &expected["results"], "acc", at);
        if setting.task != Task::Mmlu || setting.protocol == Protocol::Authors {
            check_score(&summary.acc_norm, &expected["results"], "acc_norm", at);
        }
        let subjects = expected["subjects"].as_object();
        assert_eq!(summary.subjects.len(), subjects.map_or(0, serde_json::Map::len));
        for (subject, scores) in &summary.subjects {
            check_score(&scores[0], &expected["subjects"][subject], "acc", subject);
        }
    }
    (count, cut)
}

#[test]
fn scores_are_those_of_the_harness() {
    for family in FAMILIES {
        let (count, cut) = check_scores("harness.json", family);
        assert!(count > 600 && cut > 60, "{family}: {cut} of {count}");
    }
}

#[test]
fn scores_are_those_of_the_authors() {
    for family in FAMILIES {
        let (count, cut) = check_scores("authors.json", family);
        assert!(count > 600 && cut > 200, "{family}: {cut} of {count}");
    }
}

/// A setting in which much is shared, or cut, or neither, with its questions and examples.
fn any_setting() -> impl Strategy<Value = (Setting, Vec<Question>, Vec<Question>)> {
    let harness = Protocol::Harness(Edition::Translated);
    let original = Protocol::Harness(Edition::Original);
    let settings = vec![
        (Task::Mmlu, harness, 2, "mmlu/de/test", "mmlu/de/dev"),
        (Task::Mmlu, harness, 6, "mmlu/hi/test", "mmlu/hi/dev"),
        (Task::Mmlu, original, 3, "mmlu/en/test", "mmlu/en/dev"),
        (Task::Arc, harness, 4, "arc/zh/test", "arc/zh/train"),
        (Task::Arc, Protocol::Authors, 25, "arc/de/test", "arc/de/train"),
        (Task::HellaSwag, harness, 0, "hellaswag/vi/validation", "hellaswag/en/train"),
        (Task::Mmlu, Protocol::Authors, 1, "mmlu/ru/test", "mmlu/ru/dev"),
    ];
    prop::sample::select(settings).prop_map(|(task, protocol, shots, asked, shown)| {
        let all = questions();
        let setting = Setting { shots, ..Setting::new(task, protocol) };
        (setting, all[asked][..12].to_vec(), all[shown].clone())
    })
}

/// The log-likelihood of a continuation, from the logits of the whole text.
fn slow(model: &CausalLm, encoded: &Encoded) -> f64 {
    let rows = encoded.inputs().len();
    let logits = model.logits(&Sequences::new(&[encoded.inputs()])).unwrap();
    let (vocabulary, scored) = (logits.len() / rows, rows - encoded.scored..rows);
    let log_probability = |row: usize| {
        let logits = &logits[row * vocabulary..][..vocabulary];
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(logits[encoded.tokens[row + 1] as usize]) - sum.ln()
    };
    scored.map(log_probability).sum()
}

fn is_close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-5 * right.abs().max(1.0)
}

fn scores(evaluation: &Evaluation<'_>, model: &CausalLm, tokens_at_once: usize) -> Vec<ItemScore> {
    evaluation.scorer(model, tokens_at_once).score_all().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn sharing_and_batches_change_no_score(
        (setting, questions, examples) in any_setting(),
        family in prop::sample::select(FAMILIES.to_vec()),
        tokens_at_once in prop::sample::select(vec![1usize, 700, 3000, 1 << 20]),
    ) {
        let (model, tokenizer) = open(family);
        let longest = max_length(&model, &tokenizer);
        let evaluation =
            Evaluation::new(&setting, (&questions, &examples), &tokenizer, longest).unwrap();
        let fast = scores(&evaluation, &model, tokens_at_once);
        prop_assert_eq!(&fast, &scores(&evaluation, &model, 1000));
        for (item, encoded) in fast.iter().zip(evaluation.encoded()) {
            for (choice, encoded) in item.choices.iter().zip(encoded) {
                let slow = slow(&model, encoded);
                prop_assert!(is_close(choice.log_likelihood, slow), "{} {slow}", choice.log_likelihood);
            }
        }
    }

    #[test]
    fn the_order_of_questions_changes_no_score(
        (setting, questions, examples) in any_setting(),
        order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        // Where examples are drawn for one question after the other, their order is part of the protocol.
        let shots = if setting.task == Task::Mmlu { setting.shots } else { 0 };
        let protocol = match setting.protocol {
            Protocol::Authors => Protocol::Harness(Edition::Translated),
            harness => harness,
        };
        let setting = Setting { shots, protocol, ..setting };
        let (model, tokenizer) = open("bloom");
        let moved: Vec<Question> = order.iter().map(|place| questions[*place].clone()).collect();
        let [left, right] = [&questions, &moved].map(|questions| {
            let given = (&questions[..], &examples[..]);
            let evaluation = Evaluation::new(&setting, given, &tokenizer, 512).unwrap();
            scores(&evaluation, &model, 1500)
        });
        for (right, place) in right.into_iter().zip(&order) {
            let number = *place;
            prop_assert_eq!(&ItemScore { number, ..right }, &left[*place]);
        }
    }
}

/// The token that a model finds most probable after these.
fn next(model: &CausalLm, tokens: &[u32]) -> u32 {
    let logits = model.logits(&Sequences::new(&[tokens])).unwrap();
    let last = logits.chunks_exact(logits.len() / tokens.len()).last().unwrap();
    let best = last.iter().enumerate().max_by(|left, right| left.1.total_cmp(right.1));
    best.unwrap().0 as u32
}

#[test]
fn a_choice_is_greedy_if_the_model_would_write_it() {
    for family in FAMILIES {
        let (model, _) = open(family);
        let context = [7, 99, 300, 12, 45, 45, 8];
        let mut written = context.to_vec();
        (0..3).for_each(|_| written.push(next(&model, &written)));
        // Another token at each place of the continuation, of which the last is never read.
        let other = |place: usize| {
            let mut tokens = written.clone();
            tokens[place] = (tokens[place] + 1) % 500;
            tokens
        };
        let choices = [written.clone(), other(7), other(8), other(9)];
        let encoded = |tokens: &Vec<u32>| Encoded { tokens: tokens.clone(), scored: 3, cut: 0 };
        let items = [choices.iter().map(encoded).collect::<Vec<_>>()];
        let found = Scorer::new(&model, &items, &[0], TOKENS_AT_ONCE).score(0).unwrap();
        let greedy: Vec<bool> = found[0].iter().map(|choice| choice.is_greedy).collect();
        assert_eq!(greedy, [true, false, false, false], "{family}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let all = questions();
    let setting =
        Setting { shots: 3, ..Setting::new(Task::Mmlu, Protocol::Harness(Edition::Translated)) };
    let (model, tokenizer) = open("llama");
    let given = (&all["mmlu/vi/test"][..], &all["mmlu/vi/dev"][..]);
    let evaluation = Evaluation::new(&setting, given, &tokenizer, 384).unwrap();
    let [one, four] = [1, 4].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| scores(&evaluation, &model, 1000))
    });
    assert_eq!(one, four);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let all = questions();
    let harness = Protocol::Harness(Edition::Translated);
    let refused = |setting: &Setting, questions: &[Question], examples: &[Question]| {
        items(setting, questions, examples).unwrap_err().to_string()
    };
    let (arc, mmlu) = (&all["arc/de/test"], &all["mmlu/de/test"]);
    let setting = Setting::new(Task::Mmlu, harness);
    assert_eq!(
        refused(&setting, arc, &[]),
        "question `de/0` is of ARC, not of MMLU; give each benchmark a node of its own"
    );
    let with = |shots, protocol| Setting { shots, ..Setting::new(Task::Mmlu, protocol) };
    assert_eq!(
        refused(&with(5, Protocol::Authors), mmlu, &[]),
        "5 examples before each question are asked for, and none are given; give the validation split, or set the \
         number to 0"
    );
    assert_eq!(
        refused(&with(9, Protocol::Harness(Edition::Original)), mmlu, &all["mmlu/de/dev"]),
        "9 examples cannot be drawn from 7 of the subject `abstract_algebra`; give more of them, or ask for fewer"
    );
    let mut three = mmlu[0].clone();
    three.choices.pop();
    three.answer = 0;
    assert_eq!(
        refused(&setting, &[three], &[]),
        "question `de/0`: it has 3 choices, and MMLU's prompt wants 4; leave it out"
    );
    let without = Question { hellaswag: None, ..all["hellaswag/de/validation"][0].clone() };
    assert!(
        refused(&Setting::new(Task::HellaSwag, harness), &[without], &[])
            .contains("activity_label")
    );
    // A choice that is longer than all that the model reads.
    let mut long = arc[0].clone();
    long.choices[1] = "Bibliothek ".repeat(40);
    let (_, tokenizer) = open("bloom");
    let setting = Setting::new(Task::Arc, harness);
    let error = Evaluation::new(&setting, (&[long], &[]), &tokenizer, 30).unwrap_err().to_string();
    assert!(
        error.starts_with("question `de/0`, choice 2: it has ") && error.contains("reads 30"),
        "{error}"
    );
}

#[test]
fn files_are_those_of_the_harness() {
    let (model, tokenizer) = open("bloom");
    for run in runs("harness_files.json") {
        let Run { expected, setting, questions, examples } = &run;
        let given = (&questions[..], &examples[..]);
        let evaluation = Evaluation::new(setting, given, &tokenizer, 512).unwrap();
        let scores = scores(&evaluation, &model, TOKENS_AT_ONCE);
        let summary = Summary::of(&scores, setting.is_by_subject()).unwrap();
        let files = HarnessFiles {
            setting,
            language: expected["language"].as_str(),
            questions,
            items: evaluation.items(),
            scores: &scores,
            summary: &summary,
            max_length: 512,
        };
        let results = files.results();
        for (key, value) in expected["results"].as_object().unwrap() {
            assert_same(&results[key], value, key);
        }
        let tasks = files.tasks();
        let wanted = expected["samples"].as_object().unwrap();
        assert_eq!(tasks.len(), wanted.len());
        for (task, items) in tasks {
            let wanted = wanted[&format!("samples_{task}")].as_array().unwrap();
            assert_eq!(items.len(), wanted.len());
            for ((doc_id, item), wanted) in items.into_iter().enumerate().zip(wanted) {
                let mut sample = files.sample(doc_id, item);
                let mut wanted = wanted.clone();
                // The question itself is as each program has it.
                for key in ["doc", "doc_hash"] {
                    wanted[key] = Value::Null;
                    assert!(!std::mem::take(&mut sample[key]).is_null());
                }
                assert_same(&sample, &wanted, &task);
            }
        }
    }
}

/// Compares documents: what is written in digits, also within texts, up to rounding.
fn assert_same(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(left), Value::Object(right)) => {
            assert!(left.keys().eq(right.keys()), "{at}: {found} is not {expected}");
            left.iter().for_each(|(key, left)| assert_same(left, &right[key], key));
        }
        (Value::Array(left), Value::Array(right)) => {
            assert_eq!(left.len(), right.len(), "{at}");
            left.iter().zip(right).for_each(|(left, right)| assert_same(left, right, at));
        }
        (Value::String(left), Value::String(right)) => match (left.parse(), right.parse()) {
            (Ok(left), Ok(right)) => assert!(is_close(left, right), "{at}: {left} {right}"),
            _ => assert_eq!(left, right, "{at}"),
        },
        _ => match (found.as_f64(), expected.as_f64()) {
            (Some(left), Some(right)) => assert!(is_close(left, right), "{at}: {left} {right}"),
            _ => assert_eq!(found, expected, "{at}"),
        },
    }
}
