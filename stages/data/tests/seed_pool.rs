//! The pool of seed tasks: what self-instruct begins with.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;

use okapi_data::Instruction;
use okapi_data::import::{ImportOptions, RowKind, import};
use okapi_data::rouge::rouge_l;
use okapi_data::source::Format;

fn pool() -> Vec<Instruction> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/okapi/seed_tasks.jsonl");
    let options = ImportOptions {
        kind: RowKind::Instructions,
        format: Format::JsonLines,
        mapping: Default::default(),
        convert: false,
    };
    let mut rows = Vec::new();
    import(&path, &options, &mut rows, &mut |_| true).unwrap();
    rows.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn it_has_the_papers_205_tasks() {
    let pool = pool();
    assert_eq!(pool.len(), 205);
    let classification = pool.iter().filter(|task| task.is_classification == Some(true)).count();
    assert_eq!(classification, 29);
    let names: BTreeSet<_> = pool.iter().map(|task| task.name.clone().unwrap()).collect();
    assert_eq!(names.len(), 205);
    for (number, task) in pool.iter().enumerate() {
        assert_eq!(task.id, format!("seed_task_{number}"));
        assert!(!task.output.trim().is_empty(), "{}", task.id);
        // The last thirty, of the kinds that Okapi adds, are about a text of their own.
        assert!(number < 175 || !task.input.is_empty(), "{}", task.id);
    }
}

#[test]
fn no_two_tasks_are_alike() {
    let pool = pool();
    let mut openings = BTreeSet::new();
    for (number, task) in pool.iter().enumerate() {
        let opening: Vec<_> = task.instruction.split_whitespace().take(3).collect();
        assert!(openings.insert(opening.join(" ").to_lowercase()), "{}", task.instruction);
        for other in &pool[..number] {
            let score = rouge_l(&task.instruction, &other.instruction).f;
            assert!(score <= 0.6, "{score}: {} / {}", task.instruction, other.instruction);
        }
    }
}
