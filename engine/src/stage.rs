//! What a stage is: the descriptor that checking, the schema and the documentation are made from,
//! and the one function that does the work.

use std::collections::BTreeMap;

use crate::estimate::{Estimate, EstimateQuestion};
use crate::lineage::LineageScope;
use crate::port::{Accepts, PortKind};
use crate::stage_context::{StageContext, StageError, StageSuccess};

/// One kind of work a node can do.
pub trait Stage: Send + Sync {
    /// Name, version, ports and params.
    fn descriptor(&self) -> &'static StageDescriptor;

    /// Looks at the `declared` object of an instance for what a descriptor cannot say, such as two
    /// params that exclude each other. Called when the pipeline is checked.
    ///
    /// # Errors
    /// What is wrong, for the user: lower case, no final stop.
    fn check(&self, declared: &serde_json::Value) -> Result<(), String> {
        let _ = declared;
        Ok(())
    }

    /// What in the `declared` object of an instance only stands for what has to be filled in, such as a digest of zeros.
    /// Such an instance can be planned, and nothing is run as long as there is one. The object comes as text: hardly any
    /// stage reads it, and it is asked for every instance at the beginning of every run.
    fn placeholder(&self, declared: &str) -> Option<Placeholder> {
        let _ = declared;
        None
    }

    /// Looks at the ports that a node feeds for what a descriptor cannot say, such as one of several that there has
    /// to be. Called when the pipeline is checked.
    ///
    /// # Errors
    /// What is wrong, for the user: lower case, no final stop.
    fn check_inputs(&self, ports: &[&str]) -> Result<(), String> {
        let _ = ports;
        Ok(())
    }

    /// Looks at the text of a prompt file, given for the slot of that name. Called when the pipeline
    /// is checked.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        let _ = (slot, text);
        Ok(())
    }

    /// Reckons what an instance would ask of services outside, before it runs. `None` for a stage that
    /// asks none, or that cannot say; one that makes rows says how many even if it asks nobody.
    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let _ = question;
        None
    }

    /// What of its lineage enters an instance's action and is handed to it: for stages that say where what they
    /// make comes from. Called when the pipeline is checked; another answer for the same params is another version
    /// of the stage.
    fn lineage(&self, declared: &serde_json::Value) -> LineageScope {
        let _ = declared;
        LineageScope::None
    }

    /// Whether an instance asks somebody over the network beside a teacher: nodes of clusters mostly cannot.
    fn needs_network(&self, declared: &serde_json::Value) -> bool {
        let _ = declared;
        false
    }

    /// Whether an instance keeps all processor slots busy, unless its node says how many it may take.
    fn takes_all_slots(&self) -> bool {
        false
    }

    /// The name of the service outside whose rate limits an instance, where one instance alone uses all of it, so that
    /// more of them at once only wait for each other. `None` if it asks none, or one that takes as many as come.
    /// Asked of stages that take a teacher.
    fn limiting_service(
        &self,
        declared: &serde_json::Value,
        settings: &serde_json::Value,
    ) -> Option<String> {
        let _ = (declared, settings);
        None
    }

    /// Whether an instance may compute on a GPU.
    fn can_use_gpu(&self) -> bool {
        false
    }

    /// Decides for one instance whether it computes on a GPU of a machine that has so many: writes that into its
    /// `declared` object, with those of its `settings` that a result hangs on there, and gives how many it takes.
    fn choose_device(
        &self,
        declared: &mut serde_json::Value,
        settings: &serde_json::Value,
        gpus: usize,
    ) -> u32 {
        let _ = (declared, settings, gpus);
        0
    }

    /// Does the work of one instance, in the calling thread. Outputs are written where the context
    /// says; nothing is visible to other nodes before this returns.
    ///
    /// # Errors
    /// Whatever kept the outputs from being made. Nothing of a failed run is cached.
    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError>;
}

/// What has to be filled in before an instance can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// What: lower case, no final stop.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// All that is known of a stage without running it.
#[derive(Debug)]
pub struct StageDescriptor {
    /// The name written in pipeline files.
    pub name: &'static str,
    /// Raised whenever the same inputs and params would give other bytes.
    pub version: u32,
    /// One line.
    pub summary: &'static str,
    /// The whole documentation, Markdown.
    pub documentation: &'static str,
    /// Input ports.
    pub inputs: Inputs,
    /// Output ports.
    pub outputs: Outputs,
    /// Params, in the order of the documentation.
    pub params: &'static [Param],
    /// The prompt files that it needs. One that has none and takes `prompts:` takes any.
    pub prompts: &'static [PromptSlot],
    /// The node fields beyond the common ones that this stage takes.
    pub fields: &'static [NodeField],
    /// How repeatable the outputs are.
    pub determinism: Determinism,
}

/// The input ports of a stage.
#[derive(Debug, Clone, Copy)]
pub enum Inputs {
    /// These ports and no others.
    Fixed(&'static [InputPort]),
    /// Whatever ports the node names, of any kind, single or gathered.
    Any,
}

/// A declared input port.
#[derive(Debug, Clone, Copy)]
pub struct InputPort {
    /// The name written in pipeline files.
    pub name: &'static str,
    /// What it takes.
    pub accepts: Accepts,
    /// Whether a node may leave it out.
    pub required: bool,
    /// Whether it takes the artifacts of several instances at once.
    pub gathers: bool,
    /// One line.
    pub help: &'static str,
}

/// The output ports of a stage.
#[derive(Debug, Clone, Copy)]
pub enum Outputs {
    /// These ports and no others.
    Fixed(&'static [OutputPort]),
    /// The node declares them, by `outputs: {port: kind}`.
    Declared,
}

/// A declared output port.
#[derive(Debug, Clone, Copy)]
pub struct OutputPort {
    /// The name written in pipeline files.
    pub name: &'static str,
    /// What is made.
    pub kind: OutputKind,
    /// One line.
    pub help: &'static str,
}

/// The kind of an output port.
#[derive(Debug, Clone, Copy)]
pub enum OutputKind {
    /// Always this kind.
    Fixed(PortKind),
    /// The kind that this param names (its type is [`ParamType::PortKind`]).
    Param(&'static str),
}

/// A prompt file that a stage needs: a template that it fills in.
#[derive(Debug, Clone, Copy)]
pub struct PromptSlot {
    /// The name under `prompts:`.
    pub name: &'static str,
    /// The variables that a template has to use, with what they hold.
    pub variables: &'static [(&'static str, &'static str)],
    /// One line.
    pub help: &'static str,
}

/// Something wrong with a prompt file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptMistake {
    /// The line, from 1, if it is in one.
    pub line: Option<usize>,
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A kind of teacher: something outside that answers a stage's requests. The engine knows of it only
/// what may be written in a pipeline file, and what of that is part of an identity.
#[derive(Debug)]
pub struct TeacherKind {
    /// The name written after `kind:`.
    pub name: &'static str,
    /// Raised whenever the same request would be put, or answered, in another way.
    pub version: u32,
    /// One line.
    pub summary: &'static str,
    /// The whole documentation, Markdown.
    pub documentation: &'static str,
    /// What it takes. Params that are no part of the identity are handed to stages as settings.
    pub params: &'static [Param],
}

/// A typed parameter of a stage or a teacher.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// The name written in pipeline files.
    pub name: &'static str,
    /// What values it takes.
    pub ty: ParamType,
    /// What holds when a node leaves it out.
    pub default: ParamDefault,
    /// Whether the value is part of the action. False only for what changes how the work runs and
    /// never what comes out.
    pub identity: bool,
    /// What it does, with its unit.
    pub help: &'static str,
}

/// What values a param takes.
#[derive(Debug, Clone, Copy)]
pub enum ParamType {
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds, both included.
    Int {
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// A finite number within bounds, both included. Whole numbers are taken too.
    Float {
        /// The smallest value.
        min: f64,
        /// The largest value.
        max: f64,
    },
    /// Text.
    String,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of a port kind.
    PortKind,
    /// A file or folder of the project, tracked by content. It enters the action under `files`, by
    /// digest; the param itself enters with the path as written.
    Source,
    /// A list of values of one type.
    List(&'static ParamType),
    /// Names with values of one type.
    Map(&'static ParamType),
    /// Any value.
    Any,
}

impl std::fmt::Display for ParamType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ParamType::Bool => f.write_str("true or false"),
            ParamType::Int { min, max } => match (*min, *max) {
                (i64::MIN, i64::MAX) => f.write_str("a whole number"),
                (min, i64::MAX) => write!(f, "a whole number, at least {min}"),
                (min, max) => write!(f, "a whole number from {min} to {max}"),
            },
            ParamType::Float { min, max } => match (*min, *max) {
                (f64::MIN, f64::MAX) => f.write_str("a number"),
                (min, f64::MAX) => write!(f, "a number, at least {min}"),
                (min, max) => write!(f, "a number from {min} to {max}"),
            },
            ParamType::String => f.write_str("a text"),
            ParamType::Choice(words) => write!(f, "one of {}", words.join(", ")),
            ParamType::PortKind => f.write_str("a port kind"),
            ParamType::Source => f.write_str("a path in the project"),
            ParamType::List(item) => write!(f, "a list, each item {item}"),
            ParamType::Map(item) => write!(f, "a mapping of names, each value {item}"),
            ParamType::Any => f.write_str("any value"),
        }
    }
}

/// What holds when a node leaves a param out.
#[derive(Debug, Clone, Copy)]
pub enum ParamDefault {
    /// It must be given.
    Required,
    /// It is absent.
    Absent,
    /// This value, as JSON text.
    Value(&'static str),
}

/// A node field beyond the common ones (`stage`, `for_each`, `inputs`, `params`, `resources`,
/// `timeout`, `retries`, `epoch`, `doc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeField {
    /// `run:` a shell script.
    Run,
    /// `env:` variables with values.
    Env,
    /// `pass_env:` names of variables taken from the caller's environment, values in the identity.
    PassEnv,
    /// `files:` tracked files and folders of the project.
    Files,
    /// `prompts:` tracked prompt templates by name.
    Prompts,
    /// `outputs:` declared output ports.
    Outputs,
    /// `seed:` a whole number.
    Seed,
    /// `teacher:` the name of a teacher.
    Teacher,
}

/// How repeatable a stage's outputs are, for an audit's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Determinism {
    /// The same action gives the same bytes.
    Bytes,
    /// The same action gives the same bytes within one numeric class (device, dtype).
    NumericClass,
    /// Nothing is promised (a program of the user's, a paid service).
    Unknown,
}

impl StageDescriptor {
    /// Name, version, ports and params as one line: whatever of a stage the check of a pipeline
    /// depends on.
    fn fingerprint(&self) -> String {
        use std::fmt::Write as _;
        let mut line = format!("{} {}", self.name, self.version);
        // Writing to a string never fails.
        match self.inputs {
            Inputs::Any => line.push_str(" in any"),
            Inputs::Fixed(ports) => {
                for port in ports {
                    let _ = write!(
                        line,
                        " in {} {} {} {}",
                        port.name, port.accepts, port.required, port.gathers
                    );
                }
            }
        }
        match self.outputs {
            Outputs::Declared => line.push_str(" out declared"),
            Outputs::Fixed(ports) => {
                for port in ports {
                    let kind = match port.kind {
                        OutputKind::Fixed(kind) => kind.name(),
                        OutputKind::Param(param) => param,
                    };
                    let _ = write!(line, " out {} {kind}", port.name);
                }
            }
        }
        for param in self.params {
            line.push_str(&param.fingerprint());
        }
        for field in self.fields {
            let _ = write!(line, " field {}", field.key());
        }
        for slot in self.prompts {
            let _ = write!(line, " prompt {}", slot.name);
        }
        line
    }
}

impl TeacherKind {
    /// As [`StageDescriptor::fingerprint`].
    fn fingerprint(&self) -> String {
        let mut line = format!("teacher {} {}", self.name, self.version);
        for param in self.params {
            line.push_str(&param.fingerprint());
        }
        line
    }
}

impl Param {
    fn fingerprint(&self) -> String {
        let default = match self.default {
            ParamDefault::Required => "required",
            ParamDefault::Absent => "absent",
            ParamDefault::Value(text) => text,
        };
        format!(" param {} {} {default} {}", self.name, self.ty, self.identity)
    }
}

impl NodeField {
    /// The key in pipeline files.
    pub fn key(self) -> &'static str {
        match self {
            NodeField::Run => "run",
            NodeField::Env => "env",
            NodeField::PassEnv => "pass_env",
            NodeField::Files => "files",
            NodeField::Prompts => "prompts",
            NodeField::Outputs => "outputs",
            NodeField::Seed => "seed",
            NodeField::Teacher => "teacher",
        }
    }

    /// Every field.
    pub const ALL: [NodeField; 8] = [
        NodeField::Run,
        NodeField::Env,
        NodeField::PassEnv,
        NodeField::Files,
        NodeField::Prompts,
        NodeField::Outputs,
        NodeField::Seed,
        NodeField::Teacher,
    ];
}

impl Determinism {
    /// The word kept in results.
    pub fn name(self) -> &'static str {
        match self {
            Determinism::Bytes => "bytes",
            Determinism::NumericClass => "numeric_class",
            Determinism::Unknown => "unknown",
        }
    }
}

/// The stages and the kinds of teachers that a binary knows, by name.
#[derive(Default)]
pub struct StageRegistry {
    stages: BTreeMap<&'static str, Box<dyn Stage>>,
    teachers: BTreeMap<&'static str, &'static TeacherKind>,
}

impl StageRegistry {
    /// A registry that knows the engine's own stage, `command`.
    pub fn with_builtin() -> StageRegistry {
        let mut registry = StageRegistry::default();
        registry.add(Box::new(crate::command_stage::CommandStage));
        registry
    }

    /// Adds a stage.
    ///
    /// # Panics
    /// When the name is taken: two stages of one name are a mistake in the program.
    pub fn add(&mut self, stage: Box<dyn Stage>) {
        let name = stage.descriptor().name;
        assert!(self.stages.insert(name, stage).is_none(), "two stages are named {name}");
    }

    /// Adds a kind of teacher.
    pub fn add_teacher(&mut self, kind: &'static TeacherKind) {
        self.teachers.insert(kind.name, kind);
    }

    /// The stage of that name.
    pub fn get(&self, name: &str) -> Option<&dyn Stage> {
        self.stages.get(name).map(|stage| &**stage)
    }

    /// All stages, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Stage> {
        self.stages.values().map(|stage| &**stage)
    }

    /// All names of stages, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.stages.keys().copied()
    }

    /// The kind of teacher of that name.
    pub fn teacher(&self, name: &str) -> Option<&'static TeacherKind> {
        self.teachers.get(name).copied()
    }

    /// All kinds of teachers, sorted by name.
    pub fn teachers(&self) -> impl Iterator<Item = &'static TeacherKind> {
        self.teachers.values().copied()
    }

    /// Whatever of stages and teachers the check of a pipeline depends on, a line each.
    pub fn fingerprint(&self) -> String {
        let stages = self.iter().map(|stage| {
            let slots = if stage.takes_all_slots() { " all slots" } else { "" };
            stage.descriptor().fingerprint() + slots
        });
        let lines: Vec<_> = stages.chain(self.teachers().map(TeacherKind::fingerprint)).collect();
        lines.join("\n")
    }
}
