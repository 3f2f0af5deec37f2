//! Stores that share a remote.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::config;
use crate::model::{Edit, Model, edits, models};
use crate::project::Project;

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn what_one_has_run_another_fetches(
        model in models(),
        edits in prop::collection::vec(edits(), 1..4),
        jobs in 1_u32..4,
    ) {
        check_sharing(model, &edits, jobs)?;
    }

    #[test]
    fn whatever_is_damaged_on_the_remote_the_outputs_are_those_without_one(
        model in models(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4), 1..6),
        jobs in 1_u32..4,
    ) {
        check_damage(&model, &damages, jobs)?;
    }
}

fn check_sharing(mut model: Model, edits: &[Edit], jobs: u32) -> Result<(), TestCaseError> {
    let remote = tempfile::tempdir().unwrap();
    for step in 0..=edits.len() {
        if step > 0 {
            model.apply(&edits[step - 1]);
        }
        let graph = model.graph();
        let clean = Project::new();
        clean.write_sources(&model);
        let expected = clean.run(&graph, jobs);

        let one = shared(&model, remote.path());
        let first = one.run(&graph, jobs);
        prop_assert_eq!(&first.outputs, &expected.outputs);

        let two = shared(&model, remote.path());
        let plan = two.plan(&graph);
        let all: BTreeSet<String> = expected.outputs.keys().cloned().collect();
        prop_assert_eq!(&plan.fetched, &all, "the plan knows all that is there");
        let second = two.run(&graph, jobs);
        prop_assert!(second.executed.is_empty(), "{:?} ran", second.executed);
        prop_assert_eq!(&second.outputs, &expected.outputs);
        prop_assert_eq!(&second.actions, &expected.actions);
        prop_assert_eq!(&second.warnings, &Vec::<String>::new());
        two.assert_store_is_clean();
        // What has been fetched is here.
        let again = two.plan(&graph);
        prop_assert_eq!(&again.cached, &all);
        let third = two.run(&graph, jobs);
        prop_assert!(third.executed.is_empty() && third.fetched.is_empty());
    }
    Ok(())
}

fn check_damage(
    model: &Model,
    damages: &[(prop::sample::Index, u8)],
    jobs: u32,
) -> Result<(), TestCaseError> {
    let remote = tempfile::tempdir().unwrap();
    let graph = model.graph();
    let first = shared(model, remote.path()).run(&graph, jobs);
    let files = files(remote.path());
    for (index, damage) in damages {
        let path = index.get(&files);
        let Ok(mut bytes) = fs::read(path) else { continue };
        match damage {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.push(b' '),
            2 => bytes.iter_mut().take(1).for_each(|byte| *byte ^= 32),
            _ => {
                fs::remove_file(path).unwrap();
                continue;
            }
        }
        fs::write(path, bytes).unwrap();
    }
    let two = shared(model, remote.path());
    let second = two.run(&graph, jobs);
    prop_assert_eq!(&second.outputs, &first.outputs);
    prop_assert_eq!(&second.actions, &first.actions);
    two.assert_store_is_clean();
    prop_assert!(two.run(&graph, jobs).executed.is_empty());
    // Whoever found something damaged has sent it anew. Where a result was lost nobody has looked at its objects yet.
    let third = shared(model, remote.path()).run(&graph, jobs);
    prop_assert_eq!(&third.outputs, &first.outputs);
    let fourth = shared(model, remote.path()).run(&graph, jobs);
    prop_assert!(fourth.executed.is_empty(), "{:?} ran", fourth.executed);
    prop_assert_eq!(&fourth.warnings, &Vec::<String>::new());
    Ok(())
}

/// A project of its own with the same files and the same remote.
fn shared(model: &Model, remote: &Path) -> Project {
    let mut project = Project::new();
    project.write_sources(model);
    project.remote = Some(remote.to_owned());
    project
}

/// All files below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![folder.to_owned()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { stack.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
