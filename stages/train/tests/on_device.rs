//! Trainings on a GPU that are interrupted, run out of memory and come back, by kernels that run on the processor.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::path::Path;

use okapi_device::{Device, Kind};
use okapi_model::twins::small;
use okapi_model::{CausalLm, GenerateOptions, Keep, LoraOptions};
use okapi_train::ppo::{self, Answer, KlControl, Length, PpoOptions, Prompts};
use okapi_train::{
    AdamWOptions, Average, CheckpointEvery, CurveRow, Example, Outcome, Progress, Schedule, Select,
    Sft, TrainError, TrainOptions, Watch, train,
};

struct Stop(Option<u64>, Cell<u64>);

impl Watch for Stop {
    fn step(&mut self, row: &CurveRow, _: Progress) {
        self.1.set(row.step);
    }

    fn is_stopped(&self) -> bool {
        self.0 == Some(self.1.get())
    }
}

fn until(step: Option<u64>) -> Stop {
    Stop(step, Cell::new(0))
}

fn text(number: u32, count: u32) -> Vec<u32> {
    (0..count).map(|place| (number * 131 + place * place * 7 + place) % 500).collect()
}

fn sft() -> Sft {
    let example = |n: u32| Example { tokens: text(n, 12 + 5 * n), read_only: 3 };
    Sft {
        examples: (0..6).map(example).collect(),
        validation: vec![example(7)],
        average: Average::Tokens,
        tokens_at_once: 60,
        keep: Keep::Inputs,
    }
}

fn options(select: Select) -> TrainOptions {
    TrainOptions {
        epochs: 2,
        batch: 3,
        drops_last: false,
        peak: 3e-3,
        warmup: 0,
        schedule: Schedule::Constant,
        adamw: AdamWOptions { weight_decay: 0.01, ..AdamWOptions::default() },
        seed: 3,
        validate_every: 1,
        select,
        checkpoint: CheckpointEvery::default(),
    }
}

/// Numbers that bfloat16 cannot hold.
fn model(family: &str) -> CausalLm {
    small(family, |number| number * 1.000_3).unwrap()
}

fn bits(model: &CausalLm) -> Vec<(String, Vec<u32>)> {
    let of = |it: &okapi_model::Parameter| {
        (it.name.clone(), it.read().iter().map(|x| x.to_bits()).collect())
    };
    model.parameters().iter().map(of).collect()
}

type Run = dyn Fn(&mut CausalLm, &Path, Option<u64>) -> Result<Outcome, TrainError>;

/// Whether a training that is stopped after a step, and gone on with by another process, ends as one that is not.
fn resumes(kind: Kind, family: &str, prepare: &dyn Fn(&mut CausalLm), run: &Run) {
    let there = |device: &Device| {
        let mut model = model(family);
        prepare(&mut model);
        model.move_to_device(device, kind).unwrap();
        model
    };
    let folder = tempfile::tempdir().unwrap();
    let mut whole = there(&Device::emulated(1 << 30));
    let expected = run(&mut whole, &folder.path().join("whole"), None).unwrap();
    whole.move_to_host().unwrap();
    let parts = folder.path().join("parts");
    for step in [1, 2] {
        let mut part = there(&Device::emulated(1 << 30));
        let stopped = run(&mut part, &parts, Some(step));
        assert!(matches!(stopped, Err(TrainError::Stopped { .. })), "{stopped:?}");
    }
    let mut rest = there(&Device::emulated(1 << 30));
    let found = run(&mut rest, &parts, None).unwrap();
    rest.move_to_host().unwrap();
    assert_eq!(found, expected);
    assert!(bits(&rest) == bits(&whole));
}

#[test]
fn a_training_on_a_gpu_goes_on_as_if_nothing_had_happened() {
    for kind in [Kind::F32, Kind::Bf16] {
        for select in [Select::Last, Select::Best] {
            resumes(kind, "bloom", &|_| {}, &move |model, folder, stop| {
                train(model, &sft(), &options(select), folder, &mut until(stop))
            });
        }
    }
}

#[test]
fn adapters_on_a_gpu_go_on_as_if_nothing_had_happened() {
    let adapt = |model: &mut CausalLm| {
        let targets = ["q_proj", "v_proj"].map(str::to_owned).into();
        let options = LoraOptions { rank: 4, alpha: 8.0, dropout: 0.1, targets };
        model.add_adapters(&options, 2).unwrap();
    };
    resumes(Kind::Bf16, "llama", &adapt, &|model, folder, stop| {
        train(model, &sft(), &options(Select::Best), folder, &mut until(stop))
    });
}

#[test]
fn ppo_on_a_gpu_goes_on_as_if_nothing_had_happened() {
    let options = PpoOptions {
        length: Length::Iterations(3),
        rollouts: 6,
        passes: 2,
        batch: 3,
        trained_blocks: 1,
        peak: 1e-3,
        kl: KlControl::Adaptive { initial: 0.1, target: 1.0, horizon: 20.0 },
        max_new_tokens: 5,
        seed: 4,
        ..PpoOptions::default()
    };
    resumes(
        Kind::Bf16,
        "gpt_neox",
        &|model| model.train_top(1, false),
        &move |model, folder, stop| {
            let prompts = Prompts {
                train: (0..8).map(|n| text(n, 3 + n)).collect(),
                validation: vec![text(9, 6)],
            };
            let scorer = |answers: &[Answer<'_>]| {
                let small =
                    |it: &Answer<'_>| it.response.iter().filter(|token| **token < 250).count();
                Ok(answers.iter().map(|it| small(it) as f64 / it.response.len() as f64).collect())
            };
            ppo::train(model, &prompts, &scorer, &options, folder, &mut until(stop))
        },
    );
}

/// What enough memory for the whole of a training is, is enough to go on with it.
#[test]
fn going_on_takes_no_more_memory_than_the_training() {
    let run = |memory: usize, folder: &Path, stop: Option<u64>| {
        let mut model = model("bloom");
        model.move_to_device(&Device::emulated(memory), Kind::Bf16)?;
        train(&mut model, &sft(), &options(Select::Last), folder, &mut until(stop))
    };
    // The least that suffices.
    let (mut low, mut high) = (1 << 20, 1 << 26);
    while high - low > 1 << 12 {
        let middle = (low + high) / 2;
        let folder = tempfile::tempdir().unwrap();
        match run(middle, folder.path(), None) {
            Ok(_) => high = middle,
            Err(_) => low = middle,
        }
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(run(high, folder.path(), Some(1)), Err(TrainError::Stopped { .. })));
    let rest = run(high, folder.path(), None);
    assert!(rest.is_ok(), "{:?}", rest.err());
}

/// What is frozen comes back from a GPU as it went there.
#[test]
fn what_is_frozen_is_not_rounded_away() {
    let mut model = model("llama");
    let targets = ["q_proj", "v_proj"].map(str::to_owned).into();
    let lora = LoraOptions { rank: 4, alpha: 8.0, dropout: 0.0, targets };
    model.add_adapters(&lora, 2).unwrap();
    let before = bits(&model);
    model.move_to_device(&Device::emulated(1 << 30), Kind::Bf16).unwrap();
    model.move_to_host().unwrap();
    let changed = before.iter().zip(bits(&model)).filter(|(one, other)| *one != other);
    let names: Vec<_> = changed.map(|(one, _)| &one.0).collect();
    assert!(names.is_empty(), "{names:?}");
}

/// Rows take no more of a GPU than the tokens that they can ever hold.
#[test]
fn caches_do_not_outgrow_their_rows() {
    let generate = |memory: usize| {
        let mut model = model("bloom");
        model.move_to_device_to_ask(&Device::emulated(memory), Kind::Bf16)?;
        let prompt = text(1, 40);
        let options =
            GenerateOptions { max_new_tokens: 200, samples: 4, ..GenerateOptions::default() };
        model.generate(&[prompt], &options, &mut ()).map_err(|error| match error {
            okapi_model::GenerateError::Model(error) => error,
            other => panic!("{other}"),
        })?;
        Ok::<_, okapi_model::ModelError>(model)
    };
    let model = generate(1 << 30).unwrap();
    let caches = 4 * (40 + 199) * model.blocks() * 2 * model.hidden() * 2;
    let weights = 2 * model.parameters().count();
    // Logits of four rows, and what a pass over the prompt takes on its way.
    let others = 2 << 20;
    generate(weights + caches + others).unwrap();
}

/// A device that fails at any place leaves checkpoints that another goes on from as if nothing had happened.
#[test]
fn a_device_that_fails_leaves_nothing_wrong() {
    let options = TrainOptions {
        checkpoint: CheckpointEvery { steps: Some(1), time: None },
        ..options(Select::Best)
    };
    let run = |memory: usize, folder: &Path| {
        let mut model = model("bloom");
        model.move_to_device(&Device::emulated(memory), Kind::Bf16)?;
        let outcome = train(&mut model, &sft(), &options, folder, &mut until(None))?;
        model.move_to_host()?;
        Ok::<_, TrainError>((outcome, bits(&model)))
    };
    let folder = tempfile::tempdir().unwrap();
    let expected = run(1 << 30, &folder.path().join("whole")).unwrap();
    let mut failed = 0;
    // From where nothing fits to where the longest batch alone does not, after a first step.
    for (number, memory) in
        [1_600_000, 4_000_000].into_iter().chain((6_340_000..6_460_000).step_by(10_000)).enumerate()
    {
        let folder = folder.path().join(number.to_string());
        failed += usize::from(run(memory, &folder).is_err());
        assert!(run(1 << 30, &folder).unwrap() == expected, "{memory}");
    }
    assert!(failed > 3);
}
