//! The laws of the engine, over random graphs and random edits:
//!
//! 1. an incremental run gives exactly what a clean run gives;
//! 2. it runs nothing that did not need to run: exactly what an oracle names that knows every
//!    content, and every action that has ever been done;
//! 3. what `plan` calls cached is cached, and nothing runs that it does not announce;
//! 4. a run after a run runs nothing;
//! 5. what one store has sent to a remote another fetches, and runs nothing; whatever is damaged there costs work only.
//!
//! The graphs are made of one stage that mixes its inputs, its params and its files. Some params
//! make it drop what it read, so that different inputs give the same output: early cutoff.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod identity;
mod model;
mod project;
mod sharing;

use std::collections::BTreeSet;

use proptest::prelude::*;

use model::{Edit, Model, ModelNode, edits, models};
use okapi_engine::lineage::LineageScope;
use project::Project;

pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn an_incremental_run_is_a_clean_run_and_runs_nothing_else(
        model in models(),
        edits in prop::collection::vec(edits(), 1..8),
        jobs in 1_u32..4,
    ) {
        check_edits(model, &edits, jobs)?;
    }
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn whichever_write_fails_the_next_run_ends_as_a_clean_one(
        mut model in models(),
        edit in edits(),
        jobs in 1_u32..4,
    ) {
        let clean = Project::new();
        clean.write_sources(&model);
        let expected = clean.run(&model.graph(), 1);
        // The same faults again, in a store that holds the results of an edited pipeline.
        let before = model.clone();
        model.apply(&edit);
        for has_results in [false, true] {
            let mut survived = false;
            for writes in 0..2000 {
                let mut project = Project::new();
                if has_results {
                    project.write_sources(&model);
                    project.run(&model.graph(), jobs);
                }
                project.write_sources(&before);
                project.fail_writes_after(writes);
                let faulty = project.try_run(&before.graph(), jobs);
                project.forget_handles();
                project.assert_store_is_clean();
                let run = project.run(&before.graph(), jobs);
                prop_assert_eq!(&run.outputs, &expected.outputs, "after {} writes", writes);
                prop_assert_eq!(&run.actions, &expected.actions);
                if let Ok(faulty) = faulty {
                    prop_assert_eq!(&faulty.outputs, &expected.outputs);
                    survived = true;
                    break;
                }
            }
            prop_assert!(survived, "two thousand writes were not enough");
        }
    }
}

#[test]
fn a_lineage_names_all_ancestors_and_is_kept_with_the_result() {
    let node = |reads: &[usize], is_witness| ModelNode {
        reads: reads.iter().copied().collect(),
        source: None,
        salt: 2,
        keep: 1,
        is_witness,
    };
    let model = Model {
        nodes: vec![node(&[], false), node(&[0], false), node(&[], false), node(&[1], true)],
        sources: vec![],
    };
    let project = Project::new();
    let run = project.run(&model.graph(), 1);
    let action = |name: &str| run.actions[name].to_string();
    // Pinned: if this changes, every report is made anew.
    let expected = format!(
        "{{\"ancestors\":{{\
         \"node00\":{{\"action\":\"{}\",\"metrics\":{{\"salt\":2.0}},\"stage\":\"mix\",\"stage_version\":1}},\
         \"node01\":{{\"action\":\"{}\",\"inputs\":{{\"in00\":[\"node00\"]}},\"metrics\":{{\"salt\":2.0}},\
         \"stage\":\"mix\",\"stage_version\":1}}}},\
         \"inputs\":{{\"in01\":{{\"\":{{\"instance\":\"node01\",\"port\":\"out\"}}}}}},\"lineage\":1}}",
        action("node00"),
        action("node01"),
    );
    assert_eq!(project.lineage(&run.actions["node03"]), Some(expected));
    assert_eq!(project.lineage(&run.actions["node01"]), None);

    // With times an execution is part of it.
    let mut timed = model.graph();
    timed.instances[3].lineage = LineageScope::ActionsAndTimes;
    let with_times = project.run(&timed, 1);
    assert_eq!(with_times.executed, BTreeSet::from(["node03".to_owned()]));
    let lineage = project.lineage(&with_times.actions["node03"]).unwrap();
    assert!(lineage.contains("\"execution\":{\"cost_micro_usd\":0,\"duration_ms\":"), "{lineage}");
    assert!(project.run(&timed, 1).executed.is_empty());
}

fn check_edits(mut model: Model, edits: &[Edit], jobs: u32) -> Result<(), TestCaseError> {
    let mut project = Project::new();
    let mut oracle = model::Oracle::default();
    for step in 0..=edits.len() {
        if step > 0 {
            model.apply(&edits[step - 1]);
        }
        project.write_sources(&model);
        let graph = model.graph();
        let plan = project.plan(&graph);
        let run = project.run(&graph, jobs);
        let expected = oracle.run(&model);
        prop_assert_eq!(&run.outputs, &expected.outputs, "a wrong output after step {}", step);
        // Of instances with one and the same action any may be the one that runs.
        let actions = |names: &BTreeSet<String>| -> BTreeSet<_> {
            names.iter().map(|name| run.actions[name]).collect()
        };
        prop_assert_eq!(run.executed.len(), expected.executed.len(), "too many or too few ran");
        prop_assert_eq!(actions(&run.executed), actions(&expected.executed), "at step {}", step);
        for name in &run.executed {
            prop_assert!(!plan.cached.contains(name), "{} was planned as cached, and ran", name);
        }
        for name in &plan.cached {
            prop_assert!(run.outputs.contains_key(name));
        }
        for name in &plan.runs {
            let done = actions(&run.executed).contains(&run.actions[name]);
            prop_assert!(done, "{} was announced and did not run", name);
        }
        let clean = Project::new();
        clean.write_sources(&model);
        let clean_run = clean.run(&graph, 3);
        prop_assert_eq!(
            &clean_run.actions,
            &run.actions,
            "a digest depends on the place or the jobs"
        );
        prop_assert_eq!(&clean_run.outputs, &run.outputs);
        let again = project.run(&graph, jobs);
        prop_assert!(again.executed.is_empty(), "a second run ran {:?}", again.executed);
        project.forget_handles();
    }
    Ok(())
}
