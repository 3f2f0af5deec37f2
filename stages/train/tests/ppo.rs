//! PPO against PyTorch's numbers (`tests/fixtures/training/make.py`), on rewards that are known, and against
//! itself: interrupted, with other threads, in parts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::Cell;
use std::path::{Path, PathBuf};

use okapi_model::{Array, CausalLm, Keep, Place, RewardModel, Sequences};
use okapi_train::ppo::{self, Answer, KlControl, Length, PpoOptions, Prompts, RewardScorer};
use okapi_train::{AdamWOptions, CurveRow, Outcome, Part, Progress, TrainError, Watch};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn model(name: &str) -> CausalLm {
    CausalLm::open(&fixtures().join("models").join(name)).unwrap()
}

fn close(what: &str, ours: f64, theirs: f64) {
    let off = (ours - theirs).abs();
    assert!(off <= 1e-5 * theirs.abs() + 1e-12, "{what}: {ours} {theirs}");
}

fn all_close(what: &str, ours: &[Vec<f64>], theirs: &[Vec<f64>]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours.len(), theirs.len(), "{what}");
        ours.iter().zip(theirs).for_each(|(ours, theirs)| close(what, *ours, *theirs));
    }
}

#[test]
fn formulas_are_those_of_pytorch() {
    let text = std::fs::read(fixtures().join("training/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let expected = &expected["ppo"];
    let number = |name: &str| expected[name].as_f64().unwrap();
    let lists =
        |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(expected[name].clone()).unwrap() };
    let scores: Vec<f64> = serde_json::from_value(expected["scores"].clone()).unwrap();
    let (logp, logp_old, logp_ref) = (lists("logp"), lists("logp_old"), lists("logp_ref"));
    let (values, old_values) = (lists("values"), lists("old_values"));
    let responses = 0..scores.len();
    let rewards: Vec<_> = responses
        .clone()
        .map(|n| ppo::rewards(&logp_old[n], &logp_ref[n], scores[n], number("beta")))
        .collect();
    all_close("rewards", &rewards, &lists("rewards"));
    let advantages: Vec<_> = responses
        .clone()
        .map(|n| ppo::advantages(&rewards[n], &old_values[n], number("gamma"), number("lambda")))
        .collect();
    all_close("advantages", &advantages, &lists("advantages"));
    let returns: Vec<_> = responses.map(|n| ppo::returns(&advantages[n], &old_values[n])).collect();
    all_close("returns", &returns, &lists("returns"));
    let mut whitened = advantages;
    ppo::whiten(&mut whitened);
    all_close("whitened", &whitened, &lists("whitened"));

    let flat = |lists: &[Vec<f64>]| lists.concat();
    let tokens = flat(&logp).len() as f64;
    let policy: Vec<_> = flat(&logp)
        .iter()
        .zip(flat(&logp_old))
        .zip(flat(&whitened))
        .map(|((logp, old), advantage)| ppo::policy_loss(*logp, old, advantage, number("clip")))
        .collect();
    let value: Vec<_> = flat(&values)
        .iter()
        .zip(flat(&old_values))
        .zip(flat(&returns))
        .map(|((value, old), to)| ppo::value_loss(*value, old, to, number("clip_value")))
        .collect();
    for (ours, loss, slopes, clipped) in [
        (&policy, "policy_loss", "policy_loss_by_logp", "clipped"),
        (&value, "value_loss", "value_loss_by_values", "value_clipped"),
    ] {
        let mean = |of: &dyn Fn(&ppo::TokenLoss) -> f64| ours.iter().map(of).sum::<f64>() / tokens;
        close(loss, mean(&|it| it.loss), number(loss));
        close(clipped, mean(&|it| f64::from(u8::from(it.is_clipped))), number(clipped));
        for (ours, theirs) in ours.iter().zip(flat(&lists(slopes))) {
            close(slopes, ours.slope / tokens, theirs);
        }
    }
    // What the curve calls `update_kl`, and the mean that it is instead of.
    let log_ratios: Vec<f64> =
        flat(&logp).iter().zip(flat(&logp_old)).map(|(logp, old)| logp - old).collect();
    close("kl_mean", -log_ratios.iter().sum::<f64>() / tokens, number("kl_mean"));
    let squares = log_ratios.iter().map(|it| 0.5 * it * it).sum::<f64>();
    close("kl_square", squares / tokens, number("kl_square"));
    let outside = log_ratios.iter().filter(|it| (it.exp() - 1.0).abs() > number("clip")).count();
    close("outside", outside as f64 / tokens, number("outside"));
}

/// Entropy and divergence of rows of logits: the first by the head itself, of which a row of the embedding is a
/// logit where the state is a unit vector; the second as the mean of both estimators over the policy.
#[test]
fn entropy_and_divergence_are_those_of_pytorch() {
    let text = std::fs::read(fixtures().join("training/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    let rows = &expected["ppo"]["rows"];
    let logits = |name: &str| -> Vec<f64> { serde_json::from_value(rows[name].clone()).unwrap() };
    let scores = |logits: &[f64]| {
        let mut model = model("bloom");
        let width = model.hidden();
        let table = model.parameters_mut().iter_mut().next().unwrap();
        for (row, logit) in table.values.chunks_exact_mut(width).zip(logits) {
            row[0] = *logit as f32;
        }
        let mut state = vec![0.0; width];
        state[0] = 1.0;
        let places: Vec<Place> = (0..48).map(|next| Place { row: 0, next }).collect();
        model.scores(&Array::Host(state), &places).unwrap()
    };
    let policy = scores(&logits("policy_logits"));
    let reference = scores(&logits("reference_logits"));
    close("entropy", policy[5].entropy, rows["entropy"].as_f64().unwrap());
    for estimator in [ppo::k1, ppo::k3] {
        let both = policy.iter().zip(&reference);
        let kl: f64 = both
            .map(|(p, q)| p.log_probability.exp() * estimator(p.log_probability, q.log_probability))
            .sum();
        close("kl", kl, rows["kl"].as_f64().unwrap());
    }
}

/// The token that is worth something.
const GOOD: u32 = 7;
/// The token that ends a response.
const END: u32 = 2;

fn count(answers: &[Answer<'_>]) -> Result<Vec<f64>, TrainError> {
    let of =
        |answer: &Answer<'_>| answer.response.iter().filter(|token| **token == GOOD).count() as f64;
    Ok(answers.iter().map(of).collect())
}

fn prompts(count: u32) -> Prompts {
    let prompt = |n: u32| (0..2 + n % 5).map(|place| 3 + (n * 5 + place * 11) % 45).collect();
    Prompts { train: (0..count).map(prompt).collect(), validation: (70..78).map(prompt).collect() }
}

fn options() -> PpoOptions {
    PpoOptions {
        length: Length::Iterations(30),
        rollouts: 32,
        batch: 8,
        trained_blocks: 1,
        peak: 5e-3,
        adamw: AdamWOptions { beta2: 0.95, weight_decay: 0.01, ..AdamWOptions::default() },
        max_new_tokens: 12,
        stop_tokens: vec![END],
        context: None,
        seed: 3,
        ..PpoOptions::default()
    }
}

/// Looks on, and asks to stop after an iteration or at some part of one, or is killed at one.
#[derive(Debug, Default)]
struct Looker {
    stop_after: Option<u64>,
    stop_at: Option<(u64, &'static str, u64)>,
    kill_at: Option<(u64, &'static str, u64)>,
    last: u64,
    stopped: Cell<bool>,
    rows: u64,
}

impl Watch for Looker {
    fn step(&mut self, row: &CurveRow, progress: Progress) {
        assert!(progress.tokens_per_second > 0.0 && row.step <= progress.total);
        self.last = row.step;
        self.rows += 1;
        self.stopped.set(self.stop_after == Some(row.step));
    }

    fn part(&mut self, part: Part) {
        assert!(part.done <= part.total, "{part:?}");
        let is_at = |at: Option<(u64, &str, u64)>| {
            at.is_some_and(|(step, name, done)| {
                (step, name) == (self.last + 1, part.name) && part.done >= done
            })
        };
        assert!(!is_at(self.kill_at), "killed on purpose");
        if is_at(self.stop_at) {
            self.stopped.set(true);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.get()
    }
}

fn run(
    name: &str,
    options: &PpoOptions,
    folder: &Path,
    looker: &mut Looker,
) -> (CausalLm, Result<Outcome, TrainError>) {
    let mut model = model(name);
    let outcome = ppo::train(&mut model, &prompts(20), &count, options, folder, looker);
    (model, outcome)
}

fn trained(name: &str, options: &PpoOptions) -> (CausalLm, Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let (model, outcome) = run(name, options, folder.path(), &mut Looker::default());
    (model, outcome.unwrap())
}

fn measure(outcome: &Outcome, name: &str) -> Vec<f64> {
    outcome.curve.iter().filter_map(|row| row.measures.get(name).copied()).collect()
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

#[test]
fn what_is_rewarded_is_learnt() {
    for name in ["bloom", "llama", "gpt_neox"] {
        let (_, outcome) = trained(name, &options());
        let reward = measure(&outcome, "reward");
        assert!(reward[0] < 0.6 && mean(&reward[25..]) > 6.0, "{name}: {reward:?}");
        // Also where it was not learnt, and before it was.
        let validation = measure(&outcome, "validation_reward");
        let before = measure(&outcome, "validation_reward_at_start");
        assert!(before[0] < 0.6 && validation[0] > 6.0, "{name}: {before:?} {validation:?}");
        assert_eq!(before.len() + validation.len(), 2, "{name}: only at both ends");
        // The policy begins as the reference.
        let (kl, k3) = (measure(&outcome, "kl"), measure(&outcome, "kl_k3"));
        assert!((kl[0], k3[0]) == (0.0, 0.0) && k3.iter().all(|kl| *kl >= 0.0), "{name}");
        let entropy = measure(&outcome, "entropy");
        assert!(entropy[0] > 3.5 && entropy[29] < 2.0, "{name}: {entropy:?}");
        assert!(mean(&measure(&outcome, "explained_variance")[5..]) > 0.0, "{name}");
    }
}

/// With a reference that says each of 48 tokens with the same probability, what is best is known: it says `GOOD`
/// with a probability in proportion to `exp(1 / beta)` at every place (Korbak et al., 2022), and the score less
/// the penalty is then `beta log E exp(score / beta)`.
#[test]
fn score_and_divergence_are_traded_as_is_best() {
    let beta = 0.3;
    let places = 12.0;
    let tilt = f64::exp(1.0 / beta);
    let share = tilt / (tilt + 47.0);
    let best = places * beta * ((tilt + 47.0) / 48.0).ln();
    for name in ["llama", "gpt_neox"] {
        let mut model = model(name);
        let uniform = |it: &str| it == "lm_head.weight" || it == "embed_out.weight";
        let head = model.parameters_mut().iter_mut().find(|it| uniform(&it.name)).unwrap();
        head.values.fill(0.0);
        let folder = tempfile::tempdir().unwrap();
        let options = PpoOptions {
            rollouts: 96,
            batch: 32,
            peak: 4e-3,
            kl: KlControl::Fixed(beta),
            length: Length::Iterations(28),
            stop_tokens: Vec::new(),
            ..options()
        };
        let looker = &mut Looker::default();
        let outcome =
            ppo::train(&mut model, &prompts(20), &count, &options, folder.path(), looker).unwrap();
        let late = |name: &str| mean(&measure(&outcome, name)[20..]);
        let (reward, kl) = (late("reward"), late("kl"));
        assert!(reward - beta * kl > 0.75 * best, "{name}: {reward} {kl}");
        assert!((reward / (places * share) - 1.0).abs() < 0.3, "{name}: {reward}");
    }
}

#[test]
fn a_penalty_that_is_too_dear_keeps_the_policy_where_it_was() {
    let last = |beta, what| {
        let options =
            PpoOptions { kl: KlControl::Fixed(beta), length: Length::Iterations(20), ..options() };
        measure(&trained("llama", &options).1, what)[15..].to_vec()
    };
    let (free, dear) = (last(0.0, "kl"), last(100.0, "kl"));
    assert!(mean(&free) > 20.0 && mean(&dear) < 3.0, "{free:?} {dear:?}");
    assert!(mean(&last(100.0, "reward")) < 0.6);
}

/// Few rollouts of few tokens, with all that a checkpoint has to hold.
fn short() -> PpoOptions {
    PpoOptions {
        length: Length::Iterations(4),
        rollouts: 6,
        passes: 2,
        batch: 4,
        kl: KlControl::Adaptive { initial: 0.1, target: 0.5, horizon: 30.0 },
        warmup: 5,
        validate_every: 3,
        max_new_tokens: 6,
        tokens_at_once: 30,
        rows_at_once: 4,
        ..options()
    }
}

#[test]
fn a_training_that_is_interrupted_ends_as_one_that_is_not() {
    for name in ["bloom", "llama"] {
        let whole = tempfile::tempdir().unwrap();
        let (model, outcome) = run(name, &short(), whole.path(), &mut Looker::default());
        let outcome = outcome.unwrap();
        assert_eq!((outcome.curve.len(), outcome.kept), (4, 4));
        let coefficients = measure(&outcome, "kl_coefficient");
        assert!(coefficients[0] == 0.1 && coefficients[3] != coefficients[2], "{coefficients:?}");
        assert_eq!(measure(&outcome, "updates"), [4.0; 4]);
        assert!(outcome.curve[2].measures.contains_key("validation_reward"));
        // Stopped after an iteration, while sampling, and between updates: what was begun is done again.
        let parts = tempfile::tempdir().unwrap();
        let (after, within) = (
            |step| Looker { stop_after: Some(step), ..Looker::default() },
            |at| Looker { stop_at: Some(at), ..Looker::default() },
        );
        for (mut looker, done, rows) in [
            (within((1, "validation", 2)), 0, 0),
            (within((1, "sampling", 2)), 0, 0),
            (within((1, "updates", 3)), 0, 0),
            (after(1), 1, 1),
            // Before its first row a looker does not know where it goes on: it counts from 1.
            (within((1, "updates", 1)), 1, 0),
            (within((3, "sampling", 0)), 2, 1),
            (within((1, "updates", 2)), 2, 0),
            (within((1, "validation", 0)), 2, 0),
        ] {
            let stopped = run(name, &short(), parts.path(), &mut looker).1;
            let Err(stopped) = stopped else { panic!("{name}: not stopped: {looker:?}") };
            assert!(matches!(stopped, TrainError::Stopped { step } if step == done), "{stopped}");
            assert_eq!(looker.rows, rows);
        }
        let (again, end) = run(name, &short(), parts.path(), &mut Looker::default());
        assert_eq!(end.unwrap(), outcome);
        assert!(again.parameters() == model.parameters(), "{name}: other weights");
        // Killed in the third iteration, when weights have moved.
        let killed = tempfile::tempdir().unwrap();
        let kill = std::panic::catch_unwind(|| {
            let mut looker = Looker { kill_at: Some((3, "updates", 3)), ..Looker::default() };
            run(name, &short(), killed.path(), &mut looker)
        });
        assert!(kill.is_err());
        let mut looker = Looker::default();
        let (again, end) = run(name, &short(), killed.path(), &mut looker);
        assert_eq!((end.unwrap(), looker.rows), (outcome, 2));
        assert!(again.parameters() == model.parameters(), "{name}: other weights");
    }
}

#[test]
fn the_same_bytes_come_out_with_any_threads_and_any_rows_at_once() {
    let run = |threads: usize, rows_at_once: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| trained("gpt_neox", &PpoOptions { rows_at_once, ..short() }))
    };
    let (model, outcome) = run(1, 4);
    for (threads, rows_at_once) in [(2, 4), (3, 1), (2, 100)] {
        let (other, end) = run(threads, rows_at_once);
        assert_eq!(end, outcome, "{threads} threads, {rows_at_once} rows at once");
        assert!(other.parameters() == model.parameters(), "{threads} threads");
    }
}

#[test]
fn what_is_frozen_stays_and_all_else_moves() {
    for name in ["bloom", "llama", "gpt_neox"] {
        for trained_blocks in [0, 1, 9] {
            let before = model(name).parameters().clone();
            let (model, _) = trained(name, &PpoOptions { trained_blocks, ..short() });
            assert_eq!(model.parameters().iter().len(), before.iter().len(), "no value head");
            for (before, after) in before.iter().zip(model.parameters().iter()) {
                assert_eq!(before.name, after.name);
                let is_same = before.values == after.values;
                assert_eq!(is_same, !after.is_trained, "{name}, {trained_blocks}, {}", after.name);
            }
            let frozen: Vec<&str> = (model.parameters().iter())
                .filter_map(|it| (!it.is_trained).then_some(&it.name[..]))
                .collect();
            let below = if name == "bloom" { 3 } else { 1 };
            let blocks = frozen.iter().filter(|name| name.contains(".0.")).count();
            assert!(frozen.iter().any(|it| it.contains("embed")), "{frozen:?}");
            match trained_blocks {
                0 => assert!(frozen.len() > below + 2 * blocks - 1, "{name}: {frozen:?}"),
                1 => assert_eq!(frozen.len(), below + blocks, "{name}: {frozen:?}"),
                _ => assert_eq!(frozen.len(), below, "{name}: {frozen:?}"),
            }
        }
    }
}

/// An iteration in one part, in many, and with blocks computed again: the same but for rounding.
#[test]
fn an_iteration_in_parts_is_the_same_iteration() {
    let row = |tokens_at_once, keep| {
        let length = Length::Iterations(1);
        let options = PpoOptions { length, tokens_at_once, keep, ..short() };
        trained("llama", &options).1.curve.remove(0).measures
    };
    let whole = row(1000, Keep::All);
    assert_eq!(row(1000, Keep::Inputs), whole);
    for tokens_at_once in [1, 20, 50] {
        for (name, part) in row(tokens_at_once, Keep::All) {
            let off = (part - whole[&name]).abs();
            assert!(off < 2e-4 * (0.1 + whole[&name].abs()), "{name}: {part} {}", whole[&name]);
        }
    }
}

#[test]
fn every_epoch_answers_every_prompt_once() {
    let seen = std::cell::RefCell::new(Vec::new());
    let scorer = |answers: &[Answer<'_>]| {
        seen.borrow_mut().push(answers.iter().map(|it| it.number).collect::<Vec<_>>());
        for answer in answers {
            let ends = answer.response.last() == Some(&END);
            assert!(answer.has_ended == ends && (ends || answer.response.len() == 6));
        }
        count(answers)
    };
    let prompts = Prompts { validation: Vec::new(), ..prompts(10) };
    let options = PpoOptions { length: Length::Epochs(2), ..short() };
    let folder = tempfile::tempdir().unwrap();
    let mut model = model("bloom");
    let looker = &mut Looker::default();
    let outcome = ppo::train(&mut model, &prompts, &scorer, &options, folder.path(), looker);
    let outcome = outcome.unwrap();
    // Twenty responses, six at a time.
    let epochs: Vec<f64> = outcome.curve.iter().map(|row| row.epoch).collect();
    assert_eq!(epochs, [0.6, 1.2, 1.8, 2.0]);
    assert_eq!(measure(&outcome, "updates"), [4.0, 4.0, 4.0, 2.0]);
    let seen = seen.into_inner();
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6, 6, 2]);
    let seen = seen.concat();
    assert_ne!(seen[..10], seen[10..]);
    for epoch in seen.chunks(10) {
        let mut epoch = epoch.to_vec();
        epoch.sort_unstable();
        assert_eq!(epoch, (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn a_reward_model_scores_prompt_and_response() {
    let reward_model = RewardModel::from_lm(model("gpt_neox"), 5).unwrap();
    let scorer = RewardScorer { model: &reward_model, tokens_at_once: 20 };
    let checked = |answers: &[Answer<'_>]| {
        let scores = ppo::Scorer::scores(&scorer, answers)?;
        for (answer, score) in answers.iter().zip(&scores) {
            let text = [answer.prompt, answer.response].concat();
            assert_eq!(reward_model.rewards(&Sequences::new(&[text])).unwrap(), [*score]);
        }
        Ok(scores)
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let train = |scorer: &dyn ppo::Scorer, folder: &Path| {
        let looker = &mut Looker::default();
        ppo::train(&mut model("llama"), &prompts(9), scorer, &short(), folder, looker).unwrap()
    };
    assert_eq!(train(&checked, one.path()), train(&scorer, other.path()));
}

/// Scores beyond the clip are learnt from as if they were at it, and reported as they are.
#[test]
fn scores_are_clipped_before_they_are_learnt_from() {
    let train = |factor: f64, score_clip| {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model("bloom");
        let scorer = |answers: &[Answer<'_>]| {
            let sign = |answer: &Answer<'_>| if answer.response[0] < 24 { factor } else { -factor };
            Ok(answers.iter().map(sign).collect())
        };
        let options = PpoOptions { score_clip, ..short() };
        let looker = &mut Looker::default();
        let outcome =
            ppo::train(&mut model, &prompts(9), &scorer, &options, folder.path(), looker).unwrap();
        (model, measure(&outcome, "reward_std")[0])
    };
    let ((clipped, wide), (plain, narrow)) = (train(500.0, Some(2.0)), train(2.0, None));
    assert!(clipped.parameters() == plain.parameters());
    assert_eq!(wide / narrow, 250.0);
    assert!(train(500.0, None).0.parameters() != plain.parameters());
}

#[test]
fn what_cannot_be_trained_is_said() {
    let error = |prompts: &Prompts, scorer: &dyn ppo::Scorer, options: &PpoOptions| {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model("llama");
        let before = model.parameters().iter().len();
        let looker = &mut Looker::default();
        let trained = ppo::train(&mut model, prompts, scorer, options, folder.path(), looker);
        assert_eq!(model.parameters().iter().len(), before, "no value head is left behind");
        trained.unwrap_err()
    };
    let said =
        |prompts: &Prompts, options: &PpoOptions| error(prompts, &count, options).to_string();
    let of = |train: Vec<Vec<u32>>| Prompts { train, validation: Vec::new() };
    assert!(matches!(error(&Prompts::default(), &count, &short()), TrainError::Empty));
    let none = PpoOptions { length: Length::Epochs(0), ..short() };
    assert!(matches!(error(&prompts(3), &count, &none), TrainError::Empty));
    assert!(said(&of(vec![vec![]]), &short()).contains("is empty"));
    assert!(said(&of(vec![vec![5, 48]]), &short()).contains("the token 48"));
    let full = PpoOptions { context: Some(4), ..short() };
    assert!(said(&of(vec![vec![5, 6, 7, 8]]), &full).contains("leaves no room"));
    let mute = PpoOptions { max_new_tokens: 0, ..short() };
    assert!(said(&prompts(3), &mute).contains("max new tokens are 0"));
    let wild = PpoOptions { peak: 1e30, warmup: 0, ..short() };
    let text = said(&prompts(3), &wild);
    assert!(text.contains("diverged at iteration 1"), "{text}");
    // Scores: too few, none, and no number.
    let few = |_: &[Answer<'_>]| Ok(vec![1.0]);
    let text = error(&prompts(9), &few, &short()).to_string();
    assert!(text.contains("cannot be scored: 1 scores for 8 responses"), "{text}");
    let refuses = |_: &[Answer<'_>]| Err(TrainError::Score("no model".to_owned()));
    assert!(error(&prompts(9), &refuses, &short()).to_string().ends_with("scored: no model"));
    let nan = |answers: &[Answer<'_>]| Ok(vec![f64::NAN; answers.len()]);
    let text = error(&prompts(9), &nan, &short()).to_string();
    let expected = "the training diverged at iteration 1: the score of a response is NaN";
    assert_eq!(text, expected);
}
