//! Steps of supervised fine-tuning on a model's folder, for `benches/train.py`.
//!
//! ```text
//! sft_steps FOLDER STEPS THREADS (full | forward | lora | top=N)
//! ```
//!
//! Prints a line for each step: its seconds and its loss. Every step sees 8 texts of 256 tokens.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a program for measurements")]

use std::path::Path;
use std::time::Instant;

use okapi_model::{CausalLm, Gradients, Keep, LoraOptions};
use okapi_train::{AdamW, AdamWOptions, Average, Batch, Example, Objective, Sft};

/// As in okapi's own program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, steps, threads, mode] = &arguments[..] else {
        panic!("usage: sft_steps FOLDER STEPS THREADS (full | forward | lora | top=N)");
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    rayon::ThreadPoolBuilder::new()
        .num_threads(number(threads))
        .build_global()
        .expect("the pool is made once");
    let mut model = CausalLm::open(Path::new(folder)).expect("a model's folder");
    if mode == "lora" {
        let targets = ["q_proj", "k_proj", "v_proj", "query_key_value"].map(str::to_owned);
        let options = LoraOptions { rank: 8, alpha: 16.0, dropout: 0.05, targets: targets.into() };
        model.add_adapters(&options, 1).expect("a model with attention");
    } else if let Some(top) = mode.strip_prefix("top=") {
        let layers = model.blocks();
        let is_top = |name: &str| {
            (layers - number(top)..layers).any(|layer| name.contains(&format!(".{layer}.")))
        };
        for parameter in model.parameters_mut().iter_mut() {
            parameter.is_trained = is_top(&parameter.name);
        }
    }
    let vocabulary = model.vocabulary() as u32;
    let text =
        |n: u32| (0..256u32).map(|place| (n * 7919 + place * 104_729) % vocabulary).collect();
    let examples = (0..8).map(|n| Example { tokens: text(n), read_only: 0 }).collect();
    let sft = Sft {
        validation: Vec::new(),
        examples,
        average: Average::Tokens,
        tokens_at_once: 2048,
        keep: Keep::All,
    };
    let all: Vec<u32> = (0..8).collect();
    let mut optimiser = AdamW::new(AdamWOptions::default(), model.parameters());
    let mut gradients = Gradients::zeros(model.parameters());
    let forward = Sft { validation: sft.examples.clone(), ..sft.clone() };
    for step in 0..number(steps) as u64 {
        let batch = Batch { examples: &all, step, epoch: 0, seed: 0 };
        let began = Instant::now();
        let loss = if mode == "forward" {
            forward
                .validate(&model, &mut |_, _| Ok(()))
                .expect("known tokens")
                .expect("examples")
                .loss
        } else {
            gradients.clear();
            let measures = sft
                .learn(&model, &batch, &mut gradients, &mut |_, _| Ok(()))
                .expect("known tokens");
            optimiser.step(model.parameters_mut(), &gradients, 1e-5);
            measures.loss
        };
        println!("{:.4} {loss:.6}", began.elapsed().as_secs_f64());
    }
}
