//! What a plan would cost: by node, by language, and in all.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::graph::parse_instance_name;
use crate::plan::{PlannedNode, Verdict};

/// The axis whose values are languages.
const LANGUAGE: &str = "lang";

/// What the instances that are not cached would cost, those that cannot run on this machine among them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Bill {
    /// By node, in the order of the graph.
    pub nodes: Vec<BillOfNode>,
    /// By the value of the axis `lang`, in the order of their names; instances without one are left out.
    pub languages: Vec<BillOfLanguage>,
    /// All of it.
    pub total: Charges,
    /// What was assumed: sentences.
    pub assumptions: Vec<&'static str>,
}

/// What the instances of a node would cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BillOfNode {
    /// The node.
    pub node: String,
    /// Its stage.
    pub stage: String,
    /// All of its instances.
    pub charges: Charges,
    /// The same by the value of the axis `lang`, if it has that axis.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<BillOfLanguage>,
}

/// What the instances of a language would cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BillOfLanguage {
    /// The value of the axis `lang`.
    pub lang: String,
    /// All of its instances.
    pub charges: Charges,
}

/// Costs that add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Charges {
    /// Instances.
    pub instances: u64,
    /// Of these, those that cannot run on this machine.
    pub blocked: u64,
    /// Of these, those that are the same action as one before them: they cost nothing more.
    pub repeated: u64,
    /// Requests to services outside that would have to be answered.
    pub requests: u64,
    /// Requests whose answers are recorded already.
    pub recorded: u64,
    /// Tokens that would be read.
    pub prompt_tokens: u64,
    /// Tokens that would be written.
    pub completion_tokens: u64,
    /// What that would cost, in billionths of a US dollar, as far as prices are known.
    pub nano_usd: u64,
    /// Instances that would ask a service whose price is not known.
    pub unpriced: u64,
    /// Instances that would ask a service, nobody knows yet how much.
    pub unforeseen: u64,
    /// Time of GPUs, milliseconds: duration times GPUs.
    pub gpu_ms: u64,
    /// Time of instances that compute on the processor, milliseconds.
    pub processor_ms: u64,
    /// Instances whose time is reckoned from what they would compute, as they never did such work.
    pub reckoned: u64,
    /// Instances of a stage that computes with a model, of which nobody knows yet how long.
    pub unreckoned: u64,
    /// Bytes that outputs would take in the store, as far as they are worth saying.
    pub disk_bytes: u64,
}

impl Charges {
    fn add(&mut self, other: &Charges) {
        self.instances += other.instances;
        self.blocked += other.blocked;
        self.repeated += other.repeated;
        self.requests += other.requests;
        self.recorded += other.recorded;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.nano_usd += other.nano_usd;
        self.unpriced += other.unpriced;
        self.unforeseen += other.unforeseen;
        self.gpu_ms = self.gpu_ms.saturating_add(other.gpu_ms);
        self.processor_ms = self.processor_ms.saturating_add(other.processor_ms);
        self.reckoned += other.reckoned;
        self.unreckoned += other.unreckoned;
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
    }

    fn of(node: &PlannedNode) -> Charges {
        let blocked = u64::from(node.verdict == Verdict::Blocked);
        if node.same_as.is_some() {
            return Charges { instances: 1, blocked, repeated: 1, ..Charges::default() };
        }
        let ms = node.expected_ms().unwrap_or(0);
        let on_gpu = node.gpus > 0 || node.work.is_some_and(|work| work.on_gpu);
        let mut charges = Charges {
            instances: 1,
            blocked,
            unforeseen: u64::from(node.unforeseen),
            gpu_ms: if on_gpu { ms.saturating_mul(u64::from(node.gpus.max(1))) } else { 0 },
            processor_ms: if on_gpu { 0 } else { ms },
            reckoned: u64::from(node.is_reckoned()),
            unreckoned: u64::from(node.unreckoned),
            disk_bytes: node.disk_bytes.unwrap_or(0),
            ..Charges::default()
        };
        if let Some(estimate) = &node.estimate {
            charges.requests = estimate.requests;
            charges.recorded = estimate.recorded;
            charges.prompt_tokens = estimate.prompt_tokens;
            charges.completion_tokens = estimate.completion_tokens;
            charges.nano_usd = estimate.nano_usd.unwrap_or(0);
            charges.unpriced = u64::from(estimate.nano_usd.is_none() && estimate.requests > 0);
        }
        charges
    }
}

/// Adds up what the instances of a plan would cost, each with its stage.
pub(crate) fn bill<'a>(
    instances: impl Iterator<Item = (&'a PlannedNode, &'a str)>,
    assumptions: BTreeSet<&'static str>,
) -> Bill {
    let mut bill = Bill { assumptions: assumptions.into_iter().collect(), ..Bill::default() };
    let mut languages: BTreeMap<String, Charges> = BTreeMap::new();
    // Instances of a node need not stand side by side.
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut of_nodes: Vec<BTreeMap<String, Charges>> = Vec::new();
    let is_there = |verdict| matches!(verdict, Verdict::Cached | Verdict::Fetched);
    for (planned, stage) in instances.filter(|(node, _)| !is_there(node.verdict)) {
        let charges = Charges::of(planned);
        let (node, axes) = parse_instance_name(&planned.node);
        let place = *places.entry(node).or_insert_with(|| {
            let (node, stage) = (node.to_owned(), stage.to_owned());
            let charges = Charges::default();
            bill.nodes.push(BillOfNode { node, stage, charges, languages: Vec::new() });
            of_nodes.push(BTreeMap::new());
            bill.nodes.len() - 1
        });
        bill.nodes[place].charges.add(&charges);
        bill.total.add(&charges);
        if let Some((_, lang)) = axes.into_iter().find(|(axis, _)| *axis == LANGUAGE) {
            of_nodes[place].entry(lang.clone()).or_default().add(&charges);
            languages.entry(lang).or_default().add(&charges);
        }
    }
    let listed = |map: BTreeMap<String, Charges>| {
        map.into_iter().map(|(lang, charges)| BillOfLanguage { lang, charges }).collect()
    };
    for (node, map) in bill.nodes.iter_mut().zip(of_nodes) {
        node.languages = listed(map);
    }
    bill.languages = listed(languages);
    bill
}
