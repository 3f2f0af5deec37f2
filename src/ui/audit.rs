//! What an audit found, for people.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use okapi_engine::audit::{Audit, NodeAudit, Verdict};
use okapi_engine::graph::parse_instance_name;

use okapi_teacher::AskedAnew;

use super::format;

/// Shows on a terminal how many bytes have been hashed; nothing elsewhere.
pub(crate) fn hashing(bytes: u64) -> ProgressBar {
    bar(bytes, "{spinner} hashed {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
}

/// Shows on a terminal how many nodes have been executed again, and which was the last; nothing elsewhere.
pub(crate) fn executing(nodes: u64) -> ProgressBar {
    bar(nodes, "{spinner} executed {pos} of {len} again, {elapsed}  {wide_msg}")
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // A template that cannot be read leaves the one that comes with the bar.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// A clock that stands still looks like a hang.
const TICK: Duration = Duration::from_millis(200);

/// Under these names what is wrong with files is listed that belong to no node.
pub(crate) const LOCK_FILE: &str = "(lock file)";
pub(crate) const FILES: &str = "(files)";

/// Findings of one node that are listed one by one.
const LISTED: usize = 10;

/// What was executed again.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExecutedAgain {
    /// Instances, because that was asked for.
    pub(crate) executed: u64,
    /// Instances, with the recorded answers of teachers.
    pub(crate) replayed: u64,
    /// Requests that were asked anew.
    pub(crate) asked: Vec<AskedAnew>,
    /// What samples were drawn with, if any were.
    pub(crate) sample_seed: Option<u32>,
    /// A signal ended it.
    pub(crate) interrupted: bool,
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Verified => "verified",
        Verdict::ChangedSince => "changed since",
        Verdict::Missing => "missing",
        Verdict::Corrupt => "corrupt",
    }
}

/// A line for each node, and below it what does not hold. Instances of one node that are verified share a line, unless all
/// are wanted.
pub(crate) fn render(audit: &Audit, all: bool) -> String {
    let mut text = String::new();
    let mut rest: &[NodeAudit] = &audit.nodes;
    let node_of = |it: &NodeAudit| parse_instance_name(&it.node).0.to_owned();
    while let Some(first) = rest.first() {
        let same = |it: &&NodeAudit| {
            it.verdict == first.verdict
                && it.notes.is_empty() == first.notes.is_empty()
                && node_of(it) == node_of(first)
        };
        let length = rest.iter().take_while(same).count();
        let (group, others) = rest.split_at(length);
        rest = others;
        let is_silent = first.verdict == Verdict::Verified && first.notes.is_empty();
        let folded = !all && group.len() > 1 && is_silent;
        if folded {
            let instances = format::count(group.len() as u64, "instance");
            text.push_str(&line(first.verdict, &format!("{}[{instances}]", node_of(first))));
            continue;
        }
        let listed = if all { group.len() } else { LISTED };
        for node in group.iter().take(listed) {
            text.push_str(&line(node.verdict, &node.node));
            for finding in &node.findings {
                text.push_str(&format!("{:15}{}\n", "", plain(&finding.message)));
            }
            for note in &node.notes {
                text.push_str(&format!("{:15}note: {}\n", "", plain(note)));
            }
        }
        if group.len() > listed {
            let more = format!("{}[{} more; see --all]", node_of(first), group.len() - listed);
            text.push_str(&line(first.verdict, &more));
        }
        // What to do is the same for all of a node.
        let mut hints: Vec<&str> =
            group.iter().flat_map(|it| &it.findings).filter_map(|it| it.hint).collect();
        hints.sort_unstable();
        hints.dedup();
        for hint in hints {
            text.push_str(&format!("{:15}hint: {hint}\n", ""));
        }
    }
    text
}

/// A text without what a terminal would obey.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        match letter.is_control() {
            true => plain.extend(letter.escape_default()),
            false => plain.push(letter),
        }
    }
    plain
}

fn line(verdict: Verdict, node: &str) -> String {
    format!("{:13}  {}\n", word(verdict), plain(node))
}

/// The verdict on all, and what it rests on.
pub(crate) fn summary(
    audit: &Audit,
    again: &ExecutedAgain,
    made_with: Option<&str>,
    hashed_ms: u64,
    ms: u64,
) -> String {
    let nodes = || audit.nodes.iter().filter(|it| ![LOCK_FILE, FILES].contains(&it.node.as_str()));
    let count = |verdict| nodes().filter(|it| it.verdict == verdict).count();
    let verdicts = [Verdict::Verified, Verdict::ChangedSince, Verdict::Missing, Verdict::Corrupt];
    let counts: Vec<String> =
        verdicts.iter().map(|it| format!("{} {}", count(*it), word(*it))).collect();
    let mut basis = vec![format!(
        "{} of {} hashed in {}",
        format::size(audit.bytes),
        format::count(audit.objects, "object"),
        format::duration(hashed_ms)
    )];
    if audit.elsewhere > 0 {
        let objects = format::count(audit.elsewhere, "object");
        basis.push(format!("{objects} known by digest alone"));
    }
    if audit.unreported > 0 {
        let nodes = format::count(audit.unreported, "node");
        basis.push(format!("metrics, times and costs of {nodes} compared with nothing, for want of the runs' records"));
    }
    if again.replayed > 0 {
        let nodes = format::count(again.replayed, "node");
        basis.push(format!("{nodes} worked through with recorded answers"));
    }
    if again.executed > 0 {
        basis.push(format!("{} executed again", format::count(again.executed, "node")));
    }
    let mut anew = String::new();
    if !again.asked.is_empty() {
        let differing: Vec<_> = again.asked.iter().filter(|it| it.recorded != it.now).collect();
        for it in differing.iter().take(LISTED) {
            let short = |text: &str| text.chars().take(60).collect::<String>();
            let (was, is) = (short(&it.recorded), short(&it.now));
            anew.push_str(&format!("asked anew: {was:?} is recorded, {is:?} is answered now\n"));
        }
        let requests = format::count(again.asked.len() as u64, "request");
        let cost = format::money(again.asked.iter().map(|it| it.nano_usd).sum());
        anew.push_str(&format!(
            "asked anew: {requests} for {cost}, {} answered otherwise\n",
            differing.len()
        ));
    }
    if let Some(seed) = again.sample_seed {
        anew.push_str(&format!("by chance; the same sample again: --sample-seed {seed}\n"));
    }
    if let Some(made_with) = made_with {
        anew.push_str(&format!("of the pipeline with {}\n", plain(made_with)));
    }
    let verdict = if audit.holds() { "all holds" } else { "it does not hold" };
    format!(
        "{}\n{}; {} in all\n{anew}{verdict}\n",
        counts.join(", "),
        basis.join(", "),
        format::duration(ms)
    )
}
