//! Undeclared reads of the project are refused: Landlock rules for commands.
//!
//! A command works in a folder of its own with a cleared environment; a relative path finds only
//! what the node declares. Landlock (Linux 5.13 and later, no privileges needed) closes the other
//! door, absolute paths: everything on the machine stays as it is, except the project and the
//! store, of which a command sees only the folder of working folders and its scratch.
//!
//! Landlock knows allow rules only, and a rule holds for everything below its folder. So the rules
//! name every neighbour of each folder on the way from `/` to the project and to the store. They
//! are made once a run; a command's thread then enters them in one system call.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};

/// The newest Landlock version whose rights the rules use; older kernels use what they know.
const TARGET_ABI: ABI = ABI::V5;

/// Rules for the commands of one run.
pub struct Sandbox {
    rules: RulesetCreated,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel has no Landlock, or it is switched off.
    #[error(
        "this kernel has no Landlock: a command that reads the project by an absolute path is not stopped"
    )]
    Unsupported,
    /// The kernel refused the rules.
    #[error("the Landlock rules could not be made: {0}")]
    Rules(#[from] landlock::RulesetError),
    /// The rules could not be copied.
    #[error("the Landlock rules could not be entered: {0}")]
    Io(#[from] std::io::Error),
}

impl Sandbox {
    /// Rules that hide the folders in `hidden` (absolute, without symlinks) except those in
    /// `shown`.
    ///
    /// # Errors
    /// When the kernel has no Landlock or refuses the rules.
    pub fn new(hidden: &[PathBuf], shown: &[PathBuf]) -> Result<Sandbox, SandboxError> {
        let all = AccessFs::from_all(TARGET_ABI);
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .create()?;
        let mut visible = Vec::new();
        collect_visible(Path::new("/"), hidden, &mut visible);
        for path in visible.iter().chain(shown) {
            // What vanished meanwhile, or may not be opened, needs no rule.
            let Ok(file) = PathFd::new(path) else { continue };
            let rights = if path.is_dir() { all } else { all & AccessFs::from_file(TARGET_ABI) };
            rules = rules.add_rule(PathBeneath::new(file, rights))?;
        }
        let sandbox = Sandbox { rules };
        sandbox.probe()?;
        Ok(sandbox)
    }

    /// Enters the rules: they hold for the calling thread and for every process that it starts,
    /// for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<(), SandboxError> {
        let status = self.rules.try_clone()?.restrict_self()?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err(SandboxError::Unsupported),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }

    /// Finds out in a thread of its own whether the kernel enforces the rules.
    fn probe(&self) -> Result<(), SandboxError> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.enter()).join().unwrap_or(Err(SandboxError::Unsupported))
        })
    }
}

/// Adds to `visible` the largest folders and files below `folder` that hold nothing hidden.
fn collect_visible(folder: &Path, hidden: &[PathBuf], visible: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if hidden.contains(&path) {
            continue;
        }
        if hidden.iter().any(|hidden| hidden.starts_with(&path)) {
            collect_visible(&path, hidden, visible);
        } else {
            visible.push(path);
        }
    }
}
