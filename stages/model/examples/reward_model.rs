//! What `tests/fixtures/training/check_reward_model.py` asks of this crate: makes the folder of a reward model,
//! and computes rewards.
//!
//! ```text
//! reward_model make <folder of a language model> <folder to be written>
//! reward_model score <folder of a reward model> <texts.json> <rewards.json to be written>
//! ```
//!
//! Texts are a list of lists of tokens.

use std::error::Error;
use std::path::Path;

use okapi_model::{CausalLm, RewardModel, Sequences};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["make", lm, folder] => {
            let lm = CausalLm::open(Path::new(lm))?;
            let kind = lm.number_kind();
            RewardModel::from_lm(lm, 1)?.save(Path::new(folder), kind)?;
        }
        ["score", folder, texts, rewards] => {
            let model = RewardModel::open(Path::new(folder))?;
            let texts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(texts)?)?;
            let found = model.rewards(&Sequences::new(&texts))?;
            std::fs::write(rewards, serde_json::to_string(&found)?)?;
        }
        _ => return Err("see the first lines of the source for its arguments".into()),
    }
    Ok(())
}
