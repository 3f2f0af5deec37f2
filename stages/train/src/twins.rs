//! Every trainer on a GPU against the same trainer on the processor: a few steps of each on small models, and
//! what their curves and their weights say.

use std::path::Path;

use okapi_device::{Device, Kind};
use okapi_model::twins::{Twin, small};
use okapi_model::{CausalLm, Keep, LoraOptions, ModelError, RewardModel};

use crate::ppo::{self, KlControl, Length, PpoOptions, Prompts};
use crate::{
    AdamWOptions, Average, CheckpointEvery, CurveRow, Example, Outcome, Progress, RankedResponse,
    Ranking, RewardModeling, RewardOptions, Schedule, Select, Sft, TrainError, TrainOptions, Unit,
    Watch, train,
};

const STEPS: u64 = 4;
/// Of the vocabulary of the small models.
const TOKENS: u32 = 500;

/// Compares all trainers. `folder` is for their checkpoints, and empty; `said` is told what is under way.
///
/// # Errors
/// When the GPU fails, or the checkpoints cannot be kept.
pub fn compare(
    device: &Device,
    kind: Kind,
    folder: &Path,
    said: &mut dyn FnMut(&str),
) -> Result<Vec<Twin>, TrainError> {
    let mut found = Vec::new();
    for (name, family, work) in TRAINERS {
        said(name);
        let trained =
            |device: Option<(&Device, Kind)>, place: &str| -> Result<Trained, TrainError> {
                // Both begin with the numbers that the GPU can store.
                let model = small_of(family, kind)?;
                let folder = folder.join(format!("{}-{place}", name.replace([' ', ','], "-")));
                work(model, device, &folder)
            };
        let expected = trained(None, "processor")?;
        let there = trained(Some((device, kind)), "gpu")?;
        if name == "ppo" && kind == Kind::Bf16 {
            // Where probabilities are rounded other tokens are sampled, and what is learnt from them differs.
            found.push(are_numbers(name, kind, &there));
            continue;
        }
        found.extend(compared(name, kind, &expected, &there));
    }
    Ok(found)
}

/// Compares what trainers give on the processor with one thread and with several: it is to be the same.
///
/// # Errors
/// When the checkpoints cannot be kept.
pub fn compare_threads(threads: usize, folder: &Path) -> Result<Vec<Twin>, TrainError> {
    let mut found = Vec::new();
    for (name, family, work) in TRAINERS {
        let trained = |threads: usize| -> Result<Trained, TrainError> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|error| TrainError::Score(error.to_string()))?;
            let folder = folder.join(format!("{}-{threads}", name.replace([' ', ','], "-")));
            pool.install(|| work(small_of(family, Kind::F32)?, None, &folder))
        };
        let (one, several) = (trained(1)?, trained(threads)?);
        let is_same = one.curve == several.curve && one.moved == several.moved;
        let name = format!("{name}, with 1 and {threads} threads");
        let difference = if is_same { 0.0 } else { 1.0 };
        found.push(Twin { name, kind: Kind::F32, difference, bound: 0.0 });
    }
    Ok(found)
}

/// Name, family, work.
const TRAINERS: [(&str, &str, Work); 5] = [
    ("sft", "gpt_neox", sft),
    ("sft, recomputed in parts", "bloom", sft_in_parts),
    ("sft with adapters", "llama", adapters),
    ("reward model", "bloom", reward_model),
    ("ppo", "llama", ppo_iteration),
];

type Work = fn(CausalLm, Option<(&Device, Kind)>, &Path) -> Result<Trained, TrainError>;

/// What a training gave.
struct Trained {
    curve: Vec<CurveRow>,
    /// How far each of the trained numbers has moved.
    moved: Vec<f32>,
}

fn small_of(family: &str, kind: Kind) -> Result<CausalLm, ModelError> {
    small(family, |number| match kind {
        Kind::Bf16 => half::bf16::from_f32(number).to_f32(),
        _ => number,
    })
}

fn compared(name: &str, kind: Kind, expected: &Trained, found: &Trained) -> [Twin; 2] {
    let mut worst = 0f64;
    for (one, other) in expected.curve.iter().zip(&found.curve) {
        // Where two rewards are nearly the same, rounding decides which is higher.
        let steady = |measure: &str| kind == Kind::F32 || !measure.ends_with("accuracy");
        for (measure, one) in one.measures.iter().filter(|(measure, _)| steady(measure)) {
            let other = other.measures.get(measure).copied().unwrap_or(f64::NAN);
            let off = (one - other).abs() / (one.abs() + 0.1);
            worst = if off.is_nan() { f64::NAN } else { worst.max(off) };
        }
    }
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let pairs = expected.moved.iter().zip(&found.moved);
    let apart = square(&mut pairs.map(|(one, other)| f64::from(*one) - f64::from(*other)));
    let moved = square(&mut expected.moved.iter().map(|x| f64::from(*x)));
    // AdamW's first steps are of one size whatever a gradient's is, so that those of rounding alone count as much.
    let (measures, weights) = match kind {
        Kind::F32 => (2e-3, 0.05),
        _ => (0.2, 0.6),
    };
    let twin = |what: &str, difference: f64, bound: f64| Twin {
        name: format!("{name}, {what}"),
        kind,
        difference,
        bound,
    };
    [twin("measures", worst, measures), twin("movement", (apart / moved).sqrt(), weights)]
}

fn are_numbers(name: &str, kind: Kind, found: &Trained) -> Twin {
    let measures = found.curve.iter().flat_map(|row| row.measures.values());
    let moved = found.moved.iter().any(|x| *x != 0.0) && found.moved.iter().all(|x| x.is_finite());
    let is_fine = moved && measures.into_iter().all(|x| x.is_finite());
    let name = format!("{name}, measures and movement are numbers");
    Twin { name, kind, difference: if is_fine { 0.0 } else { 1.0 }, bound: 0.0 }
}

struct Nobody;

impl Watch for Nobody {
    fn step(&mut self, _: &CurveRow, _: Progress) {}

    fn is_stopped(&self) -> bool {
        false
    }
}

/// Has a model trained where it is to be, and sees how far it moved.
fn trained(
    model: &mut CausalLm,
    device: Option<(&Device, Kind)>,
    work: impl FnOnce(&mut CausalLm) -> Result<Outcome, TrainError>,
) -> Result<Trained, TrainError> {
    let trained = |model: &CausalLm| -> Vec<f32> {
        let all = model.parameters().iter().filter(|it| it.is_trained);
        all.flat_map(|it| it.read().into_owned()).collect()
    };
    let before = trained(model);
    if let Some((device, kind)) = device {
        model.move_to_device(device, kind)?;
    }
    let curve = work(model)?.curve;
    model.move_to_host()?;
    let after = trained(model);
    let moved = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    Ok(Trained { curve, moved })
}

fn text(number: u32, count: u32) -> Vec<u32> {
    (0..count).map(|place| (number * 131 + place * place * 7 + place) % TOKENS).collect()
}

fn options() -> TrainOptions {
    TrainOptions {
        epochs: STEPS,
        batch: 6,
        drops_last: false,
        peak: 1e-3,
        warmup: 0,
        schedule: Schedule::Constant,
        adamw: AdamWOptions { weight_decay: 0.01, ..AdamWOptions::default() },
        seed: 3,
        validate_every: 0,
        select: Select::Last,
        checkpoint: CheckpointEvery::default(),
    }
}

fn sft_of(tokens_at_once: usize, keep: Keep) -> Sft {
    let example = |n: u32| Example { tokens: text(n, 20 + 9 * n), read_only: 5 };
    Sft {
        examples: (0..6).map(example).collect(),
        validation: vec![example(7)],
        average: Average::Tokens,
        tokens_at_once,
        keep,
    }
}

fn sft(
    mut model: CausalLm,
    device: Option<(&Device, Kind)>,
    folder: &Path,
) -> Result<Trained, TrainError> {
    let sft = sft_of(4096, Keep::All);
    trained(&mut model, device, |model| train(model, &sft, &options(), folder, &mut Nobody))
}

fn sft_in_parts(
    mut model: CausalLm,
    device: Option<(&Device, Kind)>,
    folder: &Path,
) -> Result<Trained, TrainError> {
    let sft = sft_of(100, Keep::Inputs);
    trained(&mut model, device, |model| train(model, &sft, &options(), folder, &mut Nobody))
}

fn adapters(
    mut model: CausalLm,
    device: Option<(&Device, Kind)>,
    folder: &Path,
) -> Result<Trained, TrainError> {
    let targets = ["q_proj", "k_proj", "v_proj"].map(str::to_owned).into();
    model.add_adapters(&LoraOptions { rank: 8, alpha: 16.0, dropout: 0.05, targets }, 2)?;
    let sft = sft_of(4096, Keep::All);
    trained(&mut model, device, |model| train(model, &sft, &options(), folder, &mut Nobody))
}

fn reward_model(
    model: CausalLm,
    device: Option<(&Device, Kind)>,
    folder: &Path,
) -> Result<Trained, TrainError> {
    let mut model = RewardModel::from_lm(model, 5)?;
    model.train_top(2, false);
    let ranking = |n: u32| {
        let response = |rank: u32| RankedResponse { tokens: text(10 * n + rank, 15 + n), rank };
        Ranking { responses: (0..4).map(response).collect() }
    };
    let rankings: Vec<Ranking> = (0..3).map(ranking).collect();
    let options_of = RewardOptions {
        unit: Unit::Rankings,
        pairs_per_ranking: None,
        tokens_at_once: 4096,
        keep: Keep::All,
    };
    let objective = RewardModeling::new(model.head(), rankings, vec![ranking(5)], options_of);
    let options = TrainOptions { batch: 3, ..options() };
    trained(model.trunk_mut(), device, |trunk| {
        train(trunk, &objective, &options, folder, &mut Nobody)
    })
}

fn ppo_iteration(
    mut model: CausalLm,
    device: Option<(&Device, Kind)>,
    folder: &Path,
) -> Result<Trained, TrainError> {
    let prompts =
        Prompts { train: (0..8).map(|n| text(n, 3 + n)).collect(), validation: vec![text(9, 6)] };
    // What is rewarded are small tokens.
    let scorer = |answers: &[ppo::Answer<'_>]| {
        let score = |answer: &ppo::Answer<'_>| {
            let small = answer.response.iter().filter(|token| **token < TOKENS / 2).count();
            small as f64 / answer.response.len() as f64
        };
        Ok(answers.iter().map(score).collect())
    };
    let options = PpoOptions {
        length: Length::Iterations(1),
        rollouts: 8,
        passes: 2,
        batch: 4,
        trained_blocks: 2,
        peak: 1e-3,
        warmup: 0,
        kl: KlControl::Fixed(0.05),
        max_new_tokens: 6,
        seed: 4,
        ..PpoOptions::default()
    };
    model.train_top(options.trained_blocks, false);
    trained(&mut model, device, |model| {
        ppo::train(model, &prompts, &scorer, &options, folder, &mut Nobody)
    })
}
