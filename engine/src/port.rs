//! Port kinds: what an artifact is, and which kind may feed which port.

use okapi_cache::ArtifactKind;
use serde::{Deserialize, Serialize};

/// What an artifact is. A kind says how the artifact is stored (one file or a tree) and what a
/// reader may expect in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// Any single file.
    File,
    /// Any folder.
    Tree,
    /// Plain text, UTF-8.
    Text,
    /// Instruction rows, JSON lines.
    Instructions,
    /// Prompt rows, JSON lines.
    Prompts,
    /// Sampled answers to prompts, JSON lines.
    Responses,
    /// Ranked answers, JSON lines.
    Rankings,
    /// Multiple-choice questions, JSON lines.
    Questions,
    /// Rows set aside with the reason, JSON lines.
    Rejects,
    /// Scores of an evaluation.
    Scores,
    /// Statistics of a data set.
    Statistics,
    /// A training curve.
    Curve,
    /// A finished report.
    Report,
    /// A language model in the Hugging Face folder layout.
    Model,
    /// A reward model in the Hugging Face folder layout.
    RewardModel,
}

impl PortKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [PortKind; 15] = [
        PortKind::File,
        PortKind::Tree,
        PortKind::Text,
        PortKind::Instructions,
        PortKind::Prompts,
        PortKind::Responses,
        PortKind::Rankings,
        PortKind::Questions,
        PortKind::Rejects,
        PortKind::Scores,
        PortKind::Statistics,
        PortKind::Curve,
        PortKind::Report,
        PortKind::Model,
        PortKind::RewardModel,
    ];

    /// The name written in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            PortKind::File => "file",
            PortKind::Tree => "tree",
            PortKind::Text => "text",
            PortKind::Instructions => "instructions",
            PortKind::Prompts => "prompts",
            PortKind::Responses => "responses",
            PortKind::Rankings => "rankings",
            PortKind::Questions => "questions",
            PortKind::Rejects => "rejects",
            PortKind::Scores => "scores",
            PortKind::Statistics => "statistics",
            PortKind::Curve => "curve",
            PortKind::Report => "report",
            PortKind::Model => "model",
            PortKind::RewardModel => "reward_model",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<PortKind> {
        PortKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the artifact is one file or a folder.
    pub fn artifact_kind(self) -> ArtifactKind {
        match self {
            PortKind::Tree | PortKind::Model | PortKind::RewardModel => ArtifactKind::Tree,
            _ => ArtifactKind::File,
        }
    }
}

/// What an input port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// Artifacts of any kind.
    Any,
    /// Artifacts of one of these kinds. `file` and `tree` stand for every kind stored that way.
    Kinds(&'static [PortKind]),
}

impl Accepts {
    /// Whether an artifact of `kind` may feed this port. A plain `file` (or `tree`) output, as a
    /// `command` declares it, does not feed a port that asks for rows of a certain kind: the
    /// command's author says what it makes by declaring the kind.
    pub fn accepts(self, kind: PortKind) -> bool {
        match self {
            Accepts::Any => true,
            Accepts::Kinds(kinds) => kinds.iter().any(|accepted| match accepted {
                PortKind::File => kind.artifact_kind() == ArtifactKind::File,
                PortKind::Tree => kind.artifact_kind() == ArtifactKind::Tree,
                other => *other == kind,
            }),
        }
    }
}

impl std::fmt::Display for PortKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for Accepts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Accepts::Any => f.write_str("any"),
            Accepts::Kinds(kinds) => {
                let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                f.write_str(&names.join(" or "))
            }
        }
    }
}
