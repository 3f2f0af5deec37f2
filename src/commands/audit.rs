//! `okapi audit`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use okapi_cache::{Access, Digest, Durability, Store};
use okapi_engine::audit::difference::Difference;
use okapi_engine::audit::reexecute::{Again, Ended};
use okapi_engine::audit::{
    Audit, Finding, Recorded, Verdict, audit as make_audit, published, recorded,
};
use okapi_engine::bundle::BUNDLE_FILES;
use okapi_engine::executor::ExecutionError;
use okapi_engine::graph::{Graph, InstanceId};
use okapi_engine::lock_file::{self, LockFile};
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record;
use okapi_engine::selection::matching;
use okapi_engine::stage_context::StageError;
use serde_json::json;

use super::bundle::{self, Checked};
use super::execute_again::{ExecuteAgain, is_trouble_here, question};
use crate::cli::{AuditArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project::{self, Devices, Loaded};
use crate::ui::{audit as ui, output};

/// What is looked at, and where.
struct Desk<'a> {
    arguments: &'a AuditArgs,
    loaded: Loaded,
    store: Arc<Store>,
    recorded: Vec<Option<Recorded>>,
    sample_seed: Option<u32>,
}

/// Proves that results are what the pipeline says.
pub(crate) fn audit(global: &Global, arguments: &AuditArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let ms = |since: Instant| since.elapsed().as_millis() as u64;
    if let Some(folder) = arguments.pipeline.pipeline.as_deref().filter(|it| is_bundle(it)) {
        bundle::refuse_what_it_has_not(global, arguments)?;
        let Checked { audit, made_with } = bundle::audit(global, folder)?;
        let again = ui::ExecutedAgain::default();
        return say(arguments, &audit, &again, made_with.as_deref(), ms(started), ms(started));
    }
    let place = project::locate_or_default(global, arguments.pipeline.pipeline.as_deref())?;
    // An audit makes no store where there is none, and writes nothing into one, which may be somebody else's.
    let store = project::open_store(global, &place.root, Access::ReadOnly, Durability::None)?;
    let store = Arc::new(store);
    let registry = okapi_stages::registry();
    let overlay = &arguments.pipeline.overlay;
    let (targets, devices) = (&arguments.targets, Devices::Here);
    let loaded = project::prepare_anew(global, overlay, place, &registry, targets, &devices)?;
    bundle::refuse_to_export(arguments, &loaded)?;
    let pipeline = &loaded.place.pipeline;
    let manifest = run_record::head(&store, pipeline);
    if run_record::is_head_damaged(&store, pipeline) {
        let message = "the list of what the last run left behind is damaged";
        return Err(Failure::failed(message).with_hint("`okapi run` writes it anew".to_owned()));
    }
    let question = question(&loaded, &store, &manifest);
    let sample_seed = sample_seed(arguments)?;
    let wanted = reexecuted(&loaded, &arguments.reexecute, sample_seed)?;
    let recorded = recorded(&question)?;
    let outputs = recorded.iter().flatten().flat_map(|it| &it.outputs);
    let bar = ui::hashing(outputs.map(|it| it.size).sum());
    let mut audit = make_audit(&question, &recorded, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    let hashed_ms = ms(started);
    for (node, finding) in published(&question, &recorded, &loaded.place.root) {
        audit.add(&node, finding);
    }
    if arguments.locked {
        let path = lock_file::path_beside(&loaded.place.named);
        let lock = LockFile::read(&path).map_err(|error| {
            Failure::usage(error.to_string()).with_hint("`okapi run --lock` writes it".to_owned())
        })?;
        match lock.other_overlay(overlay.profile.as_deref(), &overlay.overrides) {
            Some(other) => {
                let message = format!("it was written with {other}");
                let hint = Some("audit with the same, or write it anew with `okapi run --lock`");
                let finding = Finding { verdict: Verdict::ChangedSince, message, hint };
                audit.add(ui::LOCK_FILE, finding);
            }
            None => {
                for (node, finding) in lock.compare(&question, &recorded) {
                    audit.add(&node, finding);
                }
            }
        }
    }
    let desk = Desk { arguments, store: Arc::clone(&store), recorded, loaded, sample_seed };
    let again = desk.execute_again(&manifest, &wanted, &mut audit);
    if again.as_ref().map_or(true, |again| again.interrupted) && !arguments.json {
        // What was found so far holds whatever the trouble is.
        output::print(&ui::render(&audit, arguments.all))?;
    }
    let again = again?;
    if again.interrupted {
        return Ok(ExitCode::Interrupted);
    }
    let said = say(arguments, &audit, &again, None, hashed_ms, ms(started))?;
    match &arguments.export {
        Some(folder) if audit.holds() => {
            bundle::export(
                global,
                arguments,
                folder,
                &desk.loaded,
                &store,
                &manifest,
                &desk.recorded,
            )?;
        }
        Some(_) => output::note("no bundle was written, as not all holds"),
        None => {}
    }
    Ok(said)
}

/// Whether a folder is a bundle, or what is left of one.
fn is_bundle(folder: &Path) -> bool {
    folder.is_dir() && BUNDLE_FILES.iter().any(|it| folder.join(it).symlink_metadata().is_ok())
}

/// Says what was found.
fn say(
    arguments: &AuditArgs,
    audit: &Audit,
    again: &ui::ExecutedAgain,
    made_with: Option<&str>,
    hashed_ms: u64,
    duration_ms: u64,
) -> Result<ExitCode, Failure> {
    if arguments.json {
        output::print_json(&json!({
            "version": 1,
            "holds": audit.holds(),
            "nodes": audit.nodes,
            "objects": audit.objects,
            "bytes": audit.bytes,
            "elsewhere": audit.elsewhere,
            "unreported": audit.unreported,
            "executed": again.executed,
            "answered_from_records": again.replayed,
            "asked_again": again.asked.iter().map(|it| json!({
                "request": it.request, "recorded": it.recorded, "now": it.now, "same": it.recorded == it.now, "nano_usd": it.nano_usd,
            })).collect::<Vec<_>>(),
            "sample_seed": again.sample_seed,
            "made_with": made_with,
            "hashed_ms": hashed_ms,
            "duration_ms": duration_ms,
        }))?;
    } else {
        output::print(&ui::render(audit, arguments.all))?;
        output::print(&ui::summary(audit, again, made_with, hashed_ms, duration_ms))?;
    }
    Ok(if audit.holds() { ExitCode::Done } else { ExitCode::Failed })
}

/// The instances that `--reexecute` names, in the order of the graph.
fn reexecuted(
    loaded: &Loaded,
    wanted: &[String],
    seed: Option<u32>,
) -> Result<Vec<InstanceId>, Failure> {
    let graph = &loaded.graph;
    let selected: Vec<InstanceId> = (0..graph.instances.len() as InstanceId)
        .filter(|&id| loaded.selection.needed[id as usize])
        .collect();
    let mut ids = Vec::new();
    for what in wanted {
        if what == "all" {
            ids.extend(&selected);
        } else if let Some(count) = what.strip_prefix("sample=") {
            let count: usize = count.parse().map_err(|_| {
                Failure::usage(format!("`--reexecute {what}`: `{count}` is no number"))
            })?;
            if count == 0 {
                return Err(Failure::usage("`--reexecute sample=0` executes nothing"));
            }
            ids.extend(sample(graph, &selected, count, seed.unwrap_or_default()));
        } else {
            let found = matching(graph, what);
            if found.is_empty() {
                let message = format!("`--reexecute {what}`: no node has that name");
                let hint = "give `all`, `sample=N`, or a node or instance of the pipeline";
                return Err(Failure::usage(message).with_hint(hint.to_owned()));
            }
            let before = ids.len();
            ids.extend(found.into_iter().filter(|id| selected.binary_search(id).is_ok()));
            if ids.len() == before {
                let message =
                    format!("`--reexecute {what}`: the nodes asked for do not come from it");
                let hint = "ask for it, too, or for no node";
                return Err(Failure::usage(message).with_hint(hint.to_owned()));
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// What samples are drawn with: whoever forged a result must not know which nodes will be executed again.
fn sample_seed(arguments: &AuditArgs) -> Result<Option<u32>, Failure> {
    let samples = arguments.reexecute.iter().any(|what| what.starts_with("sample="));
    match arguments.sample_seed {
        _ if samples || arguments.ask_again > 0 => {}
        None => return Ok(None),
        Some(_) => {
            let message = "--sample-seed has no meaning where no sample is drawn";
            let hint = "give `--reexecute sample=N` or `--ask-again N`, too";
            return Err(Failure::usage(message).with_hint(hint.to_owned()));
        }
    }
    let drawn = || {
        let mut bytes = [0; 4];
        let mut file = std::fs::File::open(CHANCE)?;
        std::io::Read::read_exact(&mut file, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    };
    let failed = |error: std::io::Error| {
        Failure::failed(format!("no sample can be drawn: {CHANCE}: {error}"))
            .with_hint("draw it yourself: --sample-seed N".to_owned())
    };
    arguments.sample_seed.map_or_else(drawn, Ok).map(Some).map_err(failed)
}

/// Where the system gives chance.
const CHANCE: &str = "/dev/urandom";

/// So many of the instances, by chance, and with one seed the same each time.
fn sample(graph: &Graph, selected: &[InstanceId], count: usize, seed: u32) -> Vec<InstanceId> {
    let lot = |id: &InstanceId| {
        Digest::of(format!("{seed} {}", graph.instances[*id as usize].name).as_bytes())
    };
    let mut ids = selected.to_vec();
    ids.sort_by_key(lot);
    ids.truncate(count);
    ids
}

impl Desk<'_> {
    /// Executes these instances again, and those that asked a teacher with the recorded answers.
    fn execute_again(
        &self,
        manifest: &Manifest,
        wanted: &[InstanceId],
        audit: &mut Audit,
    ) -> Result<ui::ExecutedAgain, Failure> {
        let graph = &self.loaded.graph;
        let asks = |id: InstanceId| {
            let declared = &graph.instances[id as usize].declared;
            let declared: serde_json::Value = serde_json::from_str(declared).unwrap_or_default();
            !declared["teacher"].is_null()
        };
        let mut ids = wanted.to_vec();
        if !self.arguments.skip_records {
            let all = 0..graph.instances.len() as InstanceId;
            ids.extend(all.filter(|&id| self.recorded[id as usize].is_some() && asks(id)));
            ids.sort_unstable();
            ids.dedup();
        }
        let sample_seed = self.sample_seed;
        let mut done = ui::ExecutedAgain { sample_seed, ..ui::ExecutedAgain::default() };
        if ids.is_empty() {
            return Ok(done);
        }
        let machine = project::machine(self.arguments.jobs);
        let request = ExecuteAgain {
            loaded: &self.loaded,
            store: &self.store,
            manifest,
            recorded: &self.recorded,
            machine: &machine,
            no_sandbox: self.arguments.no_sandbox,
            threads: &|threads| threads,
            ask_anew: self.arguments.ask_again,
            sample_seed: sample_seed.unwrap_or_default(),
        };
        let bar = ui::executing(ids.len() as u64);
        let mut trouble = None;
        let (ended, asked) = request.run(&ids, &mut |id, again| {
            let was_asked_for = wanted.binary_search(&id).is_ok();
            let was_executed = !matches!(again, Again::NotExecuted(_));
            done.executed += u64::from(was_asked_for && was_executed);
            done.replayed += u64::from(asks(id) && was_executed);
            let name = &*graph.instances[id as usize].name;
            bar.inc(1);
            bar.set_message(name.to_owned());
            let instance = &graph.instances[id as usize];
            if let Again::Different(differences) = &again
                && instance.resources.gpu > 0
                && let Some(note) = note_of_close(differences, &instance.declared)
            {
                audit.note(name, note);
                return;
            }
            if let Again::Failed(error) = &again
                && is_trouble_here(error)
            {
                trouble.get_or_insert(format!("`{name}` cannot be executed again: {error}"));
                return;
            }
            // Of what is missing or has changed that is said already.
            let is_said = audit.nodes.iter().any(|it| it.node == name && !it.findings.is_empty());
            for finding in findings(again, asks(id), was_asked_for || !is_said) {
                audit.add(name, finding);
            }
        })?;
        bar.finish_and_clear();
        if let Some(trouble) = trouble {
            return Err(Failure::failed(trouble)
                .with_hint("is there room below $TMPDIR, and are all programs here?".to_owned()));
        }
        if ended == Ended::Interrupted {
            output::note("interrupted");
        }
        done.interrupted = ended == Ended::Interrupted;
        done.asked = asked;
        Ok(done)
    }
}

/// So many of the last lines that a failed command wrote are shown.
const LAST_LINES: usize = 3;

/// What a command wrote to stderr at last, as the end of a message.
fn last_lines(stderr_tail: &[String]) -> String {
    let lines: Vec<&str> = stderr_tail.iter().map(|line| line.trim()).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    match lines[lines.len().saturating_sub(LAST_LINES)..].join("; ") {
        said if said.is_empty() => String::new(),
        said => format!(": {said}"),
    }
}

/// How far numbers of a GPU may lie apart, as a share of the largest of a tensor, by how it stored them: half precision rounds
/// to so much; single precision to a 2^23rd, of which long sums in another order make a thousand.
fn numeric_class(declared: &str) -> (&'static str, f64) {
    let declared: serde_json::Value = serde_json::from_str(declared).unwrap_or_default();
    match declared["params"]["gpu_dtype"].as_str() {
        Some("f32") => ("single precision", 1.0 / 8192.0),
        // Of a command nothing is recorded.
        _ => ("half precision", 1.0 / 256.0),
    }
}

/// What is worth a word where all differences are within the numeric class of a GPU; `None` where one is not.
fn note_of_close(differences: &[Difference], declared: &str) -> Option<String> {
    let (class, most) = numeric_class(declared);
    let shares: Option<Vec<f64>> = differences.iter().map(|it| it.relative).collect();
    let largest = shares?.into_iter().fold(0.0, f64::max);
    let furthest = differences.iter().find(|it| it.relative == Some(largest))?;
    let others = match differences.len() {
        1 => String::new(),
        more => format!("; {} more differ less", more - 1),
    };
    (largest <= most).then(|| {
        format!(
            "executed again on a GPU, other numbers come out, within {most:.1e}, as {class} rounds: {}{others}",
            furthest.what
        )
    })
}

/// What there is to say of an instance that was executed again.
fn findings(again: Again, asks: bool, was_asked_for: bool) -> Vec<Finding> {
    let how = match asks {
        true => "worked through again with the recorded answers",
        false => "executed again",
    };
    let one = |verdict, message, hint| vec![Finding { verdict, message, hint }];
    match again {
        Again::Same => Vec::new(),
        Again::Different(differences) => {
            let hint = match asks {
                true => "a recorded answer, or the recorded output, is not what it was",
                false => {
                    "the recorded output was not made by this, or its node gives another one each time: \
                          `okapi run --check-determinism` tells"
                }
            };
            let finding = |it: Difference| Finding {
                verdict: Verdict::Corrupt,
                message: format!("{how}, another result comes out: {}", it.what),
                hint: Some(hint),
            };
            differences.into_iter().map(finding).collect()
        }
        Again::Failed(error) => match &*error {
            ExecutionError::Stage(StageError::Unrecorded { message }) => one(
                Verdict::Missing,
                message.clone(),
                Some("the record was lost or is damaged: `okapi run --force NODE` asks again"),
            ),
            ExecutionError::Stage(StageError::Command { stderr_tail, .. }) => {
                let said = last_lines(stderr_tail);
                one(
                    Verdict::Corrupt,
                    format!("{how}, it fails: {error}{said}"),
                    Some("one that was run with --no-sandbox is executed again with it"),
                )
            }
            error => one(Verdict::Corrupt, format!("{how}, it fails: {error}"), None),
        },
        Again::NotExecuted(reason) if was_asked_for => {
            let message = format!("it was not executed again: {reason}");
            one(Verdict::Missing, message, None)
        }
        Again::NotExecuted(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was computed in single precision could be as far off as half precision rounds.
    #[test]
    fn how_far_numbers_may_be_apart_is_a_matter_of_how_a_gpu_stored_them() {
        let differ = |relative: Option<f64>| Difference { what: format!("{relative:?}"), relative };
        let note = |gpu_dtype: &str, shares: &[Option<f64>]| {
            let differences: Vec<Difference> = shares.iter().map(|it| differ(*it)).collect();
            let declared = format!(r#"{{"params":{{"gpu_dtype":"{gpu_dtype}"}}}}"#);
            note_of_close(&differences, &declared)
        };
        let said = note("bf16", &[Some(1e-3), Some(2e-3), Some(0.0)]).unwrap();
        assert!(
            said.ends_with("as half precision rounds: Some(0.002); 2 more differ less"),
            "{said}"
        );
        assert_eq!(note("f32", &[Some(1e-3)]), None);
        assert!(note("f32", &[Some(1e-4)]).is_some());
        assert_eq!(note("bf16", &[Some(1e-3), None]), None);
        assert_eq!(note("bf16", &[Some(f64::INFINITY)]), None);
    }
}
