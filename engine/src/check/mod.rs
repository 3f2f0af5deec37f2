//! Sections and the known stages -> a [`Graph`], or all the mistakes.
//!
//! In this order: what the instances of each node share (`node`), each instance but its inputs
//! (`instance`, with `params`, `paths`, `quantity`, `placement`, `teacher`), its inputs (`inputs`, `reference`),
//! cycles and the order (`order`), destinations (`publish`). Each step reports its mistakes and
//! goes on with what is whole.

mod inputs;
mod instance;
mod node;
mod order;
mod params;
mod paths;
pub(crate) mod placement;
mod publish;
pub(crate) mod quantity;
mod reference;
mod teacher;

use crate::diagnostic::Span;
use crate::graph::{Graph, Instance, InstanceId, Node, Publish};
use crate::load::LoadRequest;
use crate::resolve::vars::{AxisValue, TextKind, Variables};
use crate::spec::findings::{Findings, file_span};
use crate::spec::parse::Sections;
use crate::spec::yaml::{Node as Tree, Value};
use crate::stage::StageRegistry;

use self::inputs::{InputReader, ReaderInstance};
use self::instance::Surroundings;
use self::node::NodeDraft;
use self::order::Edges;
use self::paths::Sources;
use self::reference::NodeIndex;

/// The most instances of a pipeline.
const MOST_INSTANCES: u32 = 4_000_000;

/// Checks a pipeline. There is a graph if, and only if, nothing was wrong.
pub(crate) fn check(
    sections: &Sections,
    variables: &mut Variables,
    request: &LoadRequest<'_>,
    registry: &StageRegistry,
    findings: &mut Findings,
) -> Option<Graph> {
    let mut sources = Sources::new(request.project_root, request.pipeline_dir);
    let teachers =
        teacher::teachers(&sections.teachers, variables, registry, &mut sources, findings);
    let executor = sections
        .executor
        .as_ref()
        .map(|node| variables.substitute(node, TextKind::Value, &[], findings).into_owned());
    let executor = executor.and_then(|node| placement::executor(&node, findings));
    let slurm = variables.substitute(&sections.slurm, TextKind::Value, &[], findings).into_owned();
    let slurm = placement::slurm(&slurm, findings);
    let drafts = drafts(sections, variables, registry, findings)?;
    let index = NodeIndex::new(&drafts);
    let mut inputs = InputReader { index: &index, edges: Edges::new() };
    let mut instances: Vec<Instance> = Vec::new();
    let mut around = Surroundings {
        variables,
        sources: &mut sources,
        teachers: &teachers,
        placement: (executor, &slurm),
        project: request.project_root.to_str().filter(|root| root.len() > 1),
        findings,
    };
    for (id, draft) in (0u32..).zip(&drafts) {
        inputs::check_ports(draft, around.findings);
        read_instances(id, draft, &mut inputs, &mut around, &mut instances);
        if around.findings.is_full() {
            return None;
        }
    }
    let edges = inputs.edges;
    order::report_cycles(&drafts, &edges, findings);
    let pipeline_file = pipeline_file(request);
    let publish = publish::read(
        &sections.publish,
        &index,
        &sources,
        pipeline_file.as_deref(),
        variables,
        findings,
    );
    if findings.errors() > 0 {
        return None;
    }
    let order = order::topological(drafts.len(), &edges);
    Some(assemble(sections.name.clone(), drafts, instances, sources, publish, &order))
}

fn drafts<'a>(
    sections: &'a Sections,
    variables: &mut Variables,
    registry: &'a StageRegistry,
    findings: &mut Findings,
) -> Option<Vec<NodeDraft<'a>>> {
    let mut drafts = Vec::with_capacity(sections.nodes.entries().len());
    let mut instances = 0u32;
    for entry in sections.nodes.entries() {
        let mut draft = node::draft(entry, registry, variables, findings);
        draft.first_instance = instances;
        instances = instances.saturating_add(draft.axes.as_ref().map_or(0, |axes| axes.instances));
        if instances > MOST_INSTANCES {
            let message = format!("the pipeline has more than {MOST_INSTANCES} instances");
            findings
                .error("too-large", entry.key_span, message)
                .help("split the work into fewer, larger instances");
            return None;
        }
        drafts.push(draft);
    }
    Some(drafts)
}

fn read_instances(
    id: u32,
    node: &NodeDraft<'_>,
    inputs: &mut InputReader<'_, '_, '_>,
    around: &mut Surroundings<'_, '_>,
    instances: &mut Vec<Instance>,
) {
    let Some(axes) = &node.axes else {
        // The axes are broken: read the fields once, with values that nothing is said about.
        let unknown = Tree { span: Span::default(), value: Value::Invalid };
        let each: Vec<AxisValue<'_>> =
            node.axis_names.iter().map(|axis| AxisValue { axis, value: &unknown }).collect();
        instance::read(node, id, &each, &[], around);
        let reader = ReaderInstance { node, id, instance: 0, each: &each };
        inputs.read(reader, around.variables, around.findings);
        return;
    };
    let mut each = Vec::with_capacity(axes.axes.len());
    let mut texts = Vec::with_capacity(axes.axes.len());
    for local in 0..axes.instances {
        if around.findings.is_full() {
            return;
        }
        each.clear();
        texts.clear();
        for (axis, digit) in axes.axes.iter().zip(axes.digits(local)) {
            each.push(AxisValue { axis: &axis.name, value: &axis.values[digit as usize] });
            texts.push((axis.name.as_str(), &*axis.texts[digit as usize]));
        }
        let mut instance = instance::read(node, id, &each, &texts, around);
        let reader = ReaderInstance { node, id, instance: local, each: &each };
        instance.inputs = inputs.read(reader, around.variables, around.findings);
        instances.push(instance);
    }
}

fn pipeline_file(request: &LoadRequest<'_>) -> Option<String> {
    let name = request.file.file_name()?.to_str()?;
    Some(match request.pipeline_dir {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    })
}

/// Puts the parts together, instances renumbered in topological order.
fn assemble(
    name: String,
    drafts: Vec<NodeDraft<'_>>,
    instances: Vec<Instance>,
    sources: Sources<'_>,
    mut publish: Vec<Publish>,
    order: &[u32],
) -> Graph {
    let mut new_ids: Vec<InstanceId> = vec![0; instances.len()];
    let mut next: InstanceId = 0;
    for node in order {
        let draft = &drafts[*node as usize];
        let count = draft.axes.as_ref().map_or(0, |axes| axes.instances);
        for old in draft.first_instance..draft.first_instance + count {
            new_ids[old as usize] = next;
            next += 1;
        }
    }
    let mut ordered: Vec<(InstanceId, Instance)> = new_ids.iter().copied().zip(instances).collect();
    ordered.sort_unstable_by_key(|(id, _)| *id);
    let mut instances: Vec<Instance> = ordered.into_iter().map(|(_, instance)| instance).collect();
    for instance in &mut instances {
        for feed in instance.inputs.iter_mut().flat_map(|input| &mut input.feeds) {
            feed.instance = new_ids[feed.instance as usize];
        }
    }
    for one in &mut publish {
        one.instance = new_ids[one.instance as usize];
    }
    let nodes = drafts
        .into_iter()
        .map(|draft| Node {
            name: draft.name.to_string(),
            stage: draft.stage.map_or_else(String::new, |stage| stage.descriptor().name.to_owned()),
            axes: draft.axes.into_iter().flat_map(|axes| axes.axes).map(|axis| axis.name).collect(),
            outputs: draft.outputs.unwrap_or_default(),
            pass_env: draft.pass_env,
            span: file_span(draft.span),
        })
        .collect();
    Graph { name, nodes, instances, sources: sources.into_items(), publish }
}
