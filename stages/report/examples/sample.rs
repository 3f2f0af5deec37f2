//! Writes a report of made-up numbers, to look at: `cargo run -p okapi-report --example sample -- FOLDER`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use okapi_report::published::{self, Base};
use okapi_report::published_lengths::PublishedSet;
use okapi_report::{
    AnswerScore, Curve, CurvePoint, DataSet, Fact, NodeTime, Rejects, Report, RootObject, RootVerb,
    RootVerbs, Score, Share, Source, Spend, Task,
};

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    let report = sample();
    std::fs::write(folder.join("sample.html"), okapi_report::html(&report))?;
    std::fs::write(folder.join("sample.md"), okapi_report::markdown(&report))?;
    std::fs::write(folder.join("sample.json"), okapi_report::json(&report))
}

/// Numbers from 0 to 1 that look like chance, and are the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }

    /// About normal, with mean 0 and deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

fn source(noise: &mut Noise, node: String) -> Source {
    let digits = (0..8).map(|_| format!("{:08x}", (noise.next() * 4e9) as u32));
    Source { node, action: digits.collect() }
}

fn sample() -> Report {
    let mut noise = Noise(26);
    let languages: Vec<&str> = std::iter::once("en")
        .chain(published::tables()[0].rows.iter().map(|row| row.language.as_str()))
        .collect();
    let model = "sample-bloom";
    let mut report = Report {
        version: Report::VERSION,
        title: "Okapi in 26 languages: sample data".to_owned(),
        summary: "Every number of ours here is made up, to show what a report looks like. The numbers of the paper \
                  are as it prints them."
            .to_owned(),
        compare_with: BTreeMap::from([(model.to_owned(), Base::Bloom)]),
        compare_sets: BTreeMap::from([
            ("Alpaca".to_owned(), PublishedSet::Alpaca),
            ("Generated".to_owned(), PublishedSet::Generated),
        ]),
        ..Report::default()
    };
    let facts = [
        ("Pipeline", "pipelines/okapi-26.yaml"),
        ("Profile", "offline"),
        ("Seeds", "1, 2, 3"),
        ("Nodes", "1,043"),
        ("Languages", "26 and English"),
        ("Run", "20261121-1"),
    ];
    report.facts =
        facts.map(|(name, value)| Fact { name: name.to_owned(), value: value.to_owned() }).to_vec();
    scores(&mut report, &mut noise, &languages, model);
    answers(&mut report, &mut noise);
    curves(&mut report, &mut noise, &languages, model);
    data(&mut report, &mut noise, &languages);
    resources(&mut report, &mut noise);
    report.graph = Some(GRAPH.to_owned());
    report
}

fn scores(report: &mut Report, noise: &mut Noise, languages: &[&str], model: &str) {
    for (task, shots, questions, level, gains) in [
        (Task::Arc, 25, 1170, 27.5, [0.0, 1.1, 2.9]),
        (Task::HellaSwag, 0, 9100, 36.0, [0.0, 1.2, 3.0]),
        (Task::Mmlu, 25, 13_200, 26.8, [0.0, -0.2, 0.2]),
    ] {
        for language in languages {
            let n = questions - (noise.next() * 60.0) as u64;
            let easy = noise.normal() * 4.0 - 1.5;
            for (method, gain) in ["base", "sft", "rlhf"].into_iter().zip(gains) {
                let seeds = if method == "base" { 1..=1 } else { 1..=3 };
                for seed in seeds {
                    // One language is not done yet.
                    if *language == "kn" && method == "rlhf" {
                        continue;
                    }
                    let acc_norm = (level + easy + gain + noise.normal() * 0.5) / 100.0;
                    let share = |value: f64| Share {
                        value,
                        standard_error: Some((value * (1.0 - value) / (n - 1) as f64).sqrt()),
                    };
                    let node = format!(
                        "evaluate[lang={language},method={method},seed={seed},task={task:?}]"
                    );
                    report.scores.push(Score {
                        task,
                        language: (*language).to_owned(),
                        method: method.to_owned(),
                        model: model.to_owned(),
                        parameters: Some(7_069_016_064),
                        seed,
                        protocol: "authors".to_owned(),
                        shots,
                        n,
                        acc: share(acc_norm - 0.02),
                        acc_norm: share(acc_norm),
                        source: source(noise, node),
                    });
                }
            }
        }
    }
}

fn answers(report: &mut Report, noise: &mut Noise) {
    for (size, parameters) in
        [560_000_000, 1_100_000_000, 1_700_000_000, 3_000_000_000, 7_100_000_000]
            .into_iter()
            .enumerate()
    {
        for (recipe, level, growth) in [
            ("monolingual", 78.0, 7.0),
            ("multilingual", 76.0, 9.0),
            ("english_only", 62.0, 2.0),
            ("downsampled", 72.0, 6.0),
        ] {
            for language in ["en", "fr", "ru", "zh"] {
                for seed in 1..=3 {
                    let judged = level + growth * size as f64 + noise.normal() * 2.5;
                    let kept = if recipe == "english_only" { 0.75 } else { 0.96 };
                    report.answers.push(AnswerScore {
                        base: "sample-bloom".to_owned(),
                        parameters,
                        tuning: "lora".to_owned(),
                        recipe: recipe.to_owned(),
                        language: language.to_owned(),
                        seed,
                        n: 50,
                        score: (judged * kept).round(),
                        judged: Some(judged.round()),
                        source: source(
                            noise,
                            format!("judge[lang={language},recipe={recipe},seed={seed}]"),
                        ),
                    });
                }
            }
        }
    }
}

fn curves(report: &mut Report, noise: &mut Noise, languages: &[&str], model: &str) {
    for (stage, measures) in [
        ("sft", &[("loss", 1.1, 2.6), ("validation_loss", 1.25, 2.5)][..]),
        ("reward_model", &[("loss", 0.45, 0.7), ("accuracy", 0.74, 0.5)][..]),
        ("ppo", &[("reward", 1.8, 0.1), ("kl", 6.5, 0.4)][..]),
    ] {
        for language in languages.iter().take(4) {
            for seed in 1..=3 {
                let ease = noise.normal() * 0.06;
                let point = |step: u64, noise: &mut Noise| {
                    let done = 1.0 - (-(step as f64) / 120.0).exp();
                    let value = |&(name, end, start): &(&str, f64, f64)| {
                        let span = (end - start).abs();
                        let value =
                            start + (end - start) * done + span * (ease + noise.normal() * 0.04);
                        (name.to_owned(), value)
                    };
                    CurvePoint { step, measures: measures.iter().map(value).collect() }
                };
                let points = (1..=400).map(|step| point(step, noise)).collect();
                report.curves.push(Curve {
                    stage: stage.to_owned(),
                    model: model.to_owned(),
                    language: Some((*language).to_owned()),
                    seed,
                    points,
                    source: source(noise, format!("{stage}[lang={language},seed={seed}]")),
                });
            }
        }
    }
}

fn data(report: &mut Report, noise: &mut Noise, languages: &[&str]) {
    for (name, rows, prompt, response) in
        [("Alpaca", 52_002, 57.0, 80.0), ("Generated", 106_480, 60.0, 83.0)]
    {
        for language in languages {
            let long = 1.0 + noise.normal().abs() * 0.25;
            report.statistics.push(DataSet {
                name: name.to_owned(),
                language: (*language).to_owned(),
                rows,
                unit: "tokens".to_owned(),
                prompt: prompt * long.sqrt(),
                response: Some(response * long),
                root_verbs: (*language == "en" && name == "Generated").then(root_verbs),
                source: source(noise, format!("describe[lang={language}]")),
            });
        }
    }
    for (stage, reason, count) in [
        ("self_instruct", "too similar to another instruction", 18_204),
        ("translate", "wrong script", 4_310),
        ("translate", "a placeholder is missing", 1_922),
        ("self_instruct", "too short", 871),
        ("rank", "ranks are no permutation", 412),
        ("translate", "not JSON", 96),
    ] {
        for language in languages.iter().take(3) {
            report.rejects.push(Rejects {
                stage: stage.to_owned(),
                reason: reason.to_owned(),
                count: count / 3,
                source: source(noise, format!("{stage}[lang={language}]")),
            });
        }
    }
}

fn root_verbs() -> RootVerbs {
    let verb = |(verb, count, nouns): (&str, u64, [&str; 4])| {
        let objects = (3..)
            .zip(nouns)
            .map(|(part, noun)| RootObject { object: noun.to_owned(), count: count / part });
        RootVerb { verb: verb.to_owned(), count, objects: objects.collect() }
    };
    let verbs = [
        ("write", 15_200, ["story", "poem", "essay", "email"]),
        ("give", 5_400, ["example", "advice", "summary", "list"]),
        ("create", 4_900, ["list", "plan", "table", "story"]),
        ("explain", 3_100, ["concept", "difference", "term", "process"]),
        ("find", 2_700, ["word", "error", "synonym", "answer"]),
    ];
    RootVerbs { covered_share: 0.114, verbs: verbs.map(verb).into() }
}

fn resources(report: &mut Report, noise: &mut Noise) {
    for (stage, requests, prompt, completion, cost) in [
        ("self_instruct", 21_000, 9_800_000, 8_100_000, 30_900_000),
        ("translate", 4_108_000, 712_000_000, 934_000_000, 2_936_000_000),
        ("rank", 2_184_000, 1_530_000_000, 410_000_000, 3_115_000_000),
    ] {
        report.spend.push(Spend {
            stage: stage.to_owned(),
            requests,
            prompt_tokens: prompt,
            completion_tokens: completion,
            micro_usd: Some(cost),
            source: source(noise, format!("{stage}[lang=de]")),
        });
    }
    for (stage, seconds) in [
        ("pretrain", 121.0),
        ("ppo", 74.5),
        ("sft", 41.2),
        ("evaluate", 38.0),
        ("reward_model", 21.9),
        ("translate", 9.6),
        ("self_instruct", 3.1),
    ] {
        for language in ["de", "ru"] {
            report.times.push(NodeTime {
                stage: stage.to_owned(),
                seconds: seconds * (0.9 + noise.next() * 0.2),
                source: source(noise, format!("{stage}[lang={language}]")),
            });
        }
    }
}

const GRAPH: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 90" width="620" height="90"
font-family="sans-serif" font-size="13" text-anchor="middle"><g fill="#eef3f7" stroke="#1f5f8b">
<rect x="5" y="25" width="110" height="40" rx="5"/><rect x="130" y="25" width="110" height="40" rx="5"/>
<rect x="255" y="25" width="110" height="40" rx="5"/><rect x="380" y="25" width="110" height="40" rx="5"/>
<rect x="505" y="25" width="110" height="40" rx="5"/><path d="M115 45h15M240 45h15M365 45h15M490 45h15"/></g>
<text x="60" y="50">self_instruct</text><text x="185" y="50">translate</text><text x="310" y="50">sft</text>
<text x="435" y="50">ppo</text><text x="560" y="50">evaluate</text></svg>"##;
