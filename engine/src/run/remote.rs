//! The remote as a run uses it: results are looked for there before anything is executed, and sent there afterwards.
//!
//! Nothing here blocks the loop. What is asked is answered by a message; an instance that waits for an answer holds no slot.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use okapi_cache::{ActionDigest, Digest, Store, StoreError};
use okapi_remote::{Moved, Obtained, Pushed, Replace};
use tokio::sync::mpsc;

use super::interrupts::Interrupts;
use super::runner::{Message, Runner};
use crate::event::Event;
use crate::graph::InstanceId;

/// What the remote says to the loop.
pub(super) enum Answer {
    /// The result of an instance is there and is being fetched.
    Found(InstanceId, u64),
    /// What came of asking for the result of an instance.
    Obtained(InstanceId, Obtained),
    /// What became of a result that was offered; `None`: it could not be sent.
    Offered(ActionDigest, Option<Pushed>),
}

/// What a run knows of its remote.
#[derive(Default)]
pub(super) struct Shared {
    /// Instances whose result was asked for, with no answer yet.
    pub(super) asking: BTreeSet<InstanceId>,
    /// Bytes that were fetched for instances that are not settled yet.
    fetched: BTreeMap<InstanceId, u64>,
    /// Results on their way, with the instance that they are of, unless they are of an earlier run.
    offered: BTreeMap<ActionDigest, Option<InstanceId>>,
    /// Results that should have been sent and were not.
    unsent: BTreeSet<ActionDigest>,
    /// Results of which it is written down that the remote lacks them, and that are settled: sent, or not to be sent.
    settled: BTreeSet<ActionDigest>,
    results_fetched: u64,
    moved_here: Moved,
    results_sent: u64,
    moved_there: Moved,
}

impl Runner<'_> {
    /// Looks for the results of instances that have just become ready: here, then on the remote.
    pub(super) fn look_elsewhere(&mut self, emit: &mut dyn FnMut(Event)) {
        let Some(remote) = self.request.remote.clone() else { return };
        while let Some(id) = self.schedule.take_new() {
            let forced = self.request.forced[id as usize];
            // What is here is seen by whoever takes it for execution.
            if forced || !remote.can_read() {
                self.schedule.put_back(id);
                continue;
            }
            let action = self.action(id);
            if let Some(cached) = self.hit(&action.digest, forced) {
                self.settle_from_cache(id, &action, &cached, emit);
                continue;
            }
            let kinds = output_kinds(self.request.graph, id);
            let (found, answered) = (self.sender.clone(), self.sender.clone());
            self.shared.asking.insert(id);
            // Whoever sends after the loop has ended finds nobody, and that is right.
            remote.obtain(
                Arc::clone(&self.request.store),
                action.digest,
                kinds,
                move |bytes| drop(found.send(Message::Remote(Answer::Found(id, bytes)))),
                move |it| drop(answered.send(Message::Remote(Answer::Obtained(id, it)))),
            );
        }
    }

    pub(super) fn receive_answer(&mut self, answer: Answer, emit: &mut dyn FnMut(Event)) {
        match answer {
            Answer::Found(id, bytes) => {
                let action = self.action(id).digest.to_string();
                emit(Event::NodeFetching { node: self.name(id), action, bytes });
            }
            Answer::Obtained(id, obtained) => {
                self.shared.asking.remove(&id);
                match obtained {
                    Obtained::Fetched(moved) => {
                        self.shared.fetched.insert(id, moved.bytes);
                        self.shared.results_fetched += 1;
                        self.shared.moved_here.add(moved);
                        let action = self.action(id);
                        if let Some(cached) = self.hit(&action.digest, false) {
                            self.settle_from_cache(id, &action, &cached, emit);
                        } else {
                            self.schedule.put_back(id);
                        }
                    }
                    // If another run has the lease, it is waited for as always.
                    Obtained::Nothing | Obtained::Leased => self.schedule.put_back(id),
                    Obtained::StoreTrouble(error) => {
                        self.schedule.put_back(id);
                        self.store_error.get_or_insert(error);
                    }
                }
            }
            Answer::Offered(action, pushed) => self.note_offered(action, pushed.as_ref(), emit),
        }
        self.say_notices(emit);
    }

    /// Bytes that were fetched for an instance that is being settled.
    pub(super) fn take_fetched(&mut self, id: InstanceId) -> Option<u64> {
        self.shared.fetched.remove(&id)
    }

    /// Offers the result of an instance that was executed.
    pub(super) fn offer(&mut self, id: InstanceId, action: ActionDigest) {
        // Who asks for a result to be made anew does not believe the one that there is.
        let forced = self.request.forced[id as usize];
        let replace = if forced { Replace::Any } else { Replace::Damaged };
        self.offer_as(action, Some(id), replace);
    }

    /// Offers what earlier runs could not send.
    pub(super) fn offer_unsent(&mut self) {
        let Some(remote) = &self.request.remote else { return };
        if !remote.can_write() {
            return;
        }
        for action in read_unsent(&self.request.store, remote.shown()) {
            self.offer_as(action, None, Replace::Damaged);
        }
    }

    fn offer_as(&mut self, action: ActionDigest, id: Option<InstanceId>, replace: Replace) {
        // One for reading only is owed nothing.
        let Some(remote) = self.request.remote.as_ref().filter(|it| !it.is_read_only()) else {
            return;
        };
        // Written down before it is on its way: what a run that is killed has made is sent by the next.
        if id.is_some()
            && let Err(error) = add_unsent(&self.request.store, remote.shown(), &action)
        {
            self.store_error.get_or_insert(error);
        }
        if !remote.can_write() {
            self.shared.unsent.insert(action);
            return;
        }
        self.shared.offered.insert(action, id);
        let sender = self.sender.clone();
        remote.offer(Arc::clone(&self.request.store), action, replace, move |pushed| {
            // After the loop nobody listens: then it counts as unsent, and is offered again.
            drop(sender.send(Message::Remote(Answer::Offered(action, pushed))));
        });
    }

    fn note_offered(
        &mut self,
        action: ActionDigest,
        pushed: Option<&Pushed>,
        emit: &mut dyn FnMut(Event),
    ) {
        let id = self.shared.offered.remove(&action).flatten();
        if pushed.is_some() {
            self.shared.settled.insert(action);
        }
        match pushed {
            Some(Pushed::New(moved) | Pushed::Replaced(moved)) => {
                self.shared.results_sent += 1;
                self.shared.moved_there.add(*moved);
            }
            Some(Pushed::Agreed(moved)) => self.shared.moved_there.add(*moved),
            Some(Pushed::Differs { .. }) => {
                let whose = match id {
                    Some(id) => self.name(id),
                    None => format!("the action {}", action.0.short()),
                };
                let message = format!(
                    "the remote has another result of {whose}: executed twice, it gave different bytes. The remote keeps \
                     its own; --force sends the one of a new execution"
                );
                emit(Event::Warning { message });
            }
            // Collected meanwhile.
            Some(Pushed::NotHere) => {}
            None => {
                self.shared.unsent.insert(action);
            }
        }
    }

    fn say_notices(&self, emit: &mut dyn FnMut(Event)) {
        let notices = self.request.remote.iter().flat_map(|remote| remote.take_notices());
        notices.for_each(|message| emit(Event::Warning { message }));
    }

    /// After the loop: waits until what was offered has arrived, unless the user has no patience for it. Every transfer is
    /// bounded, and a remote that fails is set aside, so this ends.
    pub(super) async fn finish_sending(
        &mut self,
        receiver: &mut mpsc::UnboundedReceiver<Message>,
        interrupts: &mut Interrupts,
        emit: &mut dyn FnMut(Event),
    ) {
        let Some(remote) = self.request.remote.clone() else { return };
        let waiting = self.shared.offered.len() as u64;
        if waiting > 0 && !self.interrupted {
            emit(Event::Sending { results: waiting });
        }
        while !self.shared.offered.is_empty() && !self.interrupted {
            tokio::select! {
                biased;
                () = interrupts.next() => self.interrupted_sending(emit),
                message = receiver.recv() => match message {
                    Some(Message::Remote(answer)) => self.receive_answer(answer, emit),
                    Some(_) => {}
                    None => break,
                },
            }
        }
        if self.interrupted {
            remote.stop();
        }
        self.shared.unsent.extend(self.shared.offered.keys());
        self.say_notices(emit);
        let shared = &self.shared;
        if !remote.is_read_only()
            && let Err(error) =
                write_unsent(&self.request.store, remote.shown(), &shared.unsent, &shared.settled)
        {
            self.store_error.get_or_insert(error);
        }
        let shared = &self.shared;
        let used = shared.results_fetched + shared.results_sent + shared.unsent.len() as u64;
        if used > 0 {
            emit(Event::RemoteUsed {
                remote: remote.shown().to_owned(),
                fetched: shared.results_fetched,
                fetched_bytes: shared.moved_here.bytes,
                sent: shared.results_sent,
                sent_bytes: shared.moved_there.bytes,
                unsent: shared.unsent.len() as u64,
            });
        }
    }

    /// The work is done: only the sending is given up, and what is left is sent by the next run.
    fn interrupted_sending(&mut self, emit: &mut dyn FnMut(Event)) {
        self.interrupted = true;
        emit(Event::Interrupted { running: 0 });
    }
}

/// The kinds of an instance's outputs, in the order of its ports.
pub(crate) fn output_kinds(
    graph: &crate::graph::Graph,
    id: InstanceId,
) -> Vec<okapi_cache::ArtifactKind> {
    graph.node(id).outputs.iter().map(|output| output.kind.artifact_kind()).collect()
}

/// Where it is written down what a remote lacks: `runs/unsent/<digest of the address>`, a digest a line.
fn unsent_path(store: &Store, remote: &str) -> PathBuf {
    let name = Digest::of(remote.as_bytes()).to_string();
    store.runs_folder().join("unsent").join(&name[..16])
}

/// Whether earlier runs could not send everything to the remote of this address.
pub fn has_unsent(store: &Store, remote: &str) -> bool {
    !read_unsent(store, remote).is_empty()
}

/// What earlier runs could not send. What cannot be read costs a `cache push`, and nothing else.
fn read_unsent(store: &Store, remote: &str) -> BTreeSet<ActionDigest> {
    let text = std::fs::read_to_string(unsent_path(store, remote)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Adds a line. Runs on one store may do so at once; a line that a power failure takes costs a `cache push`.
fn add_unsent(store: &Store, remote: &str, action: &ActionDigest) -> Result<(), StoreError> {
    let path = unsent_path(store, remote);
    let open = || std::fs::File::options().append(true).create(true).open(&path);
    let opened = open().or_else(|error| match path.parent() {
        Some(folder) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(folder).and_then(|()| open())
        }
        _ => Err(error),
    });
    let added = opened.and_then(|mut file| file.write_all(format!("{action}\n").as_bytes()));
    added.map_err(|error| StoreError::io(&path, error))
}

/// Takes out what is settled. What other runs have added stays.
fn write_unsent(
    store: &Store,
    remote: &str,
    unsent: &BTreeSet<ActionDigest>,
    settled: &BTreeSet<ActionDigest>,
) -> Result<(), StoreError> {
    let before = read_unsent(store, remote);
    let after: BTreeSet<_> = before.difference(settled).chain(unsent).copied().collect();
    if after == before {
        return Ok(());
    }
    let path = unsent_path(store, remote);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::io(folder, error))?;
    }
    let text: String = after.iter().map(|action| format!("{action}\n")).collect();
    store.write_file(&path, text.as_bytes())
}
