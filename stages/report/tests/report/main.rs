//! Reports as they are written.

mod browser;

use std::collections::{BTreeMap, BTreeSet};

use okapi_report::published::Base;
use okapi_report::published_lengths::PublishedSet;
use okapi_report::{
    AnswerScore, Curve, CurvePoint, DataSet, Fact, NodeTime, Rejects, Report, RootObject, RootVerb,
    RootVerbs, Score, Share, Source, Spend, Task,
};

fn source(node: &str) -> Source {
    let sum: u64 =
        node.bytes().enumerate().map(|(at, byte)| (at as u64 + 1) * u64::from(byte)).sum();
    Source { node: node.to_owned(), action: format!("{sum:0>64}") }
}

fn score(language: &str, method: &str, seed: u64, acc_norm: f64) -> Score {
    let share = |value| Share { value, standard_error: Some(0.0125) };
    Score {
        task: Task::Arc,
        language: language.to_owned(),
        method: method.to_owned(),
        model: "tiny".to_owned(),
        parameters: Some(1_600_000),
        seed,
        protocol: "authors".to_owned(),
        shots: 25,
        n: 1_000,
        acc: share(acc_norm / 2.0),
        acc_norm: share(acc_norm),
        source: source(&format!("evaluate[lang={language},method={method},seed={seed}]")),
    }
}

/// A report with something of everything.
fn report() -> Report {
    let point = |step| CurvePoint {
        step,
        measures: BTreeMap::from([("loss".to_owned(), 2.0 / step as f64)]),
    };
    Report {
        version: Report::VERSION,
        title: "A report".to_owned(),
        summary: "Of a test.".to_owned(),
        facts: vec![Fact { name: "profile".to_owned(), value: "offline".to_owned() }],
        compare_with: BTreeMap::from([("tiny".to_owned(), Base::Bloom)]),
        compare_sets: BTreeMap::from([("Generated".to_owned(), PublishedSet::Generated)]),
        score_note: "The questions are made up.".to_owned(),
        scores: vec![
            score("de", "base", 1, 0.25),
            score("de", "sft", 1, 0.28),
            score("de", "sft", 2, 0.30),
            score("de", "rlhf", 1, 0.31),
            score("de", "rlhf", 2, 0.33),
            score("te", "base", 1, 0.21),
            score("en", "sft", 1, 0.40),
            score("en", "sft", 2, 0.42),
        ],
        answers: vec![AnswerScore {
            base: "BLOOM".to_owned(),
            parameters: 560_000_000,
            tuning: "lora".to_owned(),
            recipe: "monolingual".to_owned(),
            language: "de".to_owned(),
            seed: 1,
            n: 50,
            score: 81.0,
            judged: Some(90.0),
            source: source("judge[lang=de]"),
        }],
        curves: vec![Curve {
            stage: "sft".to_owned(),
            model: "tiny".to_owned(),
            language: Some("de".to_owned()),
            seed: 1,
            points: (1..=300).map(point).collect(),
            source: source("sft[lang=de]"),
        }],
        statistics: vec![DataSet {
            name: "Generated".to_owned(),
            language: "en".to_owned(),
            rows: 106_480,
            unit: "tokens".to_owned(),
            prompt: 51.1,
            response: Some(58.2),
            root_verbs: Some(RootVerbs {
                covered_share: 0.2,
                verbs: vec![RootVerb {
                    verb: "write".to_owned(),
                    count: 15_000,
                    objects: vec![RootObject { object: "poem".to_owned(), count: 2_500 }],
                }],
            }),
            source: source("describe"),
        }],
        rejects: vec![Rejects {
            stage: "translate".to_owned(),
            reason: "wrong script".to_owned(),
            count: 1_234,
            source: source("translate[lang=de]"),
        }],
        spend: vec![Spend {
            stage: "translate".to_owned(),
            requests: 1_000,
            prompt_tokens: 200_000,
            completion_tokens: 300_000,
            micro_usd: Some(12_340_000),
            source: source("translate[lang=de]"),
        }],
        times: vec![NodeTime {
            stage: "sft".to_owned(),
            seconds: 61.0,
            source: source("sft[lang=de]"),
        }],
        graph: Some("<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_owned()),
    }
}

/// The parts of a text between two marks.
fn between<'t>(text: &'t str, from: &str, to: &str) -> Vec<&'t str> {
    text.split(from).skip(1).filter_map(|rest| Some(rest.split_once(to)?.0)).collect()
}

#[test]
fn the_table_of_scores_has_ours_and_the_paper_s() {
    let text = okapi_report::markdown(&report());
    let (_, table) = text.split_once("### ARC, tiny\n\n").unwrap();
    let (table, _) = table.split_once("\n### ").unwrap();
    // Links to sources are left out here.
    let mut plain = table.to_owned();
    while let Some((before, after)) = plain.split_once(" <sup>") {
        plain = format!("{before}{}", after.split_once("</sup>").unwrap().1);
    }
    let expected = "\
| Language | n | Base | Base, paper | BLOOMZ, paper | SFT | SFT, paper | RLHF | RLHF, paper |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| **High-resource** |  |  |  |  |  |  |  |  |
| English | 1,000 |  |  |  | 41.0 ± 1.00 |  |  |  |
| German | 1,000 | 25.0 ± 1.25 | 26.3 | 25.4 | 29.0 ± 1.00 | 24.9 | **32.0** ± 1.00 | 25.5 |
| Average of group |  | 25.0 | 31.5 | 30.7 | **35.0** ± 1.00 | 32.3 | 32.0 ± 1.00 | 34.0 |
| **Low-resource** |  |  |  |  |  |  |  |  |
| Telugu | 1,000 | 21.0 ± 1.25 | 24.3 | 25.8 |  | 23.9 |  | 24.5 |
| Average of group |  | 21.0 | 25.1 | 24.9 |  | 24.7 |  | 25.6 |
| Average |  | 23.0 | 28.2 | 27.4 | **35.0** ± 1.00 | 28.4 | 32.0 ± 1.00 | 30.0 |
| Average of those that both have |  | 23.0 | 25.3 | 25.6 | 29.0 ± 1.00 | 24.9 | **32.0** ± 1.00 | 25.5 |
";
    assert_eq!(plain.split("\n\n").next().unwrap().trim_end(), expected.trim_end());
    assert!(table.contains("languages by method: Base 2, SFT 2, RLHF 1."), "{table}");
    assert!(table.contains("as printed, over its 26 languages; ours are over the 3 here."));
}

#[test]
fn scores_by_another_protocol_are_not_passed_off_as_the_paper_s_measure() {
    let warning = "It asks with 25 shots by its authors' protocol: not the same measure.";
    let mut report = report();
    assert!(!okapi_report::markdown(&report).contains(warning));
    for score in &mut report.scores {
        score.protocol = "harness".to_owned();
    }
    assert!(okapi_report::markdown(&report).contains(warning));
}

#[test]
fn every_number_of_ours_leads_to_its_node_and_digest() {
    let report = report();
    let page = okapi_report::html(&report);
    let ids: Vec<&str> = between(&page, " id=\"", "\"");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "ids are unique");
    let links = between(&page, "href=\"#", "\"");
    assert!(links.len() > 30);
    for link in links {
        assert!(unique.contains(link), "{link}");
    }
    let (_, appendix) = page.split_once("id=\"provenance\"").unwrap();
    let sources = report.scores.iter().map(|it| &it.source);
    for Source { node, action } in sources.chain([&report.curves[0].source]) {
        let row = between(appendix, "<tr id=\"source-", "</tr>");
        let row = row.into_iter().find(|row| row.contains(node.as_str())).unwrap();
        assert!(row.contains(action.as_str()), "{row}");
    }
    // The score of English after SFT is the mean of two, and names both.
    let english = between(&page, "English</span></th>", "</tr>")[0];
    assert!(english.contains("method=sft,seed=1]") && english.contains("method=sft,seed=2]"));
}

#[test]
fn what_the_paper_s_numbers_cannot_be_compared_with_is_said_beside_them() {
    let mut report = report();
    let table_of = |report: &Report, title: &str| {
        let text = okapi_report::markdown(report);
        let (_, table) = text.split_once(&format!("### {title}\n")).unwrap();
        table.split("\n### ").next().unwrap().to_owned()
    };
    let other = "has 7.1B parameters, the one here 1.6M: their scores say nothing of each other.";
    for title in ["Averages over all languages", "ARC, tiny"] {
        let table = table_of(&report, title);
        assert!(table.contains(other) && table.contains("The questions are made up."), "{table}");
        assert!(table.contains("± is the standard error"), "{table}");
    }
    let overview = table_of(&report, "Averages over all languages");
    let languages = "Table 3 (Lai et al., 2023), BLOOM 7B. Its averages are over 26 languages";
    assert!(overview.contains(languages), "{overview}");
    let page = okapi_report::html(&report);
    let captions = between(&page, "<figcaption>", "</figcaption>");
    for caption in &captions[..2] {
        assert!(caption.contains("7.1B parameters, the one here 1.6M."), "{caption}");
    }
    report.scores.iter_mut().for_each(|score| score.parameters = Some(7_069_016_064));
    assert!(!okapi_report::markdown(&report).contains("say nothing of each other"));
}

#[test]
fn a_mean_leads_to_all_that_it_is_made_of() {
    let report = report();
    let page = okapi_report::html(&report);
    let overview = between(&page, "<h3 id=\"overview\">", "</table>")[0];
    let numbers = between(overview, "<td class=\"number\"", "</td>");
    assert_eq!(numbers.len(), 4, "languages, base, SFT, RLHF");
    for number in &numbers {
        assert!(number.contains("<a href=\"#source"), "{number}");
    }
    // SFT has two seeds in German and in English.
    let anchor = between(numbers[2], "href=\"#", "\"")[0];
    let row = between(&page, &format!("<tr id=\"{anchor}\">"), "</tr>")[0];
    assert_eq!(row.matches("href=\"#source-").count(), 4, "{row}");
    assert!(row.contains("Averages over all languages: ARC, tiny, SFT"), "{row}");
    let data: serde_json::Value = serde_json::from_str(&okapi_report::json(&report)).unwrap();
    for table in data["tables"].as_array().unwrap() {
        for section in table["sections"].as_array().unwrap() {
            for row in
                ["rows", "summary"].into_iter().flat_map(|part| section[part].as_array().unwrap())
            {
                for (cell, column) in row["cells"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .zip(table["columns"].as_array().unwrap())
                {
                    let is_ours = column["kind"] == "number" && !cell["value"].is_null();
                    let is_listed = ["No.", "Rank"].contains(&column["title"].as_str().unwrap());
                    let is_sourced = !cell["sources"].as_array().unwrap().is_empty();
                    assert!(!is_ours || is_listed || is_sourced, "{}: {cell}", table["id"]);
                }
            }
        }
    }
    // What has many is a row in Markdown too, and no list is out of order.
    let markdown = okapi_report::markdown(&report);
    assert!(markdown.contains("### Means and sums") && markdown.contains("<sup>M"), "{markdown}");
    for list in between(&markdown, "<sup>", "</sup>") {
        let numbers: Vec<usize> = list.split(", ").filter_map(|it| it.parse().ok()).collect();
        assert!(numbers.is_sorted(), "{list}");
    }
}

#[test]
fn every_number_says_where_it_comes_from() {
    let page = okapi_report::html(&report());
    let (shown, appendix) = page.split_once("<section id=\"provenance\">").unwrap();
    let numbers = between(shown, "<td class=\"number", "</td>");
    let numbers: Vec<_> = numbers.into_iter().filter(|it| !it.ends_with("\">")).collect();
    assert!(numbers.len() > 60);
    for number in numbers {
        assert!(number.contains(" title=\""), "{number}");
    }
    assert!(!appendix.contains("<section"), "it is the last one");
}

#[test]
fn every_chart_has_a_title_and_a_description() {
    let page = okapi_report::html(&report());
    let charts = between(&page, "<svg ", "</svg>");
    assert_eq!(charts.len(), 12);
    for chart in charts {
        let [title, description] = between(chart, "aria-labelledby=\"", "\"")[0]
            .split(' ')
            .map(|id| between(chart, &format!(" id=\"{id}\">"), "<")[0])
            .collect::<Vec<_>>()[..]
        else {
            panic!("{chart}");
        };
        assert!(!title.is_empty() && !description.is_empty());
        let (opening, _) = chart.split_once('>').unwrap();
        assert!(opening.contains("viewBox=\"0 0 400 ") && !opening.contains(" width="));
    }
}

#[test]
fn nothing_that_comes_from_data_is_markup() {
    let evil = "<script>alert(\"1\")</script>'\" onload='x";
    let text = || evil.to_owned();
    let mut report = report();
    report.title = text();
    report.summary = text();
    report.facts = vec![Fact { name: text(), value: text() }];
    report.compare_with = BTreeMap::from([(text(), Base::Bloom)]);
    for score in &mut report.scores {
        score.model = text();
        score.protocol = text();
        score.source.node.push_str(evil);
    }
    report.scores[0].language = text();
    report.scores[0].method = text();
    for curve in &mut report.curves {
        (curve.stage, curve.model, curve.language) = (text(), text(), Some(text()));
        curve.source = Source { node: text(), action: text() };
    }
    let answer = &mut report.answers[0];
    (answer.base, answer.tuning, answer.recipe) = (text(), text(), text());
    (answer.language, answer.source.node) = (text(), text());
    let set = &mut report.statistics[0];
    (set.name, set.language, set.unit) = (text(), text(), text());
    let verb = &mut set.root_verbs.as_mut().unwrap().verbs[0];
    (verb.verb, verb.objects[0].object) = (text(), text());
    let rejects = &mut report.rejects[0];
    (rejects.stage, rejects.reason) = (text(), text());
    report.spend[0].stage = text();
    report.times[0].stage = text();
    report.graph = Some(format!("<svg>{evil}</svg>"));

    let page = okapi_report::html(&report);
    assert_eq!(page.matches("<script").count(), 1, "our own");
    assert!(!page.contains("alert(\"") && !page.contains("onload='"));
    assert!(
        page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&#39;&quot; onload=&#39;x")
    );
    let markdown = okapi_report::markdown(&report);
    assert!(!markdown.contains("<script"));
    // A line of a table keeps its cells.
    assert!(markdown.lines().all(|line| !line.starts_with('|') || line.ends_with('|')));
}

#[test]
fn the_same_report_is_the_same_bytes_in_any_order() {
    let (mut report, mut reordered) = (report(), report());
    reordered.scores.reverse();
    for it in [&mut reordered, &mut report] {
        let mut curve = it.curves[0].clone();
        curve.seed = 2;
        it.curves.push(curve);
        let mut time = it.times[0].clone();
        time.seconds = 0.1;
        it.times.push(time);
    }
    reordered.curves.reverse();
    reordered.times.reverse();
    assert_eq!(okapi_report::html(&report), okapi_report::html(&reordered));
    assert_eq!(okapi_report::markdown(&report), okapi_report::markdown(&reordered));
    assert_eq!(okapi_report::json(&report), okapi_report::json(&report.clone()));
}

#[test]
fn the_data_has_the_report_and_its_tables() {
    let report = report();
    let data: serde_json::Value = serde_json::from_str(&okapi_report::json(&report)).unwrap();
    let read: Report = serde_json::from_value(data["report"].clone()).unwrap();
    assert_eq!(read, report);
    let tables = data["tables"].as_array().unwrap();
    let ids: Vec<&str> = tables.iter().map(|table| table["id"].as_str().unwrap()).collect();
    let expected = [
        "overview",
        "gains",
        "scores-1",
        "all-scores",
        "answer-means",
        "answers-1",
        "curves",
        "statistics",
        "root-verbs",
        "rejects",
        "spend",
        "times",
        "source-sets",
        "sources",
    ];
    assert_eq!(ids, expected);
    for table in tables {
        let columns = table["columns"].as_array().unwrap().len();
        for section in table["sections"].as_array().unwrap() {
            let rows = ["rows", "summary"].map(|part| section[part].as_array().unwrap());
            for row in rows.into_iter().flatten() {
                assert_eq!(row["cells"].as_array().unwrap().len(), columns, "{}", table["id"]);
            }
        }
    }
}

#[test]
fn data_sets_stand_beside_the_paper_s() {
    let markdown = okapi_report::markdown(&report());
    let row = |from: &str| markdown.lines().find(|line| line.starts_with(from)).unwrap();
    assert!(row("| English | 106,480").contains(" 51.1 "), "{markdown}");
    assert!(row("| English | 106,480").contains("| 51.2 |"), "{markdown}");
    assert!(row("| Average that the paper prints").contains("| 60.3 |"), "{markdown}");
    assert!(row("| Generated | write").ends_with("| poem 2,500 |"), "{markdown}");
    assert!(
        markdown.contains("20.0 % of the 106,480 instructions; in the paper's Figure 1 11.4 %")
    );
}

#[test]
fn open_ended_answers_are_compared_by_tuning_and_family() {
    let mut report = report();
    let answer = report.answers[0].clone();
    for (base, tuning) in [("Pythia", "lora"), ("BLOOM", "full")] {
        report.answers.push(AnswerScore {
            base: base.to_owned(),
            tuning: tuning.to_owned(),
            source: source(&format!("judge[base={base},tuning={tuning}]")),
            ..answer.clone()
        });
    }
    let page = okapi_report::html(&report);
    assert!(page.contains("<h3>Means over languages</h3>"));
    assert!(page.contains("BLOOM, full-parameter, 560M") && page.contains("Pythia, LoRA, 560M"));
    // Two families were tuned with LoRA, one in full.
    assert!(page.contains("<h3>Families, LoRA</h3>") && !page.contains("<h3>Families, full"));
}

#[test]
fn a_report_of_little_or_nothing_is_a_report() {
    let empty = Report { title: "Nothing yet".to_owned(), ..Report::default() };
    let page = okapi_report::html(&empty);
    assert!(page.contains("<h1>Nothing yet</h1>") && !page.contains("<section"));
    assert_eq!(okapi_report::markdown(&empty), "# Nothing yet\n");
    let one = Report { scores: vec![score("xx", "mine", 1, 0.5)], ..Report::default() };
    let page = okapi_report::html(&one);
    assert!(page.contains("Not in the paper") && page.contains("<span title=\"xx\">xx</span>"));
    assert!(!page.contains("Table 3"), "nothing to compare with was named");
}

#[test]
fn the_page_needs_no_network() {
    let page = okapi_report::html(&report());
    for name in ["src=\"", "href=\"", "url("] {
        for address in between(&page, name, "\"") {
            assert!(address.starts_with('#') || address.starts_with("data:"), "{address}");
        }
    }
    assert!(!page.contains("@import") && !page.contains("fetch("));
}

#[test]
fn a_report_of_everything_is_a_few_megabytes() {
    let languages = [
        "ru", "de", "zh", "fr", "es", "it", "nl", "vi", "id", "ar", "hu", "ro", "da", "sk", "uk",
        "ca", "sr", "hr", "hi", "bn", "ta", "ne", "ml", "mr", "te", "kn",
    ];
    let mut report = report();
    (report.scores, report.curves) = (Vec::new(), Vec::new());
    let wave = |step: u64, of: usize| 2.0 + ((step * 7 + of as u64 * 13) as f64).sin();
    for (number, language) in languages.iter().enumerate() {
        for seed in 1..=3 {
            for method in ["base", "sft", "rlhf"] {
                for task in [Task::Arc, Task::HellaSwag, Task::Mmlu] {
                    let mut score = score(language, method, seed, 0.2 + number as f64 / 100.0);
                    score.source.node =
                        format!("evaluate[lang={language},task={},seed={seed}]", task.key());
                    score.task = task;
                    report.scores.push(score);
                }
            }
            for stage in ["sft", "reward_model", "ppo"] {
                let measures: &[&str] = match stage {
                    "ppo" => {
                        &["reward", "kl", "policy_loss", "value_loss", "entropy", "clip_fraction"]
                    }
                    _ => &["loss", "learning_rate", "gradient_norm", "accuracy"],
                };
                let measure = |step, (of, name): (usize, &&str)| {
                    ((*name).to_owned(), wave(step, of + number))
                };
                let point = |step| CurvePoint {
                    step,
                    measures: measures.iter().enumerate().map(|it| measure(step, it)).collect(),
                };
                report.curves.push(Curve {
                    stage: stage.to_owned(),
                    language: Some((*language).to_owned()),
                    model: "tiny".to_owned(),
                    seed,
                    // As many as the stage leaves of a curve.
                    points: (1..=200).map(|place| point(place * 8)).collect(),
                    source: source(&format!("{stage}[lang={language},seed={seed}]")),
                });
            }
        }
    }
    let megabytes = |text: &str| text.len() as f64 / 1e6;
    let html = okapi_report::html(&report);
    assert!(megabytes(&html) < 6.0, "{} MB of HTML", megabytes(&html));
    let markdown = okapi_report::markdown(&report);
    assert!(megabytes(&markdown) < 2.0, "{} MB of Markdown", megabytes(&markdown));
    let json = okapi_report::json(&report);
    assert!(megabytes(&json) < 20.0, "{} MB of JSON", megabytes(&json));
}
