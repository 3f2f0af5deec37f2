//! Training against PyTorch's (`tests/fixtures/training/make.py`), and against itself: interrupted, with other
//! threads, with parts frozen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::tensor_file::TensorFile;
use okapi_model::{CausalLm, Gradients, Keep, LoraOptions};
use okapi_train::{
    AdamW, AdamWOptions, Average, Batch, CheckpointEvery, CurveRow, Example, LearningRate,
    Objective, Outcome, Part, Progress, Schedule, Select, Sft, TrainError, TrainOptions, Watch,
    train,
};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("training/expected.json")).unwrap())
        .unwrap()
}

fn model(name: &str) -> CausalLm {
    CausalLm::open(&fixtures().join("models").join(name)).unwrap()
}

fn examples(micro_batch: &Value) -> Vec<Example> {
    let sequences: Vec<Vec<u32>> =
        serde_json::from_value(micro_batch["sequences"].clone()).unwrap();
    let uncounted: Vec<usize> = serde_json::from_value(micro_batch["uncounted"].clone()).unwrap();
    let pairs = sequences.into_iter().zip(uncounted);
    pairs.map(|(tokens, read_only)| Example { tokens, read_only }).collect()
}

fn sft(examples: Vec<Example>, tokens_at_once: usize) -> Sft {
    let average = Average::Tokens;
    Sft { examples, validation: Vec::new(), average, tokens_at_once, keep: Keep::All }
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    let expected = &expected()["adamw"];
    let number = |name: &str| expected[name].as_f64().unwrap();
    let rate = LearningRate {
        peak: number("learning_rate"),
        warmup: 3,
        total: 10,
        schedule: Schedule::Cosine,
    };
    for name in ["bloom", "llama", "gpt_neox"] {
        let mut model = model(name);
        let mut optimiser = AdamW::new(
            AdamWOptions {
                weight_decay: number("weight_decay"),
                max_norm: Some(number("max_norm")),
                ..AdamWOptions::default()
            },
            model.parameters(),
        );
        for (step, theirs) in
            expected["models"][name]["steps"].as_array().unwrap().iter().enumerate()
        {
            let parts = theirs["micro_batches"].as_array().unwrap().iter();
            let examples: Vec<Example> = parts
                .flat_map(|part| {
                    examples(&expected["micro_batches"][part.as_u64().unwrap() as usize])
                })
                .collect();
            let all: Vec<u32> = (0..examples.len() as u32).collect();
            let batch = Batch { examples: &all, step: step as u64, epoch: 0, seed: 0 };
            let mut gradients = Gradients::zeros(model.parameters());
            // Few tokens at once: the batch is computed in parts.
            let measures = sft(examples, 12)
                .learn(&model, &batch, &mut gradients, &mut |_, _| Ok(()))
                .unwrap();
            let rate = rate.at(step as u64);
            let norm = optimiser.step(model.parameters_mut(), &gradients, rate);
            for (what, ours) in
                [("loss", measures.loss), ("gradient_norm", norm), ("learning_rate", rate)]
            {
                let theirs = theirs[what].as_f64().unwrap();
                let off = (ours - theirs).abs() / theirs.abs().max(1e-12);
                assert!(off < 5e-6, "{name}, step {step}, {what}: {ours} {theirs}");
            }
        }
        let path = fixtures().join(format!("training/{name}_after_ten.safetensors"));
        let after = TensorFile::open(&path).unwrap();
        for parameter in model.parameters().iter() {
            // A bias of keys changes nothing, so its gradient is noise, and Adam makes steps of it.
            let is_noise = parameter.name.ends_with("query_key_value.bias");
            let tolerance = if is_noise { 3e-4 } else { 3e-6 };
            for (ours, theirs) in parameter.values.iter().zip(after.read(&parameter.name).unwrap())
            {
                let off = (ours - theirs).abs();
                assert!(off < tolerance, "{name}, {}: {ours} {theirs}", parameter.name);
            }
        }
    }
}

#[test]
fn learning_rates_are_those_of_transformers() {
    let expected = &expected()["adamw"]["learning_rates"];
    for (name, schedule) in [
        ("cosine", Schedule::Cosine),
        ("linear", Schedule::Linear),
        ("constant", Schedule::Constant),
    ] {
        let rate = LearningRate { peak: 1e-3, warmup: 3, total: 10, schedule };
        for (step, theirs) in expected[name].as_array().unwrap().iter().enumerate() {
            let theirs = theirs.as_f64().unwrap();
            assert!((rate.at(step as u64) - theirs).abs() < 1e-12, "{name}, {step}");
        }
    }
    let one = LearningRate { peak: 1.0, warmup: 0, total: 1, schedule: Schedule::Linear };
    assert_eq!(one.at(0), 1.0);
}

/// Looks on, and asks to stop after a step, or is killed after one.
#[derive(Default)]
struct Looker {
    stop_after: Option<u64>,
    kill_after: Option<u64>,
    /// Stops after so many parts of this name.
    stop_in: Option<(&'static str, u64)>,
    last: u64,
    steps: u64,
    resumed: u64,
}

impl Watch for Looker {
    fn step(&mut self, row: &CurveRow, progress: Progress) {
        assert!(progress.tokens_per_second >= 0.0 && row.step <= progress.total);
        self.last = row.step;
        self.steps += 1;
        assert!(self.kill_after != Some(row.step), "killed on purpose");
    }

    fn part(&mut self, part: Part) {
        if let Some((name, left)) = &mut self.stop_in {
            *left -= u64::from(*name == part.name && *left > 0);
        }
    }

    fn resumed(&mut self, step: u64) {
        self.resumed = step;
    }

    fn is_stopped(&self) -> bool {
        self.stop_after == Some(self.last) || self.stop_in.is_some_and(|(_, left)| left == 0)
    }
}

fn options() -> TrainOptions {
    TrainOptions {
        epochs: 3,
        batch: 4,
        drops_last: false,
        peak: 3e-3,
        warmup: 2,
        schedule: Schedule::Cosine,
        adamw: AdamWOptions { weight_decay: 0.05, ..AdamWOptions::default() },
        seed: 11,
        validate_every: 0,
        select: Select::Last,
        checkpoint: CheckpointEvery::default(),
    }
}

/// Texts in which a token is followed by its successor.
fn counting(count: u32) -> Vec<Example> {
    let example = |n: u32| {
        let tokens = (0..5 + n % 7).map(|place| 3 + (n * 5 + place) % 40).collect();
        Example { tokens, read_only: n as usize % 3 }
    };
    (0..count).map(example).collect()
}

fn counting_sft() -> Sft {
    Sft { validation: counting(5), ..sft(counting(18), 30) }
}

fn run(
    name: &str,
    options: &TrainOptions,
    folder: &Path,
    looker: &mut Looker,
) -> (CausalLm, Result<Outcome, TrainError>) {
    let mut trained = model(name.trim_end_matches(" with adapters"));
    if name.ends_with("with adapters") {
        let targets = vec!["q_proj".to_owned(), "v_proj".to_owned()];
        let lora = LoraOptions { rank: 4, alpha: 8.0, dropout: 0.2, targets };
        trained.add_adapters(&lora, 5).unwrap();
    }
    let outcome = train(&mut trained, &counting_sft(), options, folder, looker);
    (trained, outcome)
}

#[test]
fn a_training_that_is_interrupted_ends_as_one_that_is_not() {
    for (name, select) in
        [("bloom", Select::Last), ("llama", Select::Best), ("llama with adapters", Select::Last)]
    {
        let options = TrainOptions { select, ..options() };
        let whole = tempfile::tempdir().unwrap();
        let (model, outcome) = run(name, &options, whole.path(), &mut Looker::default());
        let outcome = outcome.unwrap();
        assert_eq!(outcome.curve.len(), 15);
        let losses: Vec<f64> = outcome.curve.iter().map(|row| row.measures["loss"]).collect();
        assert!(losses[14] < losses[0], "nothing was learnt: {losses:?}");
        assert!(outcome.curve[4].measures.contains_key("validation_loss"));
        // Stopped in turn after every step; with a checkpoint every second one, as a kill finds it.
        let parts = tempfile::tempdir().unwrap();
        for stop_after in 1..15 {
            let mut looker = Looker { stop_after: Some(stop_after), ..Looker::default() };
            let (_, stopped) = run(name, &options, parts.path(), &mut looker);
            let stopped = stopped.unwrap_err();
            assert!(matches!(stopped, TrainError::Stopped { step } if step == stop_after));
            assert_eq!(looker.last, stop_after, "it went on from where it was");
        }
        let (again, end) = run(name, &options, parts.path(), &mut Looker::default());
        assert_eq!(end.unwrap(), outcome);
        assert!(again.parameters() == model.parameters(), "{name}: other weights");
        // Killed at step 9, with a checkpoint of step 8.
        let killed = tempfile::tempdir().unwrap();
        let checkpoint = CheckpointEvery { steps: Some(4), time: None };
        let options = TrainOptions { checkpoint, ..options };
        let kill = std::panic::catch_unwind(|| {
            let mut looker = Looker { kill_after: Some(9), ..Looker::default() };
            run(name, &options, killed.path(), &mut looker)
        });
        assert!(kill.is_err());
        let mut looker = Looker::default();
        let (again, end) = run(name, &options, killed.path(), &mut looker);
        assert_eq!((end.unwrap(), looker.steps), (outcome, 7));
        assert!(again.parameters() == model.parameters());
    }
}

#[test]
fn a_training_that_is_stopped_within_a_step_ends_as_one_that_is_not() {
    for select in [Select::Last, Select::Best] {
        let options = TrainOptions { select, ..options() };
        let whole = tempfile::tempdir().unwrap();
        let (model, outcome) = run("llama", &options, whole.path(), &mut Looker::default());
        let outcome = outcome.unwrap();
        let parts = tempfile::tempdir().unwrap();
        let (mut stops, mut before) = (0, 0);
        for stop_in in
            [("parts", 4), ("validation", 1), ("parts", 5), ("validation", 1), ("validation", 1)]
        {
            let mut looker = Looker { stop_in: Some(stop_in), ..Looker::default() };
            let (_, stopped) = run("llama", &options, parts.path(), &mut looker);
            assert_eq!(looker.resumed, before, "it went on from where it was");
            if let Err(TrainError::Stopped { step }) = stopped {
                stops += 1;
                before = step;
            }
        }
        assert!(stops > 3, "only {stops} stops hit the training");
        let mut looker = Looker::default();
        let (again, end) = run("llama", &options, parts.path(), &mut looker);
        assert_eq!(end.unwrap(), outcome);
        assert!(again.parameters() == model.parameters(), "other weights");
    }
}

#[test]
fn a_checkpoint_with_another_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = options();
    let mut looker = Looker { stop_after: Some(3), ..Looker::default() };
    run("bloom", &options, folder.path(), &mut looker).1.unwrap_err();
    let path = folder.path().join("state.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let said = run("bloom", &options, folder.path(), &mut Looker::default()).1.unwrap_err();
    assert!(said.to_string().contains("state.safetensors: it is damaged"), "{said}");
}

#[test]
fn steps_leave_out_what_is_theirs() {
    let mut model = model("llama");
    let lora =
        LoraOptions { rank: 4, alpha: 8.0, dropout: 0.5, targets: vec!["v_proj".to_owned()] };
    model.add_adapters(&lora, 5).unwrap();
    for parameter in model.parameters_mut().iter_mut().filter(|it| it.is_trained) {
        parameter.values.fill(0.3);
    }
    let objective = counting_sft();
    let loss = |step, seed| {
        let batch = Batch { examples: &[0, 1, 2], step, epoch: 0, seed };
        let mut gradients = Gradients::zeros(model.parameters());
        objective.learn(&model, &batch, &mut gradients, &mut |_, _| Ok(())).unwrap().loss
    };
    assert_eq!(loss(1, 2), loss(1, 2));
    assert!(loss(1, 2) != loss(2, 2) && loss(1, 2) != loss(1, 3));
}

#[test]
fn the_same_bytes_come_out_with_any_threads() {
    let train = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        pool.install(|| run("gpt_neox", &options(), folder.path(), &mut Looker::default()))
    };
    let (model, outcome) = train(1);
    let outcome = outcome.unwrap();
    for threads in [2, 3] {
        let (other, end) = train(threads);
        assert_eq!(end.unwrap(), outcome);
        assert!(other.parameters() == model.parameters(), "{threads} threads");
    }
}

#[test]
fn what_is_frozen_stays_and_all_else_moves() {
    for name in ["bloom", "llama", "gpt_neox"] {
        for frozen in ["", ".0."] {
            let mut model = model(name);
            for parameter in model.parameters_mut().iter_mut() {
                parameter.is_trained = frozen.is_empty() || !parameter.name.contains(frozen);
            }
            let before = model.parameters().clone();
            let folder = tempfile::tempdir().unwrap();
            let objective = counting_sft();
            train(&mut model, &objective, &options(), folder.path(), &mut Looker::default())
                .unwrap();
            for (before, after) in before.iter().zip(model.parameters().iter()) {
                let is_same = before.values == after.values;
                assert_eq!(is_same, !after.is_trained, "{name}, {}", after.name);
            }
        }
    }
}

#[test]
fn what_cannot_be_trained_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = |objective: &Sft, options: &TrainOptions| {
        let mut model = model("bloom");
        let error = train(&mut model, objective, options, folder.path(), &mut Looker::default());
        error.unwrap_err().to_string()
    };
    assert!(said(&sft(Vec::new(), 30), &options()).contains("no examples"));
    let strange = Example { tokens: vec![5, 48, 6], read_only: 0 };
    assert!(said(&sft(vec![strange], 30), &options()).contains("the token 48 is not among"));
    let wild = TrainOptions { peak: 1e30, warmup: 0, ..options() };
    assert!(said(&counting_sft(), &wild).contains("diverged at step 2"));
}

#[test]
fn a_batch_in_parts_is_the_same_batch() {
    let model = model("llama");
    let all: Vec<u32> = (0..18).collect();
    let batch = Batch { examples: &all, step: 0, epoch: 0, seed: 0 };
    let learn = |tokens_at_once: usize, average: Average| {
        let mut gradients = Gradients::zeros(model.parameters());
        let objective = Sft { average, ..sft(counting(18), tokens_at_once) };
        let measures = objective.learn(&model, &batch, &mut gradients, &mut |_, _| Ok(())).unwrap();
        (measures.loss, gradients)
    };
    for average in [Average::Tokens, Average::Examples] {
        let (whole, gradients) = learn(1000, average);
        for tokens_at_once in [1, 20, 60] {
            let (loss, others) = learn(tokens_at_once, average);
            assert!((loss - whole).abs() < 1e-6);
            for (one, other) in gradients.iter().flatten().zip(others.iter().flatten()) {
                for (one, other) in one.host().iter().zip(other.host()) {
                    assert!((one - other).abs() < 1e-5, "{one} {other}");
                }
            }
        }
    }
    assert_ne!(learn(1000, Average::Tokens).0, learn(1000, Average::Examples).0);
}
