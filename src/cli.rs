//! The command line: what can be asked. No behaviour.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use okapi_cache::Durability;
use okapi_engine::bundle::PrivateKind;
use okapi_engine::placement::Place;

use crate::commands::examples::Example;
use crate::env_vars;

/// A declarative workflow engine with a content-addressed cache: write a pipeline, run it, edit
/// it, and pay only for what the edit really invalidates.
#[derive(Debug, Parser)]
#[command(name = "okapi", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  okapi init                          write a small pipeline to begin with
  okapi run okapi.yaml                bring everything up to date
  okapi plan okapi.yaml               see what would run, and why
  okapi explain okapi.yaml count      see what changed in one node

Exit codes: 0 done, 1 a node failed, 2 bad usage or pipeline, 3 store trouble, 4 budget reached,
10 `plan --check` found work, 130 interrupted.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The project's root. Left out: the nearest folder above the pipeline file with `.okapi` or
    /// `.git`, else the current folder. [env: OKAPI_PROJECT]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// The store. Left out: `.okapi` in the project's root. [env: OKAPI_STORE]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Whether the store is named on the command line, and not by the environment.
    #[arg(skip)]
    pub(crate) is_store_named: bool,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub(crate) color: When,
    /// Say more on stderr; twice for even more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring nodes up to date: run what has no result, and nothing else
    #[command(after_help = "\
A target is a node (all its instances), an instance such as 'translate[lang=ru]', or the part of a
node's instances with given values: 'train[size=7b]'. No targets: everything.

Examples:
  okapi run okapi.yaml
  okapi run okapi.yaml table -j 8 --keep-going
  okapi run okapi.yaml --profile small --set vars.top=5
  okapi run okapi.yaml --force 'count[lang=de]'

Ctrl-C stops gracefully: running commands get SIGTERM and --grace seconds. A second one stops at once.")]
    Run(RunArgs),
    /// Show what a run would do, why, and what it would cost; run nothing
    #[command(after_help = "\
Verdicts: cached (its result is used), runs (why), may run (an input is made anew; it ends there if
the bytes come out the same), blocked (this machine cannot run it).

The bill has what is not cached, also what this machine cannot run: requests, tokens and cost of
teachers, hours of GPUs or of the processor, and disk; by node, by language (the axis `lang`), in all.
What is not there yet is reckoned, and what was assumed for that is said. With --all, each node by
language. In JSON: .bill.nodes[].{node,stage,charges,languages}, .bill.languages, .bill.total,
.bill.assumptions; times in milliseconds, money in billionths of a US dollar.

Examples:
  okapi plan okapi.yaml
  okapi plan okapi.yaml --check && echo nothing to do
  okapi plan okapi.yaml --json | jq .summary
  okapi plan okapi.yaml --profile paper --json | jq .bill.total")]
    Plan(PlanArgs),
    /// Show field by field why a node runs, or why it need not
    #[command(after_help = "\
Compares the node's action with the one of the last run: old and new values, and a line diff for
scripts, prompts, tracked files and text inputs.

Example: okapi explain okapi.yaml 'count[lang=de]'")]
    Explain(ExplainArgs),
    /// Prove that results are what the pipeline says: hash, recompute, execute again
    #[command(after_help = "\
Looks at what the pipeline's last run left behind, from the results back to the seeds, and
believes nothing that was remembered. Of each node: are its action's document and the bytes of its
outputs what their digests say; is its action the one that the pipeline file, prompts and tracked
files give now, with the recorded outputs of the nodes above as its inputs; are its metrics those
that the run reported. Where a teacher was asked, the node is worked through again with the
recorded answers alone. Published files are compared, too.

Verdicts: verified; changed since (the result is whole, the pipeline asks for another by now);
missing; corrupt.

--reexecute executes nodes again in an empty store, from their recorded inputs, within their
timeouts, and compares every byte: `all`, `sample=N` (N nodes by chance, others each time;
--sample-seed draws the same again), or a node. On a GPU numbers of tensors may lie a 256th of the
largest apart, an 8192nd where `gpu_dtype: f32` is recorded: then the node is verified, with the
largest difference as a note. The store of its own lies below $TMPDIR and needs room for what these
nodes read and make.

Nodes below one that has no result are compared as far as they can be, and never verified if that
is not to the end. A lost log is a note as well.

Examples:
  okapi audit okapi.yaml
  okapi audit okapi.yaml --reexecute sample=10
  okapi audit okapi.yaml --reexecute 'sft[lang=de]'
  okapi audit okapi.yaml --locked            is okapi.lock, from `okapi run --lock`, still true?
  okapi audit okapi.yaml --export bundle     for a third party, who says:
  okapi audit bundle
  okapi audit okapi.yaml --json | jq -r '.nodes[] | select(.verdict != \"verified\") | .node'

Exit codes: 0 all holds; 1 something does not; 2 bad usage or pipeline; 3 store trouble.")]
    Audit(AuditArgs),
    /// Report every mistake in a pipeline file at once
    #[command(after_help = "\
Exits with 0 if there is none, else with 2. Nothing is run or written.

Examples:
  okapi check okapi.yaml
  okapi check okapi.yaml --profile small --json | jq -r '.diagnostics[].message'")]
    Check(CheckArgs),
    /// Print the JSON Schema of pipeline files, for editors
    #[command(after_help = "\
Begin a pipeline file with
  # yaml-language-server: $schema=okapi.schema.json
and write the schema beside it: okapi schema > okapi.schema.json")]
    Schema,
    /// List the stages, or document one
    #[command(after_help = "\
Examples:
  okapi stages
  okapi stages command            its inputs, outputs, params and variables
  okapi stages --json | jq -r '.stages[].stage'")]
    Stages(StagesArgs),
    /// Test what models compute on this machine: operations, trainers, speed
    #[command(after_help = "\
On a GPU every operation is computed a second time by the processor, in single and in half
precision, and so are some steps of every trainer. On the processor trainings are compared with one
thread and with several. Then a model of random weights is trained, read and written with, which
takes about as long as three times --seconds.

Examples:
  okapi selftest
  okapi selftest --device cuda
  okapi selftest --device cuda --model bloom-7b1 --tokens 16384
  okapi selftest --device cuda --seconds 0        compare only

Exit codes: 0 all agree; 1 something does not, or the device fails.")]
    Selftest(SelftestArgs),
    /// Draw the graph of a pipeline
    #[command(after_help = "\
Examples:
  okapi graph okapi.yaml --format svg -o graph.svg
  okapi graph okapi.yaml | dot -Tpdf > graph.pdf")]
    Graph(GraphArgs),
    /// Copy an artifact out of the store
    #[command(after_help = "\
The artifact is that of the pipeline as it stands now, whichever run made it. The copy is yours to
edit; the store keeps its own.

Examples:
  okapi get okapi.yaml table table.txt
  okapi get okapi.yaml 'train[size=7b]:model' ./model")]
    Get(GetArgs),
    /// Look at an artifact
    #[command(after_help = "\
Prints the head of a text, indents JSON, lists a tree; of anything else it says the size and digest.

Examples:
  okapi show okapi.yaml table
  okapi show okapi.yaml 'count[lang=de]:counts' -n 0 | sort
  okapi show okapi.yaml 'rank[lang=de]' --metrics")]
    Show(ShowArgs),
    /// List past runs
    #[command(after_help = "\
Examples:
  okapi runs
  okapi runs -n 0 --json | jq -r '.runs[] | select(.end.outcome == \"failed\") | .id'")]
    Runs(RunsArgs),
    /// Show what a run, or one node of it, wrote
    #[command(after_help = "\
The log of a node that was cached is that of the run that made its result.

Examples:
  okapi log                       what the newest run said
  okapi log last 'count[lang=de]' what that command wrote to stdout and stderr
  okapi log last~1 --json")]
    Log(LogArgs),
    /// Compare two runs: what was asked, what came out, and where they part
    #[command(after_help = "\
Says from the top what differs:
  what was asked   pipeline, profile, --set, targets, okapi's version; whether the file is the same
  metrics          results first, then what they read from; without details, standard errors and
                   what teachers were asked
  the runs part    nodes that came or went, have other params, scripts, prompts, files, ..., read
                   from another node, or gave another output for the same action (unsteady)
  what they read   nodes that differ only because of those; where outputs are the same, early
                   cutoff ended it

--json has `facts` (what was asked), `metrics` (all of them, results first), `first` (names of the
nodes where the runs part), `dependants` (of those that differ only in what they read), `same` (how
many nodes do not differ) and `nodes` (all that do: `node`, `change`, `fields`, `same_outputs`,
`outputs`, `metrics`). Of nodes in neither list a result has been collected.

Examples:
  okapi diff                      the newest run against the one before
  okapi diff --all                every metric and node, each with all of its fields
  okapi diff last~3 last --json | jq -r '.first[]'")]
    Diff(DiffArgs),
    /// Remove what kept runs do not need
    #[command(after_help = "\
Keeps the results of the newest runs, of the last run of every pipeline, and all that they refer to.
Says what making the rest again would cost.

Examples:
  okapi gc --dry-run
  okapi gc --keep-runs 5 --max-size 20G
  okapi gc --remote --max-size 500G          on the remote; --delete does it")]
    Gc(GcArgs),
    /// Look after the store
    #[command(subcommand)]
    Cache(CacheCommand),
    /// The offline teacher: text by rules, without a model.
    #[command(subcommand)]
    Teacher(TeacherCommand),
    /// Write a pipeline to begin with
    #[command(after_help = "\
Writes a pipeline with comments and all files that it needs, the schema for editors, and .gitignore. Files that are there stay as they
are, but .gitignore gets the store's line.

Examples:
  okapi init words && cd words && okapi run
  okapi init lab --example okapi-26 && cd lab && okapi run pipelines/okapi-26.yaml")]
    Init(InitArgs),
    /// One job of a cluster: `okapi run --executor slurm` submits them
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example: okapi completions bash > /etc/bash_completion.d/okapi")]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PipelineArgs {
    /// The pipeline file.
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: PathBuf,
    #[command(flatten)]
    pub(crate) overlay: OverlayArgs,
}

/// For commands that need no word after the pipeline.
#[derive(Debug, Clone, Args)]
pub(crate) struct DefaultPipelineArgs {
    /// The pipeline file. Left out, with all that would follow it: `okapi.yaml` in the current
    /// folder.
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overlay: OverlayArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OverlayArgs {
    /// Merge this profile of the pipeline.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Set a value: `vars.top=5`, `nodes.count.timeout=10m`. Repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Where nodes are executed, if the pipeline does not say it. Nodes that ask a teacher or the hub stay here.
    #[arg(long, value_enum, env = env_vars::OKAPI_EXECUTOR, default_value_t = ExecutorArg::Local, hide_default_value = true, value_name = "WHERE")]
    pub(crate) executor: ExecutorArg,
}

/// An amount of money.
fn usd(text: &str) -> Result<f64, String> {
    let number = text.strip_prefix('$').unwrap_or(text).parse::<f64>();
    number
        .ok()
        .filter(|usd| (0.0..1e9).contains(usd))
        .ok_or_else(|| "write US dollars, such as 2.50".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) pipeline: DefaultPipelineArgs,
    /// Nodes or instances; left out: all.
    #[arg(value_name = "NODE")]
    pub(crate) targets: Vec<String>,
    /// How many nodes of one processor slot run at once. Left out: the number of processors.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    /// After a failure go on with what does not depend on it.
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// Run this node even if there is a result. Repeatable.
    #[arg(long, value_name = "NODE")]
    pub(crate) force: Vec<String>,
    /// How to show progress.
    #[arg(long, value_enum, default_value_t = Progress::Auto, value_name = "HOW")]
    pub(crate) progress: Progress,
    /// Show failures only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Leave the work tree alone: place no published artifacts.
    #[arg(long)]
    pub(crate) no_publish: bool,
    /// Afterwards execute every node once more, with another number of threads, and name those that give another result.
    #[arg(long)]
    pub(crate) check_determinism: bool,
    /// Write down what each node's result is, beside the pipeline: `okapi.yaml` gets `okapi.lock`.
    #[arg(long)]
    pub(crate) lock: bool,
    /// Do not hide the rest of the project from commands.
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// How many jobs may be in the cluster's queue at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) cluster_jobs: Option<u32>,
    /// How long running commands get to end after Ctrl-C, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) grace: u64,
    /// The most that teachers may cost in this run, US dollars. At the limit the run ends with exit code 4;
    /// what was answered is kept.
    #[arg(long, value_name = "USD", value_parser = usd, allow_negative_numbers = true)]
    pub(crate) budget: Option<f64>,
    /// How hard results are made to survive a power cut.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Batch, value_name = "HOW")]
    pub(crate) durability: DurabilityArg,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// `terminal` on a terminal, else `plain`.
    Auto,
    /// Live lines.
    Terminal,
    /// One line per event.
    Plain,
    /// One JSON object per event, on stdout.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExecutorArg {
    /// On this machine.
    Local,
    /// As jobs of Slurm; the store has to lie where its nodes see it, too.
    Slurm,
}

impl From<ExecutorArg> for Place {
    fn from(argument: ExecutorArg) -> Place {
        match argument {
            ExecutorArg::Local => Place::Local,
            ExecutorArg::Slurm => Place::Slurm,
        }
    }
}

/// What the script of a job gives.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The jobs that were submitted together, in the store.
    #[arg(long, requires = "index", required_unless_present = "place")]
    pub(crate) batch: Option<String>,
    /// Which of them this is.
    #[arg(long)]
    pub(crate) index: Option<usize>,
    /// The name of the store on the remote that OKAPI_REMOTE names, where the store is not seen.
    #[arg(long, requires = "action", conflicts_with = "batch")]
    pub(crate) place: Option<String>,
    /// What is to be done.
    #[arg(long)]
    pub(crate) action: Option<okapi_cache::ActionDigest>,
    /// How long a request to the remote may take that moves nothing, seconds.
    #[arg(long, default_value_t = okapi_remote::Limits::default().timeout.as_secs())]
    pub(crate) remote_timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrivateArg {
    /// The value of a variable that speaks of a key, token, secret, password or credential, or that is passed on.
    Secret,
    /// The name of the user.
    User,
    /// The name of this machine.
    Host,
    /// An absolute path.
    Path,
}

impl From<PrivateArg> for PrivateKind {
    fn from(argument: PrivateArg) -> PrivateKind {
        match argument {
            PrivateArg::Secret => PrivateKind::Secret,
            PrivateArg::User => PrivateKind::User,
            PrivateArg::Host => PrivateKind::Host,
            PrivateArg::Path => PrivateKind::Path,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// In groups: a power cut costs the last 50 ms of results.
    Batch,
    /// Each result at once.
    Full,
    /// Left to the system.
    None,
}

impl From<DurabilityArg> for Durability {
    fn from(argument: DurabilityArg) -> Durability {
        match argument {
            DurabilityArg::Batch => Durability::Batch,
            DurabilityArg::Full => Durability::Full,
            DurabilityArg::None => Durability::None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) pipeline: DefaultPipelineArgs,
    /// Nodes or instances; left out: all.
    #[arg(value_name = "NODE")]
    pub(crate) targets: Vec<String>,
    /// Plan as if these nodes were forced to run. Repeatable.
    #[arg(long, value_name = "NODE")]
    pub(crate) force: Vec<String>,
    /// Print the plan as JSON.
    #[arg(long, conflicts_with = "check")]
    pub(crate) json: bool,
    /// Exit with 0 if nothing would run, else with 10.
    #[arg(long)]
    pub(crate) check: bool,
    /// List every instance, cached ones too.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) pipeline: DefaultPipelineArgs,
    /// Nodes or instances, and all that they come from; left out: all.
    #[arg(value_name = "NODE")]
    pub(crate) targets: Vec<String>,
    /// Execute nodes again and compare: `all`, `sample=N`, or a node or instance. Repeatable.
    #[arg(long, value_name = "WHAT")]
    pub(crate) reexecute: Vec<String>,
    /// Ask teachers so many of the recorded requests anew, by chance, and say how many answers differ. Nothing is recorded.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "skip_records"
    )]
    pub(crate) ask_again: usize,
    /// Draw the samples of `--reexecute sample=N` and `--ask-again` as an earlier audit did, which named this number. Left out:
    /// by chance.
    #[arg(long, value_name = "N")]
    pub(crate) sample_seed: Option<u32>,
    /// Compare with the lock file beside the pipeline, too.
    #[arg(long)]
    pub(crate) locked: bool,
    /// Write a bundle for a third party to this folder, if all holds: the pipeline, prompts, actions, digests, environment,
    /// costs and the published outputs, also as a Workflow Run RO-Crate. `okapi audit FOLDER` checks it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) export: Option<PathBuf>,
    /// The license of the bundle, as SPDX names it.
    #[arg(long, value_name = "SPDX", requires = "export")]
    pub(crate) license: Option<String>,
    /// Who made it; nobody is named unless you say so.
    #[arg(long, value_name = "NAME", requires = "export")]
    pub(crate) author: Option<String>,
    /// Write the bundle even if it holds something of this kind. Repeatable.
    #[arg(long, value_name = "KIND", value_delimiter = ',', requires = "export")]
    pub(crate) allow_private: Vec<PrivateArg>,
    /// Believe the recorded answers of teachers to be those that results were made with.
    #[arg(long)]
    pub(crate) skip_records: bool,
    /// How many instances to execute at once.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) jobs: Option<u32>,
    /// Do not hide the rest of the project from commands.
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// List every instance, verified ones too.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print as JSON; always every instance.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The node or instance.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Explain every instance of a node, not the first 20 alone.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print as JSON; always every instance.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) pipeline: DefaultPipelineArgs,
    /// Print the mistakes as JSON on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SelftestArgs {
    /// What to test; `auto` is a GPU where this okapi can use one.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto, value_name = "DEVICE")]
    pub(crate) device: DeviceChoice,
    /// The published model whose size the speed is measured with, such as bloom-7b1. Left out: on a GPU the
    /// largest BLOOM that can be trained in full on it, 7b1 or smaller, else pythia-70m.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Seconds to train, to score and to sample; 0 to measure no speed.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) seconds: u64,
    /// Tokens of an example.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(32..=2048))]
    pub(crate) length: u32,
    /// Tokens of a step. Left out: 8192 on a GPU, 1024 on the processor.
    #[arg(long, value_name = "N")]
    pub(crate) tokens: Option<usize>,
    /// Responses to sample at once.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) rows: usize,
    /// Measure the speed alone.
    #[arg(long)]
    pub(crate) no_compare: bool,
    /// Print as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Debug, Args)]
pub(crate) struct StagesArgs {
    /// The stage to document.
    #[arg(value_name = "STAGE")]
    pub(crate) name: Option<String>,
    /// Print as JSON: of every stage, or of this one.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    pub(crate) pipeline: DefaultPipelineArgs,
    /// The format.
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot, value_name = "FORMAT")]
    pub(crate) format: GraphFormat,
    /// Draw every instance of a `for_each`, however many there are. Left out: as long as there are
    /// no more than 40 boxes. JSON has them always.
    #[arg(long, conflicts_with = "collapse")]
    pub(crate) instances: bool,
    /// Draw one box per node, with the number of its instances.
    #[arg(long)]
    pub(crate) collapse: bool,
    /// Write to a file instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    Dot,
    Mermaid,
    Svg,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The artifact: `NODE`, `NODE:PORT`, `'NODE[lang=de]:PORT'`.
    #[arg(value_name = "NODE[:PORT]")]
    pub(crate) artifact: String,
    /// Where to put it.
    #[arg(value_name = "DEST")]
    pub(crate) destination: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) pipeline: PipelineArgs,
    /// The artifact: `NODE`, `NODE:PORT`, `'NODE[lang=de]:PORT'`.
    #[arg(value_name = "NODE[:PORT]")]
    pub(crate) artifact: String,
    /// How many lines of a text; 0 for all.
    #[arg(short = 'n', long, default_value_t = 40, value_name = "N")]
    pub(crate) lines: usize,
    /// Print the numbers that the node reported instead, as JSON.
    #[arg(long)]
    pub(crate) metrics: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// How many, the newest; 0 for all.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    pub(crate) count: usize,
    /// Print as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The run: an id, the beginning of one, `last`, or `last~2`. Left out: `last`.
    #[arg(value_name = "RUN", default_value = "last")]
    pub(crate) run: String,
    /// The instance whose stdout and stderr to show. Left out: what the run said.
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Print the run's events as JSON, one a line.
    #[arg(long, conflicts_with = "node")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older run: an id, the beginning of one, `last`, or `last~1`.
    #[arg(value_name = "RUN", default_value = "last~1")]
    pub(crate) old: String,
    /// The newer run.
    #[arg(value_name = "RUN", default_value = "last")]
    pub(crate) new: String,
    /// List every metric and every node, each with all fields that differ.
    #[arg(long)]
    pub(crate) all: bool,
    /// Print as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// How many runs to keep, the newest; each pipeline's last results are kept whatever their age.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep_runs: u64,
    /// Keep less if that does not fit, a pipeline's last results too: `500M`, `20G`. The newest come first; on the remote a
    /// run goes or stays whole, and one that does not fit does not take older ones with it.
    #[arg(long, value_name = "SIZE", value_parser = crate::ui::format::parse_size)]
    pub(crate) max_size: Option<u64>,
    /// Only say what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Cancel jobs of a cluster that killed runs have left, and forget what they made.
    #[arg(long, conflicts_with_all = ["dry_run", "remote"])]
    pub(crate) forget_jobs: bool,
    /// Collect on the remote instead: that of the settings, or `--remote=URL`. Without --delete it only says what would go.
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) remote: Option<String>,
    /// Remove it from the remote.
    #[arg(long, requires = "remote")]
    pub(crate) delete: bool,
    /// Leave alone on the remote what is younger: others may be sending.
    #[arg(long, value_name = "HOURS", default_value_t = 24, requires = "remote")]
    pub(crate) grace_hours: u64,
    /// Print as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl GcArgs {
    /// The remote that is named.
    pub(crate) fn remote_args(&self) -> RemoteArgs {
        RemoteArgs::of_flag(self.remote.as_deref().unwrap_or_default())
    }
}

/// Where results are looked for that the store does not have, and sent.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RemoteArgs {
    /// Share results there: a folder, s3://BUCKET/PREFIX, gs://, az://, or https:// for WebDAV. Left out: `remote` in
    /// okapi.settings.yaml. [env: OKAPI_REMOTE]
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Use no remote, whatever the settings say.
    #[arg(long, conflicts_with = "remote")]
    pub(crate) no_remote: bool,
    /// Use what the remote has, and send it nothing.
    #[arg(long)]
    pub(crate) remote_read_only: bool,
    /// Share all that teachers answered, in earlier runs, too: whoever reads the remote can then read the prompts.
    #[arg(long)]
    pub(crate) remote_records: bool,
}

impl RemoteArgs {
    /// Of a flag that may have a value: an empty one stands for the settings.
    pub(crate) fn of_flag(url: &str) -> RemoteArgs {
        let remote = (!url.is_empty()).then(|| url.to_owned());
        RemoteArgs { remote, ..RemoteArgs::default() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The pipeline whose newest results to send. Left out: every result in the store.
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Replace results that the remote has.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) pipeline: DefaultPipelineArgs,
    /// Nodes or instances; left out: all.
    #[arg(value_name = "NODE")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Print as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Print how large the store is
    Stats {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send results to the remote: those of a pipeline's last run, or all
    #[command(after_help = "\
What the remote has is not sent again, so a push that was interrupted goes on where it ended.

Examples:
  okapi cache push --remote s3://bucket/okapi
  okapi cache push okapi.yaml")]
    Push(PushArgs),
    /// Fetch from the remote what a pipeline needs
    #[command(after_help = "\
Example: okapi cache pull okapi.yaml report --remote s3://bucket/okapi")]
    Pull(PullArgs),
    /// Hash every object again and look for every output
    #[command(after_help = "\
Exits with 3 if something is damaged or lost.

Examples:
  okapi cache verify --repair && okapi run okapi.yaml
  okapi cache verify --remote --sample 100")]
    Verify {
        /// Move damaged objects aside; what needs them runs again. On the remote: send what this store has, delete the
        /// rest, and the results that named it.
        #[arg(long)]
        repair: bool,
        /// Look at the remote instead: that of the settings, or `--remote=URL`.
        #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "")]
        remote: Option<String>,
        /// On the remote, look at so many objects and results, evenly spread.
        #[arg(long, value_name = "N", requires = "remote")]
        sample: Option<usize>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder; it is made if it does not exist.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Which pipeline.
    #[arg(long, value_name = "NAME", value_enum, default_value = "first-steps")]
    pub(crate) example: Example,
    /// Print what became of each file as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TeacherCommand {
    /// Offer the offline teacher as an OpenAI-compatible server.
    #[command(after_help = "\
Chat completions, models, files and batches, below http://HOST:PORT/v1. There is no key to check: keep it on
this machine. It is no language model: it answers what its rules cover.

Example: okapi teacher serve --port 8080, and in a pipeline
  teachers: {chat: {kind: openai, model: okapi-offline, base_url: 'http://127.0.0.1:8080/v1'}}")]
    Serve {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
        host: std::net::IpAddr,
        /// The port; 0 takes one that is free.
        #[arg(long, default_value_t = 8080, value_name = "N")]
        port: u16,
        /// The share of answers that are good; the others have mistakes, as a weaker teacher's would.
        #[arg(long, default_value_t = 1.0, value_name = "0..1", value_parser = share)]
        skill: f64,
        /// The seed of its chance.
        #[arg(long, default_value_t = 0, value_name = "N")]
        seed: i64,
        /// How long every answer takes at least, milliseconds.
        #[arg(long, default_value_t = 0, value_name = "MS")]
        delay_ms: u64,
        /// The most chat completions a minute; those beyond get 429, as from a provider.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        requests_per_minute: Option<u32>,
    },
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "write a number from 0 to 1".to_owned())
}
