//! Checkpoints of a training: all that it takes to go on as if nothing had happened.
//!
//! ```text
//! state.safetensors      what is trained, its moments, and as a note: the step, the optimiser's, the best step,
//!                        what the loop carries from step to step, the curve
//! best-<step>.safetensors   what was trained, at the step with the lowest validation loss
//! ```
//!
//! A file is there as a whole or not at all. The note of the state names the best one that belongs to it, so
//! a kill between the two leaves at most a file too many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use okapi_model::tensor_file::{NumberKind, Numbers, TensorFile, TensorSource, write_tensors};
use okapi_model::{CausalLm, CheckpointError};
use serde::{Deserialize, Serialize};

use crate::adamw::{AdamW, Moments};
use crate::trainer::{CurveRow, Outcome, TrainError};

const STATE: &str = "state.safetensors";
const PARTS: [&str; 3] = ["value", "first", "second"];

/// How often a checkpoint is made: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckpointEvery {
    /// Steps from one to the next.
    pub steps: Option<u64>,
    /// Time from one to the next.
    pub time: Option<Duration>,
}

impl CheckpointEvery {
    pub(crate) fn is_due(&self, step: u64, since: Duration) -> bool {
        self.steps.is_some_and(|steps| step.is_multiple_of(steps.max(1)))
            || self.time.is_some_and(|time| since >= time)
    }
}

/// Where a training is.
#[derive(Debug)]
pub(crate) struct TrainState {
    folder: PathBuf,
    note: Note,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Note {
    step: u64,
    /// Steps of the optimiser: a step of the loop may take several.
    updates: u64,
    best: Option<Best>,
    /// Whether the last step has learnt, and what comes after that has not been done.
    #[serde(default)]
    awaits_validation: bool,
    /// CRC-32C of all numbers of the file, in its order.
    #[serde(default)]
    check: u32,
    /// Numbers that the loop carries from step to step, by name.
    carried: BTreeMap<String, f64>,
    curve: Vec<CurveRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Best {
    step: u64,
    loss: f64,
    /// CRC-32C of all numbers of its file.
    check: u32,
}

impl TrainState {
    /// Goes on from the checkpoint in a folder, if there is one.
    pub(crate) fn open(
        folder: &Path,
        model: &mut CausalLm,
        optimiser: &mut AdamW,
    ) -> Result<TrainState, TrainError> {
        std::fs::create_dir_all(folder).map_err(|error| CheckpointError::File {
            path: folder.to_owned(),
            message: error.to_string(),
        })?;
        let path = folder.join(STATE);
        let mut state = TrainState { folder: folder.to_owned(), note: Note::default() };
        if !path.exists() {
            return Ok(state);
        }
        let file = TensorFile::open(&path)?;
        let note = file.note().unwrap_or_default();
        state.note = serde_json::from_str(note).map_err(|error| CheckpointError::File {
            path: path.clone(),
            message: format!("its note is damaged: {error}"),
        })?;
        // Zeros, which would stand on a GPU beside those that are read.
        optimiser.restore(0, Vec::new());
        let mut moments = Vec::new();
        let mut check = 0;
        for parameter in model.parameters_mut().iter_mut() {
            if !parameter.is_trained {
                moments.push(None);
                continue;
            }
            let read = |part: &str| file.read(&format!("{part}.{}", parameter.name));
            let [value, first, second] = PARTS.map(read);
            let (value, first, second) = (value?, first?, second?);
            check = [&value, &first, &second].into_iter().fold(check, |check, it| add(check, it));
            parameter.write(value);
            let [first, second] = [first, second].map(|numbers| parameter.beside(numbers));
            moments.push(Some(Moments { first, second }));
        }
        if check != state.note.check {
            return Err(damaged(&path));
        }
        optimiser.restore(state.note.updates, moments);
        Ok(state)
    }

    /// Steps done.
    pub(crate) fn step(&self) -> u64 {
        self.note.step
    }

    /// A number that the loop carries from step to step, if it has been given.
    pub(crate) fn carried(&self, name: &str) -> Option<f64> {
        self.note.carried.get(name).copied()
    }

    /// Gives the next step a number.
    pub(crate) fn carry(&mut self, name: &str, number: f64) {
        self.note.carried.insert(name.to_owned(), number);
    }

    /// A step has learnt. [`TrainState::settle`] says when all else of it is done.
    pub(crate) fn push(&mut self, row: CurveRow) {
        self.note.step = row.step;
        self.note.curve.push(row);
        self.note.awaits_validation = true;
    }

    /// Whether the last step has learnt, and what comes after that has not been done.
    pub(crate) fn awaits_validation(&self) -> bool {
        self.note.awaits_validation
    }

    /// Adds measures to the last step.
    pub(crate) fn add(&mut self, measures: BTreeMap<String, f64>) {
        if let Some(row) = self.note.curve.last_mut() {
            row.measures.extend(measures);
        }
    }

    /// The last step is done.
    pub(crate) fn settle(&mut self) {
        self.note.awaits_validation = false;
    }

    /// What the last step measured.
    pub(crate) fn last(&self) -> Option<&CurveRow> {
        self.note.curve.last()
    }

    /// Keeps what is trained if its loss is the lowest so far.
    pub(crate) fn offer(
        &mut self,
        step: u64,
        loss: f64,
        model: &CausalLm,
    ) -> Result<(), TrainError> {
        if self.note.best.is_some_and(|best| best.loss <= loss) {
            return Ok(());
        }
        let trained = || model.parameters().iter().filter(|parameter| parameter.is_trained);
        let check = trained().fold(0, |check, parameter| add(check, &parameter.read()));
        model.check()?;
        let tensors = trained().map(|parameter| TensorSource {
            name: &parameter.name,
            shape: &parameter.shape,
            values: parameter.into(),
            kind: NumberKind::F32,
        });
        write_tensors(&self.best(step), "best", tensors)?;
        self.note.best = Some(Best { step, loss, check });
        Ok(())
    }

    fn best(&self, step: u64) -> PathBuf {
        self.folder.join(format!("best-{step}.safetensors"))
    }

    /// Makes a checkpoint, durable when this returns.
    pub(crate) fn save(&mut self, model: &CausalLm, optimiser: &AdamW) -> Result<(), TrainError> {
        self.note.updates = optimiser.steps();
        let mut names = Vec::new();
        let mut tensors = Vec::new();
        for (parameter, moments) in model.parameters().iter().zip(optimiser.moments()) {
            let Some(moments) = moments else { continue };
            names.extend(PARTS.map(|part| format!("{part}.{}", parameter.name)));
            let values: [Numbers<'_>; 3] =
                [parameter.into(), (&moments.first).into(), (&moments.second).into()];
            tensors.extend(values.map(|values| (&parameter.shape[..], values)));
        }
        self.note.check = tensors.iter().fold(0, |check, (_, values)| add(check, &values.read()));
        // What a GPU that failed gives is nothing to keep.
        model.check()?;
        let sources = names.iter().zip(&tensors).map(|(name, &(shape, values))| TensorSource {
            name,
            shape,
            values,
            kind: NumberKind::F32,
        });
        let note = serde_json::to_string(&self.note).unwrap_or_default();
        write_tensors(&self.folder.join(STATE), &note, sources)?;
        self.sweep();
        Ok(())
    }

    /// Removes best ones that no checkpoint names any more.
    fn sweep(&self) {
        let kept = self.note.best.map(|best| self.best(best.step));
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_best = name.to_str().is_some_and(|name| name.starts_with("best-"));
            if is_best && Some(entry.path()) != kept {
                // One that stays is only a file too many.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// The end: the best weights, if those were kept, are the model's.
    pub(crate) fn finish(self, model: &mut CausalLm) -> Result<Outcome, TrainError> {
        let mut kept = self.note.step;
        if let Some(best) = self.note.best {
            let path = self.best(best.step);
            let file = TensorFile::open(&path)?;
            let mut check = 0;
            for parameter in model.parameters_mut().iter_mut().filter(|it| it.is_trained) {
                let values = file.read(&parameter.name)?;
                check = add(check, &values);
                parameter.write(values);
            }
            if check != best.check {
                return Err(damaged(&path));
            }
            kept = best.step;
        }
        Ok(Outcome { curve: self.note.curve, kept })
    }
}

/// The CRC-32C of what was checked before and these numbers.
fn add(check: u32, numbers: &[f32]) -> u32 {
    let mut bytes = [0; 4096];
    numbers.chunks(bytes.len() / 4).fold(check, |check, numbers| {
        for (to, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        crc32c::crc32c_append(check, &bytes[..4 * numbers.len()])
    })
}

fn damaged(path: &Path) -> TrainError {
    let message = "it is damaged: its numbers are not those that were written".to_owned();
    CheckpointError::File { path: path.to_owned(), message }.into()
}
