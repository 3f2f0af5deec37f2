//! Sampling from a model's folder, for `benches/generate.py`.
//!
//! ```text
//! generate_rows FOLDER ROWS PROMPT NEW THREADS TEMPERATURE TOP_K TOP_P
//! ```
//!
//! Prints the seconds of `NEW` tokens for each of `ROWS` prompts of `PROMPT` tokens, after a short generation
//! that is not timed. A `TOP_K` of 0 keeps all tokens.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a program for measurements")]

use std::path::Path;
use std::time::Instant;

use okapi_model::{CausalLm, GenerateOptions, SamplingOptions};

/// As in okapi's own program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, rows, prompt, new, threads, temperature, top_k, top_p] = &arguments[..] else {
        panic!("usage: generate_rows FOLDER ROWS PROMPT NEW THREADS TEMPERATURE TOP_K TOP_P");
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let share = |text: &str| text.parse::<f64>().expect("a number");
    rayon::ThreadPoolBuilder::new()
        .num_threads(number(threads))
        .build_global()
        .expect("the pool is made once");
    let model = CausalLm::open(Path::new(folder)).expect("a model's folder");
    let vocabulary = model.vocabulary();
    let token = |n: usize, place: usize| ((n * 7919 + place * 104_729) % vocabulary) as u32;
    let prompts: Vec<Vec<u32>> = (0..number(rows))
        .map(|n| (0..number(prompt)).map(|place| token(n, place)).collect())
        .collect();
    for new in [4, number(new)] {
        let options = GenerateOptions {
            sampling: SamplingOptions {
                temperature: share(temperature),
                top_k: Some(number(top_k)).filter(|count| *count > 0),
                top_p: share(top_p),
                repetition_penalty: 1.0,
            },
            max_new_tokens: new,
            rows_at_once: prompts.len(),
            ..GenerateOptions::default()
        };
        let began = Instant::now();
        let generated = model.generate(&prompts, &options, &mut ()).expect("prompts that fit");
        let seconds = began.elapsed().as_secs_f64();
        let count: usize = generated.iter().flatten().map(|row| row.tokens.len()).sum();
        assert_eq!(count, prompts.len() * new, "no row ends early");
        if new > 4 {
            println!("{seconds:.4}");
        }
    }
}
