//! `executor:` and `slurm:` of a pipeline, a profile or a node.

use std::path::PathBuf;

use crate::check::quantity;
use crate::placement::{Place, SlurmOptions, StoreAccess};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Node, Value};
use crate::suggest;

/// The keys of `slurm:`.
pub(crate) const SLURM_KEYS: [&str; 12] = [
    "partition",
    "account",
    "qos",
    "constraint",
    "gres",
    "time",
    "setup",
    "more_memory",
    "more_time",
    "store",
    "okapi",
    "extra",
];

/// Options that okapi gives `sbatch` itself: another value would lose jobs.
const OWN_OPTIONS: [&str; 22] = [
    "array",
    "chdir",
    "clusters",
    "comment",
    "cpus-per-task",
    "dependency",
    "error",
    "export",
    "input",
    "job-name",
    "mem",
    "no-requeue",
    "ntasks",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "test-only",
    "time",
    "wait",
    "wrap",
];

/// `executor: NAME`.
pub(crate) fn executor(node: &Node, findings: &mut Findings) -> Option<Place> {
    let name = expect::text(node, "`executor`", findings)?;
    let place = Place::from_name(&name);
    if place.is_none() {
        let message = format!("there is no executor `{}`", expect::shortened(&name));
        let names = Place::ALL.map(Place::name);
        findings.error("bad-value", node.span, message).hint(suggest::hint(
            &name,
            "executors",
            names,
        ));
    }
    place
}

/// `slurm:` with its keys.
pub(crate) fn slurm(node: &Node, findings: &mut Findings) -> SlurmOptions {
    let mut options = SlurmOptions::default();
    let entries = expect::map(node, "`slurm`", findings);
    expect::known_keys(entries, "`slurm`", &SLURM_KEYS, findings);
    for entry in entries {
        let (key, value) = (&*entry.key, &entry.value);
        match key {
            "partition" => options.partition = word(key, value, findings),
            "account" => options.account = word(key, value, findings),
            "qos" => options.qos = word(key, value, findings),
            "constraint" => options.constraint = word(key, value, findings),
            "gres" => options.gres = word(key, value, findings),
            "time" => options.time_ms = quantity::duration(value, "`time`", findings),
            "setup" => {
                options.setup = expect::text(value, "`setup`", findings).map(|it| it.to_string());
            }
            "more_memory" => options.more_memory = factor(key, value, findings),
            "more_time" => options.more_time = factor(key, value, findings),
            "store" => options.store = store(value, findings),
            "okapi" => options.okapi = program(value, findings),
            "extra" => {
                let items = expect::list(value, "`extra`", findings).iter();
                options.extra = items.filter_map(|item| option(item, findings)).collect();
            }
            _ => {}
        }
    }
    options
}

fn word(key: &str, node: &Node, findings: &mut Findings) -> Option<String> {
    let text = expect::text_like(node, &format!("`{key}`"), findings)?;
    if text.is_empty() || text.contains(|it: char| it.is_whitespace() || it.is_control()) {
        let message = format!("`{key}` cannot be {}", node.found());
        findings
            .error("bad-value", node.span, message)
            .help("write one word, as `sbatch` takes it");
        return None;
    }
    Some(text.to_string())
}

/// `shared` or `remote`.
fn store(node: &Node, findings: &mut Findings) -> Option<StoreAccess> {
    let name = expect::text(node, "`store`", findings)?;
    let access = StoreAccess::ALL.into_iter().find(|access| access.name() == &*name);
    if access.is_none() {
        let message = format!("`store` cannot be {}", node.found());
        findings
            .error("bad-value", node.span, message)
            .help("write `shared`, or `remote` where nodes do not see the store");
    }
    access
}

/// The program as a shell on a node finds it.
fn program(node: &Node, findings: &mut Findings) -> Option<PathBuf> {
    let text = expect::text(node, "`okapi`", findings)?;
    if text.is_empty() || text.contains(['\n', '\0']) {
        let message = format!("`okapi` cannot be {}", node.found());
        findings
            .error("bad-value", node.span, message)
            .help("write a path, or the name of a program on the PATH");
        return None;
    }
    Some(PathBuf::from(&*text))
}

/// A factor of 1 to 100, in thousandths.
fn factor(key: &str, node: &Node, findings: &mut Findings) -> Option<u32> {
    let factor = match node.value {
        Value::Int(factor) => factor as f64,
        Value::Float(factor) => factor,
        _ => 0.0,
    };
    if (1.0..=100.0).contains(&factor) {
        return Some((factor * 1000.0).round() as u32);
    }
    let message = format!("`{key}` cannot be {}", node.found());
    findings.error("bad-value", node.span, message).help("write a factor from 1 to 100, such as 2");
    None
}

fn option(node: &Node, findings: &mut Findings) -> Option<String> {
    let text = expect::text(node, "an option of `sbatch`", findings)?;
    let name = text.strip_prefix("--").map(|it| it.split('=').next().unwrap_or_default());
    let message = match name {
        None | Some("") => format!("`{}` is no long option", expect::shortened(&text)),
        Some(_) if text.contains(['\n', '\0']) => "an option of `sbatch` is one line".to_owned(),
        // `sbatch` takes the beginning of an option for the whole.
        Some(name) if OWN_OPTIONS.iter().any(|own| own.starts_with(name)) => {
            format!("okapi gives `--{name}` itself")
        }
        Some(_) => return Some(text.to_string()),
    };
    findings
        .error("bad-value", node.span, message)
        .help("write options such as `--exclusive` or `--nice=100`, each a word of its own");
    None
}
