//! Caches, sampling and generation: against the full pass, against `transformers`
//! (`tests/fixtures/training/make.py`), and against themselves in other company.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::{
    CausalLm, FinishReason, GenerateError, GenerateOptions, GenerateProgress, GenerateWatch,
    Generated, Keep, KvCache, ModelError, Place, SamplingOptions, Sequences,
};
use serde_json::Value;

/// Of them `llama` has more heads of queries than of keys.
const MODELS: [&str; 6] =
    ["bloom", "llama", "gpt_neox", "bloom_after_norm", "llama_tied", "neox_sequential"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("training/expected.json")).unwrap())
        .unwrap()
}

fn model(name: &str) -> CausalLm {
    let folders = ["models", "training"].map(|folder| fixtures().join(folder).join(name));
    CausalLm::open(folders.iter().find(|folder| folder.is_dir()).unwrap()).unwrap()
}

/// Some text of the fixtures' models, which have 48 tokens.
fn text(seed: u32, length: u32) -> Vec<u32> {
    (0..length).map(|place| (place * place * 7 + place * 13 + seed * 29) % 48).collect()
}

/// Longer ones than attention takes at a time, and single tokens.
fn texts() -> Vec<Vec<u32>> {
    [(1, 12), (2, 1), (3, 150), (4, 64), (5, 7), (6, 65)]
        .map(|(seed, length)| text(seed, length))
        .into()
}

/// The states of texts that are read in parts.
fn read_in_parts(model: &CausalLm, texts: &[Vec<u32>], parts: &[usize]) -> Vec<Vec<f32>> {
    let mut caches: Vec<KvCache> = texts.iter().map(|_| model.kv_cache(5)).collect();
    let mut states = vec![Vec::new(); texts.len()];
    let longest = texts.iter().map(Vec::len).max().unwrap();
    let mut parts = parts.iter().copied().cycle();
    while caches[0].len() < longest {
        let part = parts.next().unwrap();
        let mut rows: Vec<(&[u32], &mut KvCache)> = Vec::new();
        for (text, cache) in texts.iter().zip(&mut caches) {
            let first = cache.len();
            rows.push((&text[first..text.len().min(first + part)], cache));
        }
        let counts: Vec<usize> = rows.iter().map(|(tokens, _)| tokens.len()).collect();
        let all = model.read_on(&mut rows).unwrap();
        let mut all = all.host().chunks(model.hidden());
        for (states, count) in states.iter_mut().zip(counts) {
            states.extend(all.by_ref().take(count).flatten());
        }
        if states.iter().zip(texts).all(|(it, text)| it.len() == text.len() * model.hidden()) {
            break;
        }
    }
    states
}

fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (one, other) in ours.iter().zip(theirs) {
        assert!((one - other).abs() < 1e-5 * largest, "{what}: {one} {other}");
    }
}

#[test]
fn what_is_read_in_parts_is_what_is_read_at_once() {
    for name in MODELS {
        let model = model(name);
        let texts = texts();
        let whole = model.forward(Sequences::new(&texts), Keep::Nothing).unwrap();
        for parts in [&[1000][..], &[1], &[7, 1, 70], &[3, 0, 64]] {
            let states = read_in_parts(&model, &texts, parts).concat();
            assert_close(&states, whole.states().host(), &format!("{name}, {parts:?}"));
        }
    }
}

/// With adapters, which have products of their own.
#[test]
fn adapters_read_in_parts_too() {
    for name in ["bloom", "llama", "gpt_neox"] {
        let mut model = model(name);
        model.open_adapters(&fixtures().join(format!("training/{name}_adapter"))).unwrap();
        let texts = texts();
        let whole = model.forward(Sequences::new(&texts), Keep::Nothing).unwrap();
        let states = read_in_parts(&model, &texts, &[5, 1]);
        assert_close(&states.concat(), whole.states().host(), name);
        assert_eq!(read_in_parts(&model, &texts[2..3], &[5, 1]), states[2..3], "{name}");
    }
}

#[test]
fn company_and_threads_change_no_bit() {
    for name in MODELS {
        let model = model(name);
        let texts = texts();
        let parts = [9, 1, 1, 80];
        let together = read_in_parts(&model, &texts, &parts);
        for (text, together) in texts.iter().zip(&together) {
            let alone = read_in_parts(&model, std::slice::from_ref(text), &parts);
            assert_eq!(&alone[0], together, "{name}, {} tokens", text.len());
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let threads = pool.install(|| read_in_parts(&model, &texts, &parts));
        assert!(threads == together, "{name}");
    }
}

#[test]
fn a_cache_can_be_copied_and_shortened() {
    let model = model("llama");
    let (one, other) = (text(1, 20), text(2, 20));
    let mut cache = model.kv_cache(0);
    model.read_on(&mut [(&one, &mut cache)]).unwrap();
    let mut copy = cache.copy(0);
    cache.truncate(10);
    // What was there before does not show, nor does what happens to the copy.
    let states = model.read_on(&mut [(&other[10..], &mut cache)]).unwrap();
    let mixed = [&one[..10], &other[10..]].concat();
    let whole = model.forward(Sequences::new(&[mixed]), Keep::Nothing).unwrap();
    assert_close(states.host(), &whole.states().host()[10 * model.hidden()..], "shortened");
    let states = model.read_on(&mut [(&other, &mut copy)]).unwrap();
    let whole = model.forward(Sequences::new(&[[one, other].concat()]), Keep::Nothing).unwrap();
    assert_close(states.host(), &whole.states().host()[20 * model.hidden()..], "copied");
    assert_eq!((cache.len(), copy.len()), (20, 40));
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let (one, other) = (model("llama"), model("bloom"));
    let mut cache = one.kv_cache(4);
    let error = other.read_on(&mut [(&[3], &mut cache)]).unwrap_err();
    assert!(matches!(error, ModelError::Cache), "{error}");
    let error = one.read_on(&mut [(&[3, 48], &mut cache)]).unwrap_err();
    assert_eq!(error.to_string(), "the token 48 is not among the 48 of the model");
    assert!(cache.is_empty() && one.read_on(&mut []).unwrap().is_empty());
}

fn greedy(max_new_tokens: usize) -> GenerateOptions {
    let sampling = SamplingOptions::greedy();
    GenerateOptions { sampling, max_new_tokens, ..GenerateOptions::default() }
}

/// Without temperature the tokens are those of `transformers`; the two best logits are never closer than
/// 0.004, a hundred times what rounding does.
#[test]
fn greedy_tokens_are_those_of_transformers() {
    let expected = expected()["generation"].clone();
    let prompts: Vec<Vec<u32>> = serde_json::from_value(expected["prompts"].clone()).unwrap();
    let end = expected["end"].as_u64().unwrap() as u32;
    let max_new_tokens = expected["max_new_tokens"].as_u64().unwrap() as usize;
    assert_eq!(expected["models"].as_object().unwrap().len(), MODELS.len());
    for (name, theirs) in expected["models"].as_object().unwrap() {
        let theirs: Vec<Vec<u32>> = serde_json::from_value(theirs["new_tokens"].clone()).unwrap();
        let options = GenerateOptions { stop_tokens: vec![end], ..greedy(max_new_tokens) };
        let ours = model(name).generate(&prompts, &options, &mut ()).unwrap();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(&ours[0].tokens, theirs, "{name}");
            let is_stopped = theirs.last() == Some(&end);
            assert_eq!(ours[0].finish == FinishReason::Stop, is_stopped, "{name}");
        }
    }
}

#[test]
fn probabilities_are_those_of_transformers() {
    let expected = expected()["sampling"].clone();
    let logits: Vec<f64> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let logits: Vec<f32> = logits.into_iter().map(|logit| logit as f32).collect();
    let previous: Vec<u32> = serde_json::from_value(expected["previous"].clone()).unwrap();
    let number = |name: &str| expected[name].as_f64().unwrap();
    let plain = SamplingOptions::default();
    let all = SamplingOptions {
        temperature: number("temperature"),
        top_k: Some(number("top_k") as usize),
        top_p: number("top_p"),
        repetition_penalty: number("repetition_penalty"),
    };
    for (name, theirs) in expected["probabilities"].as_object().unwrap() {
        let options = match name.as_str() {
            "none" => plain.clone(),
            "repetition_penalty" => {
                SamplingOptions { repetition_penalty: all.repetition_penalty, ..plain.clone() }
            }
            "temperature" => SamplingOptions { temperature: all.temperature, ..plain.clone() },
            "top_k" => SamplingOptions { top_k: all.top_k, ..plain.clone() },
            "top_p" => SamplingOptions { top_p: all.top_p, ..plain.clone() },
            "all" => all.clone(),
            other => panic!("{other} is not known here"),
        };
        let theirs: Vec<f64> = serde_json::from_value(theirs.clone()).unwrap();
        let ours = options.probabilities(&logits, &previous).unwrap();
        for (token, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(*ours == 0.0, *theirs == 0.0, "{name}, {token}");
            // Ours are made of logits in single precision.
            assert!((ours - theirs).abs() < 1e-6 * theirs.max(0.1), "{name}: {ours} {theirs}");
        }
    }
}

/// All that changes what is sampled.
fn sampled(samples: u32) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingOptions {
            temperature: 0.9,
            top_k: Some(40),
            top_p: 0.97,
            repetition_penalty: 1.1,
        },
        samples,
        max_new_tokens: 20,
        stop_tokens: vec![3, 31],
        seed: 7,
        ..GenerateOptions::default()
    }
}

/// Rows end at different steps, so that others take their places at any time.
#[test]
fn company_order_places_and_threads_change_no_continuation() {
    for name in MODELS {
        let model = model(name);
        let prompts: Vec<Vec<u32>> =
            (0..9).map(|seed| text(seed, 1 + seed * seed % 11)).chain([text(9, 50)]).collect();
        let options = sampled(3);
        let all = model.generate(&prompts, &options, &mut ()).unwrap();
        assert!(all.iter().all(|samples| samples.len() == 3));
        let ends: Vec<usize> = all.iter().flatten().map(|it| it.tokens.len()).collect();
        assert!(ends.contains(&20) && ends.iter().any(|end| *end < 10), "{name}: {ends:?}");
        for rows_at_once in [1, 2, 4, 7, 1000] {
            let options = GenerateOptions { rows_at_once, ..options.clone() };
            let others = model.generate(&prompts, &options, &mut ()).unwrap();
            assert!(others == all, "{name}, {rows_at_once} rows at once");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let others = pool.install(|| model.generate(&prompts, &options, &mut ()).unwrap());
            assert!(others == all, "{name}, {threads} threads");
        }
        for (number, prompt) in prompts.iter().enumerate() {
            let options = GenerateOptions { first_row: number as u32, ..options.clone() };
            let alone = model.generate(&[prompt], &options, &mut ()).unwrap();
            assert!(alone[0] == all[number], "{name}, prompt {number} alone");
            // Fewer samples are the first of more.
            let options = GenerateOptions { samples: 2, ..options };
            let fewer = model.generate(&[prompt], &options, &mut ()).unwrap();
            assert!(fewer[0] == all[number][..2], "{name}, prompt {number}");
        }
        // Without chance of its own, a prompt's place in the list does not matter either.
        let backward: Vec<&Vec<u32>> = prompts.iter().rev().collect();
        let forward = model.generate(&prompts, &greedy(9), &mut ()).unwrap();
        let mut backward = model.generate(&backward, &greedy(9), &mut ()).unwrap();
        backward.reverse();
        assert!(forward == backward, "{name}");
    }
}

#[test]
fn samples_are_of_their_seed_row_and_number() {
    let model = model("gpt_neox");
    let prompt = text(1, 5);
    let options = GenerateOptions { stop_tokens: Vec::new(), ..sampled(4) };
    let all = model.generate(&[&prompt, &prompt], &options, &mut ()).unwrap();
    let other = GenerateOptions { seed: 8, ..options };
    let others = model.generate(&[&prompt, &prompt], &other, &mut ()).unwrap();
    let mut tokens: Vec<_> = all.iter().chain(&others).flatten().map(|it| &it.tokens).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 16);
}

/// One step from a prompt, sampled often: as often each token as the model says.
#[test]
fn samples_are_as_frequent_as_they_are_probable() {
    let model = model("llama");
    let prompt = text(4, 6);
    let samples = 20_000;
    let options = GenerateOptions { samples, max_new_tokens: 1, ..GenerateOptions::default() };
    let all = model.generate(&[&prompt], &options, &mut ()).unwrap();
    let logits = model.logits(&Sequences::new(&[&prompt])).unwrap();
    let logits = &logits[5 * model.vocabulary()..];
    let probabilities = options.sampling.probabilities(logits, &prompt).unwrap();
    let mut seen = vec![0.0; model.vocabulary()];
    for generated in &all[0] {
        seen[generated.tokens[0] as usize] += 1.0;
        let own = probabilities[generated.tokens[0] as usize].ln();
        assert!((generated.log_probabilities[0] - own).abs() < 1e-5);
    }
    let square: f64 = seen
        .iter()
        .zip(probabilities.iter().map(|probability| probability * f64::from(samples)))
        .map(|(seen, expected): (&f64, f64)| (seen - expected).powi(2) / expected)
        .sum();
    // 47 degrees of freedom: it exceeds 110 less than once in a million times.
    assert!(square < 110.0, "{square}");
}

/// They are the model's own, whatever was sampled from: those that scoring gives.
#[test]
fn log_probabilities_are_those_of_scoring() {
    for name in MODELS {
        let model = model(name);
        let prompts = [text(1, 9), text(2, 3)];
        for options in [sampled(2), greedy(8)] {
            let all = model.generate(&prompts, &options, &mut ()).unwrap();
            for (prompt, generated) in prompts
                .iter()
                .zip(&all)
                .flat_map(|(prompt, all)| all.iter().map(move |it| (prompt, it)))
            {
                let whole = [&prompt[..], &generated.tokens].concat();
                let next = |(place, token): (usize, &u32)| Place {
                    row: prompt.len() + place - 1,
                    next: *token,
                };
                let places: Vec<Place> = generated.tokens.iter().enumerate().map(next).collect();
                let forward = model.forward(Sequences::new(&[whole]), Keep::Nothing).unwrap();
                let scores = model.scores(forward.states(), &places).unwrap();
                assert_eq!(scores.len(), generated.log_probabilities.len());
                for (score, ours) in scores.iter().zip(&generated.log_probabilities) {
                    let off = (score.log_probability - ours).abs();
                    assert!(off < 1e-4, "{name}: {ours}, scored {}", score.log_probability);
                }
            }
        }
    }
}

/// Stops rows by what they say, and everything after so many steps.
#[derive(Default)]
struct Watch {
    ends_with: Vec<u32>,
    most_steps: Option<usize>,
    steps: Vec<GenerateProgress>,
}

impl GenerateWatch for Watch {
    fn stops(&mut self, _: usize, _: u32, tokens: &[u32]) -> bool {
        !self.ends_with.is_empty() && tokens.ends_with(&self.ends_with)
    }

    fn step(&mut self, progress: GenerateProgress) {
        self.steps.push(progress);
    }

    fn is_stopped(&self) -> bool {
        self.most_steps.is_some_and(|most| self.steps.len() >= most)
    }
}

/// How a continuation ends by several rules.
#[test]
fn a_continuation_ends_where_it_is_told() {
    let model = model("gpt_neox");
    let prompts: Vec<Vec<u32>> =
        serde_json::from_value(expected()["generation"]["prompts"].clone()).unwrap();
    let free = |options: &GenerateOptions, watch: &mut Watch| -> Vec<Generated> {
        let all = model.generate(&prompts, options, watch).unwrap();
        all.into_iter().flatten().collect()
    };
    let whole = free(&greedy(12), &mut Watch::default());
    // The first row says 45 22 25 four times.
    assert_eq!(whole[0].tokens[..6], [45, 22, 25, 45, 22, 25]);
    let by_token = GenerateOptions { stop_tokens: vec![25, 3], ..greedy(12) };
    let by_token = free(&by_token, &mut Watch::default());
    assert_eq!(by_token[0].tokens, [45, 22, 25]);
    assert_eq!(by_token[2].tokens, [10, 44, 12, 3]);
    let mut watch = Watch { ends_with: vec![25, 45], ..Watch::default() };
    let by_hook = free(&greedy(12), &mut watch);
    assert_eq!(by_hook[0].tokens, [45, 22, 25, 45]);
    assert_eq!((by_hook[0].finish, by_hook[2].finish), (FinishReason::Stop, FinishReason::Length));
    assert_eq!(by_hook[2], whole[2]);
    // Prompts of 6, 3 and 5 tokens.
    let full = GenerateOptions { context: Some(8), ..greedy(12) };
    let full = free(&full, &mut Watch::default());
    for (full, (whole, count)) in full.iter().zip(whole.iter().zip([2, 5, 3])) {
        assert_eq!(full.tokens, whole.tokens[..count]);
        assert_eq!(full.log_probabilities, whole.log_probabilities[..count]);
        assert_eq!(full.finish, FinishReason::Length);
    }
}

#[test]
fn who_watches_sees_every_step_and_can_stop() {
    let model = model("bloom");
    let prompts = [text(1, 3), text(2, 4), text(3, 5)];
    let options = GenerateOptions { rows_at_once: 2, ..greedy(4) };
    let mut watch = Watch::default();
    model.generate(&prompts, &options, &mut watch).unwrap();
    let seen: Vec<_> = watch.steps.iter().map(|it| (it.done, it.total, it.tokens)).collect();
    let two = [(0, 3, 2), (0, 3, 4), (0, 3, 6), (2, 3, 8)];
    assert_eq!(seen, [&two[..], &[(2, 3, 9), (2, 3, 10), (2, 3, 11), (3, 3, 12)]].concat());
    let mut watch = Watch { most_steps: Some(5), ..Watch::default() };
    let error = model.generate(&prompts, &options, &mut watch).unwrap_err();
    assert_eq!(error.to_string(), "stopped with 2 of 3 rows done");
    assert!(matches!(error, GenerateError::Stopped { done: 2, total: 3 }));
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let model = model("llama");
    let none: [&[u32]; 0] = [];
    assert!(model.generate(&none, &greedy(3), &mut ()).unwrap().is_empty());
    let said = |prompts: &[&[u32]], options: &GenerateOptions| {
        model.generate(prompts, options, &mut ()).unwrap_err().to_string()
    };
    let context = model.config().context().unwrap();
    let long = vec![3; context];
    assert_eq!(said(&[&[3], &[]], &greedy(3)), "prompt 1 is empty");
    assert_eq!(
        said(&[&[3], &[7, 48]], &greedy(3)),
        "prompt 1 holds the token 48, which is not among the 48 of the model"
    );
    assert_eq!(
        said(&[&[3], &[7], &long], &greedy(3)),
        format!(
            "prompt 2 has {context} tokens; the context of {context} leaves no room for one more"
        )
    );
    // The model's context stays, whatever more is asked for; less is less.
    let more = GenerateOptions { context: Some(2 * context), ..greedy(3) };
    assert!(said(&[&long], &more).contains(&format!("the context of {context} leaves")));
    let less = GenerateOptions { context: Some(2), ..greedy(3) };
    assert!(said(&[&[1, 2]], &less).contains("the context of 2 leaves"));
    let sampling = |sampling| GenerateOptions { sampling, ..GenerateOptions::default() };
    let plain = SamplingOptions::default();
    for (options, expected) in [
        (
            GenerateOptions { samples: 0, ..greedy(3) },
            "0 samples a prompt; 1 to 65536 are possible",
        ),
        (GenerateOptions { samples: 65_537, ..greedy(3) }, "65537 samples"),
        (greedy(0), "max new tokens are 0"),
        (GenerateOptions { rows_at_once: 0, ..greedy(3) }, "rows at once are 0"),
        (GenerateOptions { first_row: u32::MAX, ..greedy(3) }, "2 prompts are too many"),
        (sampling(SamplingOptions { temperature: -1.0, ..plain.clone() }), "temperature -1 is"),
        (sampling(SamplingOptions { temperature: f64::NAN, ..plain.clone() }), "temperature NaN"),
        (sampling(SamplingOptions { temperature: 1e-9, ..plain.clone() }), "neither 0 nor"),
        (sampling(SamplingOptions { top_k: Some(0), ..plain.clone() }), "top k of 0"),
        (sampling(SamplingOptions { top_p: 0.0, ..plain.clone() }), "top p of 0"),
        (sampling(SamplingOptions { top_p: 1.1, ..plain.clone() }), "top p of 1.1"),
        (sampling(SamplingOptions { repetition_penalty: 0.0, ..plain }), "penalty of 0"),
    ] {
        let error = said(&[&[3], &[4]], &options);
        assert!(error.contains(expected), "{error}");
    }
}

/// Weights that are too large give no token, and say so.
#[test]
fn logits_that_are_not_finite_are_an_error() {
    let mut model = model("bloom");
    let id = model.parameters().id("transformer.word_embeddings.weight").unwrap();
    let shape = model.parameters().get(id).shape.clone();
    let table = model.parameters_mut().iter_mut().next().unwrap();
    assert_eq!(table.shape, shape);
    table.values[7 * shape[1]] = f32::INFINITY;
    let options = GenerateOptions { samples: 2, ..greedy(3) };
    let error = model.generate(&[&[3, 5][..], &[3, 7]], &options, &mut ()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the logits after 2 tokens of prompt"), "{text}");
    assert!(matches!(error, GenerateError::NotFinite { .. }));
}
