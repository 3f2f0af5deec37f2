//! What is said of memory before a training, against what an allocator that counts has seen of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use okapi_model::sizes::{Sizes, SpecialTokens, new_config};
use okapi_model::{CausalLm, Gradients, Keep, LoraOptions, Memory};
use okapi_train::{AdamW, AdamWOptions, Average, Batch, Example, Objective, Sft};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What the product of matrices packs, and what is too small to be counted.
const SLACK: usize = 24 << 20;

fn config(family: &str) -> serde_json::Value {
    let sizes = Sizes {
        layers: 4,
        hidden: 256,
        heads: 4,
        key_value_heads: if family == "llama" { 2 } else { 4 },
        intermediate: 1024,
        positions: 1024,
    };
    new_config(family, &sizes, 4000, SpecialTokens { bos: 1, eos: 2, pad: 3 }).unwrap()
}

/// Bytes that a step takes at most, all in all.
fn measured(model: &mut CausalLm, tokens: usize, keep: Keep) -> usize {
    let text = |n: u32| (0..256).map(|place| (n * 7919 + place * 104_729) % 4000).collect();
    let examples: Vec<Example> =
        (0..tokens as u32 / 256).map(|n| Example { tokens: text(n), read_only: 0 }).collect();
    let all: Vec<u32> = (0..examples.len() as u32).collect();
    let sft = Sft {
        examples,
        validation: Vec::new(),
        average: Average::Tokens,
        tokens_at_once: tokens,
        keep,
    };
    let mut optimiser = AdamW::new(AdamWOptions::default(), model.parameters());
    let mut gradients = Gradients::zeros(model.parameters());
    ALLOCATOR.reset_peak_usage();
    let batch = Batch { examples: &all, step: 0, epoch: 0, seed: 0 };
    sft.learn(model, &batch, &mut gradients, &mut |_, _| Ok(())).unwrap();
    optimiser.step(model.parameters_mut(), &gradients, 1e-4);
    ALLOCATOR.peak_usage()
}

fn agree(what: &str, said: Memory, measured: usize) {
    let said = said.total() as usize;
    assert!(measured < said + SLACK, "{what}: said {said}, taken {measured}");
    assert!(said < measured + measured / 5 + 3 * SLACK, "{what}: said {said}, taken {measured}");
}

const TOKENS: usize = 4096;

#[test]
fn what_is_said_is_what_is_taken() {
    for (family, keep) in [
        ("bloom", Keep::All),
        ("llama", Keep::All),
        ("gpt_neox", Keep::All),
        ("llama", Keep::Inputs),
    ] {
        let mut model = CausalLm::new(config(family), 1).unwrap();
        let learning = model.config().learning(|_| true);
        let said = model.config().training_memory(learning, TOKENS, keep);
        agree(&format!("{family}, {keep:?}"), said, measured(&mut model, TOKENS, keep));
    }
    // What is frozen takes no more than its weights. All of it is one test: the allocator counts what the
    // whole process takes.
    let mut model = CausalLm::new(config("llama"), 1).unwrap();
    let is_top = |name: &str| name.contains(".3.");
    for parameter in model.parameters_mut().iter_mut() {
        parameter.is_trained = is_top(&parameter.name);
    }
    let learning = model.config().learning(is_top);
    assert_eq!(learning.blocks, 1);
    let said = model.config().training_memory(learning, TOKENS, Keep::All);
    agree("top", said, measured(&mut model, TOKENS, Keep::All));

    let mut model = CausalLm::new(config("bloom"), 1).unwrap();
    let targets = vec!["query_key_value".to_owned()];
    let options = LoraOptions { rank: 8, alpha: 16.0, dropout: 0.05, targets };
    let learning = model.config().adapters(&options);
    let before = model.parameters().count() as u64;
    model.add_adapters(&options, 1).unwrap();
    assert_eq!(model.parameters().count() as u64, before + learning.beside);
    let said = model.config().training_memory(learning, TOKENS, Keep::All);
    agree("adapters", said, measured(&mut model, TOKENS, Keep::All));
}
