//! Training of reward models: the loss and its gradients against PyTorch's (`tests/fixtures/training/make.py`),
//! a task that can be learnt, and trainings that are interrupted, frozen in part, or run by other threads.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::random::{Purpose, Random};
use okapi_model::tensor_file::{NumberKind, TensorFile};
use okapi_model::{CausalLm, Gradients, Keep, RewardModel, Sequences};
use okapi_train::{
    AdamWOptions, Batch, CheckpointEvery, CurveRow, Measures, Objective, Outcome, Progress,
    RankedResponse, Ranking, RewardModeling, RewardOptions, Schedule, Select, TrainError,
    TrainOptions, Unit, Watch, train,
};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn reward_model(name: &str) -> RewardModel {
    let lm = CausalLm::open(&fixtures().join("models").join(name)).unwrap();
    RewardModel::from_lm(lm, 3).unwrap()
}

fn ranking(texts: &[Vec<u32>], ranks: &[u32]) -> Ranking {
    let responses = texts.iter().zip(ranks);
    let response =
        |(tokens, rank): (&Vec<u32>, &u32)| RankedResponse { tokens: tokens.clone(), rank: *rank };
    Ranking { responses: responses.map(response).collect() }
}

const OPTIONS: RewardOptions = RewardOptions {
    unit: Unit::Rankings,
    pairs_per_ranking: None,
    tokens_at_once: 200,
    keep: Keep::All,
};

fn learn(
    model: &RewardModel,
    rankings: &[Ranking],
    options: RewardOptions,
    (step, epoch): (u64, u64),
) -> (Measures, Gradients) {
    let objective = RewardModeling::new(model.head(), rankings.to_vec(), Vec::new(), options);
    let all: Vec<u32> = (0..objective.examples() as u32).collect();
    let batch = Batch { examples: &all, step, epoch, seed: 0 };
    let mut gradients = Gradients::zeros(model.trunk().parameters());
    (objective.learn(model.trunk(), &batch, &mut gradients, &mut |_, _| Ok(())).unwrap(), gradients)
}

#[test]
fn the_loss_and_its_gradients_are_those_of_pytorch() {
    let text = std::fs::read(fixtures().join("training/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let texts: Vec<Vec<u32>> =
        serde_json::from_value(expected["batch"]["sequences"].clone()).unwrap();
    // Ranks that give exactly their pairs.
    let expected = &expected["reward"];
    assert_eq!(expected["pairs"], serde_json::json!([[0, 1], [2, 1]]));
    let ranking = ranking(&texts[..3], &[1, 2, 1]);
    for (name, theirs) in expected["models"].as_object().unwrap() {
        let mut model = reward_model(name);
        let score = model.trunk_mut().parameters_mut().iter_mut().last().unwrap();
        score.values = serde_json::from_value(theirs["head"].clone()).unwrap();
        let rankings = [ranking.clone()];
        let (measures, gradients) = learn(&model, &rankings, OPTIONS, (0, 0));
        let loss = theirs["loss"].as_f64().unwrap();
        assert!((measures.loss / loss - 1.0).abs() < 5e-6, "{name}: {} {loss}", measures.loss);
        // The response that is in both pairs was computed once.
        let tokens: usize = texts[..3].iter().map(Vec::len).sum();
        assert_eq!(measures.tokens, tokens as u64);
        let r: Vec<f64> = serde_json::from_value(theirs["rewards"].clone()).unwrap();
        let right = [r[0] > r[1], r[2] > r[1]].into_iter().filter(|right| *right).count();
        for (what, expected) in [
            ("accuracy", right as f64 / 2.0),
            ("reward_chosen", (r[0] + r[2]) / 2.0),
            ("reward_rejected", r[1]),
            ("margin", (r[0] + r[2]) / 2.0 - r[1]),
        ] {
            let ours = measures.others.iter().find(|(name, _)| *name == what).unwrap().1;
            assert!((ours - expected).abs() < 1e-5, "{name}, {what}: {ours} {expected}");
        }
        let path = fixtures().join(format!("training/{name}_reward_gradients.safetensors"));
        let file = TensorFile::open(&path).unwrap();
        for (parameter, ours) in model.trunk().parameters().iter().zip(gradients.iter()) {
            let theirs = file.read(&parameter.name).unwrap();
            let largest = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
            for (ours, theirs) in ours.unwrap().host().iter().zip(theirs) {
                let most = 1e-5 * largest + 1e-7;
                assert!((ours - theirs).abs() < most, "{}: {ours} {theirs}", parameter.name);
            }
        }
        // The same two pairs as two examples are the same batch, to the last bit.
        let pairs = RewardOptions { unit: Unit::Pairs, ..OPTIONS };
        assert_eq!(learn(&model, &rankings, pairs, (0, 0)), (measures, gradients));
    }
}

/// Which of a text's tokens makes it good.
const GOOD: u32 = 7;

/// Four responses to each of many prompts; half of them, in random places, contain `GOOD`.
fn containing(first: u32, count: u32) -> Vec<Ranking> {
    let of = |number| {
        let mut random = Random::new(17, Purpose::Sampling, number, 0);
        let mut other = |count: u32| -> Vec<u32> {
            (0..count).map(|_| (GOOD + 1 + random.below(40 - GOOD)) % 48).collect()
        };
        let prompt = other(4);
        let texts = [0, 1, 2, 3].map(|number| {
            let mut response = other(3 + number);
            if number % 2 == 0 {
                let place = response[0] as usize % response.len();
                response[place] = GOOD;
            }
            [prompt.clone(), response].concat()
        });
        // Prompts do not have it, so that ranks say all.
        ranking(&texts, &[1, 2, 1, 2])
    };
    (first..first + count).map(of).collect()
}

fn train_options() -> TrainOptions {
    TrainOptions {
        epochs: 4,
        batch: 8,
        drops_last: false,
        peak: 3e-3,
        warmup: 4,
        schedule: Schedule::Cosine,
        adamw: AdamWOptions { weight_decay: 0.01, ..AdamWOptions::default() },
        seed: 5,
        validate_every: 0,
        select: Select::Last,
        checkpoint: CheckpointEvery::default(),
    }
}

/// Looks on, and asks to stop after a step, or is killed after one.
#[derive(Default)]
struct Looker {
    stop_after: Option<u64>,
    kill_after: Option<u64>,
    last: u64,
}

impl Watch for Looker {
    fn step(&mut self, row: &CurveRow, _: Progress) {
        self.last = row.step;
        assert!(self.kill_after != Some(row.step), "killed on purpose");
    }

    fn is_stopped(&self) -> bool {
        self.stop_after == Some(self.last)
    }
}

/// A training on few rankings, of which a part is sampled anew in each epoch.
fn short(
    mut model: RewardModel,
    unit: Unit,
    folder: &Path,
    (options, looker): (&TrainOptions, &mut Looker),
) -> (RewardModel, Result<Outcome, TrainError>) {
    let sampled = RewardOptions { unit, pairs_per_ranking: Some(2), tokens_at_once: 60, ..OPTIONS };
    let head = model.head();
    let objective = RewardModeling::new(head, containing(0, 6), containing(100, 3), sampled);
    let outcome = train(model.trunk_mut(), &objective, options, folder, looker);
    (model, outcome)
}

#[test]
fn what_makes_a_response_good_is_learnt() {
    for (name, unit, batch) in
        [("bloom", Unit::Pairs, 16), ("llama", Unit::Rankings, 4), ("gpt_neox", Unit::Pairs, 16)]
    {
        let mut model = reward_model(name);
        let options = RewardOptions { unit, tokens_at_once: 500, ..OPTIONS };
        let objective =
            RewardModeling::new(model.head(), containing(0, 96), containing(100, 40), options);
        let folder = tempfile::tempdir().unwrap();
        let options = TrainOptions { batch, select: Select::Best, ..train_options() };
        let before = objective.validate(model.trunk(), &mut |_, _| Ok(())).unwrap().unwrap();
        let looker = &mut Looker::default();
        train(model.trunk_mut(), &objective, &options, folder.path(), looker).unwrap();
        let after = objective.validate(model.trunk(), &mut |_, _| Ok(())).unwrap().unwrap();
        let accuracy = |measures: &Measures| measures.others[0].1;
        assert!(accuracy(&before) < 0.7, "{name} knows it already: {before:?}");
        assert!(accuracy(&after) > 0.9 && after.loss < 0.4, "{name}: {after:?}");
        // The same rewards out of a folder, and as one sees them alone.
        let there = tempfile::tempdir().unwrap();
        model.save(there.path(), NumberKind::F32).unwrap();
        let model = RewardModel::open(there.path()).unwrap();
        let reward = |text: &[u32]| model.rewards(&Sequences::new(&[text])).unwrap()[0];
        let mut right = 0;
        for ranking in containing(100, 40) {
            let texts: Vec<f64> = ranking.responses.iter().map(|it| reward(&it.tokens)).collect();
            right += [(0, 1), (0, 3), (2, 1), (2, 3)]
                .into_iter()
                .filter(|(good, bad)| texts[*good] > texts[*bad])
                .count();
        }
        assert_eq!(right as f64 / 160.0, accuracy(&after), "{name}");
    }
}

#[test]
fn a_training_that_is_interrupted_ends_as_one_that_is_not() {
    for (name, unit, select) in
        [("bloom", Unit::Pairs, Select::Last), ("llama", Unit::Rankings, Select::Best)]
    {
        let batch = if unit == Unit::Pairs { 5 } else { 2 };
        let options = TrainOptions { epochs: 3, batch, select, ..train_options() };
        let run = |options: &TrainOptions, folder: &Path, looker: &mut Looker| {
            let mut model = reward_model(name);
            model.train_top(1, unit == Unit::Pairs);
            short(model, unit, folder, (options, looker))
        };
        let whole = tempfile::tempdir().unwrap();
        let (model, outcome) = run(&options, whole.path(), &mut Looker::default());
        let outcome = outcome.unwrap();
        assert_eq!(outcome.curve.len(), 9);
        assert!(outcome.curve[2].measures.contains_key("validation_accuracy"));
        let parts = tempfile::tempdir().unwrap();
        for stop_after in 1..9 {
            let mut looker = Looker { stop_after: Some(stop_after), ..Looker::default() };
            let stopped = run(&options, parts.path(), &mut looker).1.unwrap_err();
            assert!(matches!(stopped, TrainError::Stopped { step } if step == stop_after));
        }
        let (again, end) = run(&options, parts.path(), &mut Looker::default());
        assert_eq!(end.unwrap(), outcome);
        assert!(again.trunk().parameters() == model.trunk().parameters(), "{name}");
        // Killed between two checkpoints, in the second epoch.
        let killed = tempfile::tempdir().unwrap();
        let checkpoint = CheckpointEvery { steps: Some(4), time: None };
        let options = TrainOptions { checkpoint, ..options };
        let kill = std::panic::catch_unwind(|| {
            let mut looker = Looker { kill_after: Some(6), ..Looker::default() };
            run(&options, killed.path(), &mut looker)
        });
        assert!(kill.is_err());
        let (again, end) = run(&options, killed.path(), &mut Looker::default());
        assert_eq!(end.unwrap(), outcome);
        assert!(again.trunk().parameters() == model.trunk().parameters(), "{name}");
    }
}

#[test]
fn the_same_bytes_come_out_with_any_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let with = (&train_options(), &mut Looker::default());
        pool.install(|| short(reward_model("gpt_neox"), Unit::Pairs, folder.path(), with))
    };
    let (model, outcome) = run(1);
    let outcome = outcome.unwrap();
    for threads in [2, 3] {
        let (other, end) = run(threads);
        assert_eq!(end.unwrap(), outcome);
        assert!(other.trunk().parameters() == model.trunk().parameters(), "{threads} threads");
    }
}

#[test]
fn what_is_frozen_stays_and_all_else_moves() {
    for name in ["bloom", "llama", "gpt_neox"] {
        for (blocks, embeddings) in [(0, false), (1, false), (1, true), (2, true)] {
            let mut model = reward_model(name);
            model.train_top(blocks, embeddings);
            let before = model.trunk().parameters().clone();
            let folder = tempfile::tempdir().unwrap();
            let with = (&train_options(), &mut Looker::default());
            let (model, outcome) = short(model, Unit::Rankings, folder.path(), with);
            outcome.unwrap();
            for (before, after) in before.iter().zip(model.trunk().parameters().iter()) {
                let is_same = before.values == after.values;
                assert_eq!(is_same, !after.is_trained, "{name}, {blocks}, {}", after.name);
            }
        }
    }
}

#[test]
fn a_batch_in_parts_is_the_same_batch() {
    let model = reward_model("llama");
    let rankings = containing(0, 9);
    let with = |tokens_at_once, keep| {
        let options = RewardOptions { tokens_at_once, keep, ..OPTIONS };
        learn(&model, &rankings, options, (0, 0))
    };
    let (whole, gradients) = with(1000, Keep::All);
    assert_eq!(with(1000, Keep::Inputs), (whole.clone(), gradients.clone()));
    for tokens_at_once in [1, 80, 150] {
        let (part, others) = with(tokens_at_once, Keep::All);
        assert!((part.loss - whole.loss).abs() < 1e-6 && part.tokens == whole.tokens);
        for (one, other) in gradients.iter().flatten().zip(others.iter().flatten()) {
            for (one, other) in one.host().iter().zip(other.host()) {
                assert!((one - other).abs() < 1e-5, "{one} {other}");
            }
        }
    }
}

#[test]
fn pairs_are_drawn_anew_in_each_epoch_and_by_nothing_else() {
    let model = reward_model("bloom");
    let rankings = containing(0, 8);
    for unit in [Unit::Pairs, Unit::Rankings] {
        let options = RewardOptions { unit, pairs_per_ranking: Some(2), ..OPTIONS };
        let loss = |step, epoch| learn(&model, &rankings, options, (step, epoch)).0.loss;
        assert_eq!(loss(3, 1), loss(4, 1), "a step has no draw of its own");
        assert_ne!(loss(3, 1), loss(3, 2));
        // More than there are is all.
        let all = RewardOptions { pairs_per_ranking: Some(9), ..options };
        let plain = RewardOptions { pairs_per_ranking: None, ..options };
        let of = |options| learn(&model, &rankings, options, (0, 0));
        assert_eq!(of(all), of(plain));
        // Each pair has the same part in many epochs as in all at once.
        let mean = (0..300).map(|epoch| loss(0, epoch)).sum::<f64>() / 300.0;
        assert!((mean - of(plain).0.loss).abs() < 2e-3, "{mean}");
    }
}

#[test]
fn what_cannot_be_compared_is_no_example() {
    let model = reward_model("llama");
    let new = |rankings: Vec<Ranking>, unit| {
        let options = RewardOptions { unit, ..OPTIONS };
        RewardModeling::new(model.head(), rankings.clone(), rankings, options)
    };
    let texts = [vec![3, 4], vec![5], vec![6]];
    let equal = ranking(&texts, &[1, 1, 1]);
    let single = ranking(&texts[..1], &[1]);
    for unit in [Unit::Pairs, Unit::Rankings] {
        let objective = new(vec![equal.clone(), single.clone(), Ranking::default()], unit);
        assert_eq!(objective.examples(), 0);
        assert_eq!(objective.validate(model.trunk(), &mut |_, _| Ok(())).unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let mut model = model.clone();
        let looker = &mut Looker::default();
        let trained = train(model.trunk_mut(), &objective, &train_options(), folder.path(), looker);
        assert!(matches!(trained.unwrap_err(), TrainError::Empty));
    }
    let three = ranking(&texts, &[2, 1, 3]);
    let objective = new(vec![single, three.clone()], Unit::Pairs);
    assert_eq!(objective.examples(), 3);
    assert_eq!(new(vec![equal, three], Unit::Rankings).examples(), 1);
    let empty = new(vec![ranking(&[vec![3], vec![]], &[1, 2])], Unit::Pairs);
    let said = empty.validate(model.trunk(), &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(said.contains("text 1 of the batch has no tokens"), "{said}");
}
