//! What changes an action's digest, and what does not.

use std::collections::BTreeMap;

use okapi_cache::{ActionDigest, Artifact, ArtifactKind, Digest};
use okapi_engine::action::{ActionWriter, PassedEnv};
use okapi_engine::diagnostic::Span;
use okapi_engine::graph::{Feed, Graph, Input, Instance, Node, Output, Resources, Source};
use okapi_engine::lineage::LineageScope;
use okapi_engine::port::PortKind;

fn file(content: &str) -> Artifact {
    Artifact {
        kind: ArtifactKind::File,
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
    }
}

/// Everything that goes into one action.
#[derive(Clone)]
struct World {
    graph: Graph,
    sources: Vec<Option<Artifact>>,
    passed_env: PassedEnv,
    inputs: Vec<Artifact>,
    lineage: Option<String>,
}

impl World {
    fn new() -> World {
        let span = Span::default();
        let instance = Instance {
            name: "n[lang=de]".into(),
            node: 0,
            declared:
                r#"{"outputs":{"o":"file"},"run":"true","stage":"command","stage_version":1}"#
                    .into(),
            settings: "{}".into(),
            files: [0].into(),
            prompts: [("ask".into(), 1)].into(),
            inputs: [
                Input {
                    port: "all".into(),
                    gathered: true,
                    feeds: [("lang=de", 0), ("lang=ru", 1)]
                        .map(|(key, instance)| Feed { key: key.into(), instance, port: 0 })
                        .into(),
                },
                Input {
                    port: "one".into(),
                    gathered: false,
                    feeds: [Feed { key: "".into(), instance: 2, port: 0 }].into(),
                },
            ]
            .into(),
            lineage: LineageScope::None,
            resources: Resources::default(),
            timeout_ms: None,
            retries: 0,
            place: None,
            slurm: None,
        };
        World {
            graph: Graph {
                name: "identity".into(),
                nodes: vec![Node {
                    name: "n".into(),
                    stage: "command".into(),
                    axes: vec!["lang".into()],
                    outputs: vec![Output { port: "o".into(), kind: PortKind::File }],
                    pass_env: vec!["TOKEN".into()],
                    span,
                }],
                instances: vec![instance],
                sources: ["scripts/a.sh", "prompts/ask.j2"]
                    .map(|path| Source { path: path.into(), span })
                    .into(),
                publish: vec![],
            },
            sources: vec![Some(file("a script")), Some(file("a prompt"))],
            passed_env: BTreeMap::from([("TOKEN".to_owned(), Some("secret".to_owned()))]),
            inputs: vec![file("german"), file("russian"), file("one")],
            lineage: None,
        }
    }

    fn digest(&self) -> ActionDigest {
        let writer = ActionWriter {
            graph: &self.graph,
            sources: &self.sources,
            passed_env: &self.passed_env,
        };
        let mut document = String::new();
        let digest = writer.write(0, &mut document, self.lineage.as_deref(), |feed| {
            self.inputs[feed.instance as usize]
        });
        // The document is canonical JSON, and says nothing of the secret.
        let value: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(okapi_cache::canonical_json::to_string(&value), document);
        assert!(!document.contains("secret"));
        digest
    }

    fn instance(&mut self) -> &mut Instance {
        &mut self.graph.instances[0]
    }
}

#[test]
fn every_field_changes_the_digest() {
    type Change = (&'static str, fn(&mut World));
    let changes: [Change; 15] = [
        ("declared", |it| {
            let declared = it.instance().declared.replace("true", "false");
            it.instance().declared = declared.into();
        }),
        ("a file's content", |it| it.sources[0] = Some(file("another script"))),
        ("a file's path", |it| it.graph.sources[0].path = "scripts/b.sh".into()),
        ("a file's kind", |it| {
            it.sources[0].as_mut().unwrap().kind = ArtifactKind::Tree;
        }),
        ("a prompt's content", |it| it.sources[1] = Some(file("another prompt"))),
        ("a prompt's name", |it| it.instance().prompts[0].0 = "tell".into()),
        ("a variable's value", |it| {
            it.passed_env.insert("TOKEN".into(), Some("other".into()));
        }),
        ("a variable that is not set", |it| {
            it.passed_env.insert("TOKEN".into(), None);
        }),
        ("an input's content", |it| it.inputs[2] = file("two")),
        ("an input's port", |it| it.instance().inputs[1].port = "other".into()),
        ("a gathered input's key", |it| it.instance().inputs[0].feeds[1].key = "lang=uk".into()),
        ("two inputs exchanged", |it| it.inputs.swap(0, 1)),
        ("a lineage", |it| it.lineage = Some("{}".to_owned())),
        ("another lineage", |it| it.lineage = Some("{\"lineage\":1}".to_owned())),
        ("an input left out", |it| {
            it.instance().inputs[0].feeds = it.graph.instances[0].inputs[0].feeds[..1].into();
        }),
    ];
    let mut digests = vec![("nothing", World::new().digest())];
    for (what, change) in changes {
        let mut world = World::new();
        change(&mut world);
        let digest = world.digest();
        for (other, seen) in &digests {
            assert_ne!(*seen, digest, "{what} and {other} give one digest");
        }
        digests.push((what, digest));
    }
}

#[test]
fn what_only_affects_how_it_runs_does_not() {
    let plain = World::new().digest();
    let mut world = World::new();
    let instance = world.instance();
    instance.resources = Resources { cpu_milli: 8000, memory: 1 << 30, gpu: 2 };
    instance.timeout_ms = Some(1);
    instance.retries = 9;
    instance.settings = r#"{"concurrency":3}"#.into();
    instance.name = "renamed".into();
    // What it asks for is said by its stage; what it is given counts.
    instance.lineage = LineageScope::Actions;
    world.graph.name = "renamed".into();
    world.graph.sources[1].path = "elsewhere/ask.j2".into();
    world.passed_env.insert("UNRELATED".into(), Some("x".into()));
    assert_eq!(world.digest(), plain);
}

#[test]
fn the_encoding_is_pinned() {
    // If this changes, every result of every user is disowned: a deliberate decision.
    assert_eq!(
        World::new().digest().to_string(),
        "a96aadca5a5d082c3efe8b590d6a124a876c88c0f80611c17cac24f563a7f48f"
    );
}
