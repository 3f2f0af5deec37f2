//! Scoring questions of ARC with a model's folder, for `benches/evaluate.py`.
//!
//! ```text
//! evaluate_rows FOLDER QUESTIONS EXAMPLES SHOTS THREADS TOKENS_AT_ONCE
//! ```
//!
//! Questions and examples are JSON lists of rows as okapi has them. Prints the seconds from texts to scores, and
//! the log-likelihoods of each question's choices.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a program for measurements")]

use std::path::Path;
use std::time::Instant;

use okapi_data::{Question, Task};
use okapi_eval::{Edition, Evaluation, ItemScore, Protocol, Setting, max_length};
use okapi_model::{CausalLm, Tokenizer};
use serde_json::json;

/// As in okapi's own program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, questions, examples, shots, threads, tokens] = &arguments[..] else {
        panic!("usage: evaluate_rows FOLDER QUESTIONS EXAMPLES SHOTS THREADS TOKENS_AT_ONCE");
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let rows = |path: &str| -> Vec<Question> {
        let text = std::fs::read_to_string(path).expect("a file of rows");
        serde_json::from_str(&text).expect("rows of questions")
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(number(threads))
        .build_global()
        .expect("the pool is made once");
    let model = CausalLm::open(Path::new(folder)).expect("a model's folder");
    let tokenizer =
        Tokenizer::open(Path::new(folder), model.config().vocabulary()).expect("its tokenizer");
    let (questions, examples) = (rows(questions), rows(examples));
    let harness = Protocol::Harness(Edition::Translated);
    let setting = Setting { shots: number(shots), ..Setting::new(Task::Arc, harness) };
    let began = Instant::now();
    let longest = max_length(&model, &tokenizer);
    let evaluation = Evaluation::new(&setting, (&questions, &examples), &tokenizer, longest)
        .expect("questions that can be asked");
    let scores = evaluation
        .scorer(&model, number(tokens))
        .score_all()
        .expect("a model of the tokenizer's tokens");
    let seconds = began.elapsed().as_secs_f64();
    let of = |item: &ItemScore| -> Vec<f64> {
        item.choices.iter().map(|choice| choice.log_likelihood).collect()
    };
    let found: Vec<Vec<f64>> = scores.iter().map(of).collect();
    println!("{}", json!({ "seconds": seconds, "log_likelihoods": found }));
}
