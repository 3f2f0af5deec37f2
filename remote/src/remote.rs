//! The handle: asks in the background for a run, and waits for those who have nothing else to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use okapi_cache::{ActionDigest, ArtifactKind, ResultFile, Store, StoreError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::address::Address;
use crate::error::RemoteError;
use crate::fetch::Moved;
use crate::options::Options;
use crate::push::{Pushed, Replace};
use crate::requests::Requests;

/// What came of asking for the result of an action.
#[derive(Debug)]
pub enum Obtained {
    /// It is in the store now, and its lease is given back when it is durable.
    Fetched(Moved),
    /// The remote has none that can be used. Whatever there is to say of it is a notice.
    Nothing,
    /// Another run on this store has the lease on the action.
    Leased,
    /// The store cannot take it.
    StoreTrouble(StoreError),
}

/// A store that several machines share, as one process uses it.
pub struct Remote {
    requests: Arc<Requests>,
    read_only: bool,
    pub(crate) shares_records: bool,
    asking: Arc<Semaphore>,
    offering: Arc<Semaphore>,
    /// Taken when the handle is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("shown", &self.requests.shown).finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens a remote. No request is sent: whether it can be reached is seen when it is asked.
    ///
    /// # Errors
    /// When credentials are incomplete, or a folder does not exist.
    pub fn open(address: &Address, options: &Options) -> Result<Remote, RemoteError> {
        let opened = address.open(options)?;
        let requests = Arc::new(Requests::new(opened, address.to_string(), options.limits));
        let threads = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("okapi-remote")
            .enable_all()
            .build();
        let runtime = threads.map_err(|error| RemoteError::Request {
            what: "start threads for",
            key: address.to_string(),
            message: error.to_string(),
            forbidden: false,
        })?;
        let parallel = options.limits.parallel.max(1);
        Ok(Remote {
            requests,
            read_only: options.read_only,
            shares_records: options.records,
            asking: Arc::new(Semaphore::new(parallel)),
            // Each result has several objects: a few results at a time keep all requests busy.
            offering: Arc::new(Semaphore::new(parallel.div_ceil(4))),
            runtime: Some(runtime),
        })
    }

    /// The address, for messages.
    pub fn shown(&self) -> &str {
        &self.requests.shown
    }

    /// Whether it was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether asking it makes sense: it was not set aside.
    pub fn can_read(&self) -> bool {
        self.requests.can_read()
    }

    /// Whether offering results makes sense: it may be written, and was not set aside.
    pub fn can_write(&self) -> bool {
        !self.read_only && self.requests.can_write()
    }

    /// How many requests have failed after all their tries, other than those of calls that give an error.
    pub fn failures(&self) -> u32 {
        self.requests.failures()
    }

    /// What is to be said to the user since it was asked last.
    pub fn take_notices(&self) -> Vec<String> {
        self.requests.take_notices()
    }

    /// Ends everything that is under way, for good.
    pub fn stop(&self) {
        self.requests.stop();
    }

    /// Asks for the result of an action in the background: looks it up, takes the lease, fetches its objects, commits it.
    /// `kinds` are those of the action's outputs. `found` is told how many bytes its outputs have, if there is a result;
    /// `answer` is called once. Both are called from threads of the remote's.
    pub fn obtain(
        &self,
        store: Arc<Store>,
        action: ActionDigest,
        kinds: Vec<ArtifactKind>,
        found: impl FnOnce(u64) + Send + 'static,
        answer: impl FnOnce(Obtained) + Send + 'static,
    ) {
        let requests = Arc::clone(&self.requests);
        let asking = Arc::clone(&self.asking);
        let work = async move {
            // Never closed. Leases are open files: not more at once than can be asked for.
            let _permit = asking.acquire_owned().await;
            match obtain(&requests, &store, &action, &kinds, found).await {
                Ok(obtained) => obtained,
                Err(RemoteError::Store(error)) => Obtained::StoreTrouble(error),
                Err(error) => {
                    requests.say(&error);
                    Obtained::Nothing
                }
            }
        };
        self.spawn(work, |worked| answer(worked.unwrap_or(Obtained::Nothing)));
    }

    /// Offers a result in the background. `answer` is called once, from a thread of the remote's; `None` stands for a
    /// failure, about which whatever there is to say is a notice.
    pub fn offer(
        &self,
        store: Arc<Store>,
        action: ActionDigest,
        replace: Replace,
        answer: impl FnOnce(Option<Pushed>) + Send + 'static,
    ) {
        let requests = Arc::clone(&self.requests);
        let offering = Arc::clone(&self.offering);
        let read_only = self.read_only;
        let work = async move {
            if read_only {
                return None;
            }
            // Never closed.
            let _permit = offering.acquire_owned().await;
            match requests.push(&store, &action, replace).await {
                Ok(pushed) => Some(pushed),
                Err(error) => {
                    requests.say(&error);
                    None
                }
            }
        };
        self.spawn(work, |worked| answer(worked.flatten()));
    }

    /// Offers a result and waits.
    ///
    /// # Errors
    /// When the remote fails, or may not be written.
    pub fn push(
        &self,
        store: &Store,
        action: &ActionDigest,
        replace: Replace,
    ) -> Result<Pushed, RemoteError> {
        self.check_writable()?;
        self.wait(self.requests.push(store, action, replace))
    }

    /// Offers many results and waits; `each` is told what became of each, in the order in which they end.
    pub fn push_all(
        &self,
        store: &Store,
        actions: &[ActionDigest],
        replace: Replace,
        each: &mut dyn FnMut(ActionDigest, Result<Pushed, RemoteError>),
    ) {
        if self.read_only {
            actions.iter().for_each(|action| each(*action, Err(RemoteError::ReadOnly)));
            return;
        }
        let at_once = self.requests.limits.parallel.div_ceil(4);
        let pushed = stream::iter(actions).map(|action| async move {
            (*action, self.requests.push(store, action, replace).await)
        });
        self.wait(async {
            let mut pushed = std::pin::pin!(pushed.buffer_unordered(at_once));
            while let Some((action, became)) = pushed.next().await {
                each(action, became);
            }
        });
    }

    /// The results of these actions that the remote has, asked for in parallel, without their objects. What is damaged
    /// counts as not there; so does everything once the remote is set aside.
    pub fn results(&self, actions: &[ActionDigest]) -> BTreeMap<ActionDigest, ResultFile> {
        let asked = stream::iter(actions).map(|action| async move {
            match self.requests.result(action).await {
                Ok(found) => found.map(|found| (*action, found)),
                Err(error) => {
                    self.requests.say(&error);
                    None
                }
            }
        });
        let found = asked.buffer_unordered(self.requests.limits.parallel);
        self.wait(found.filter_map(async |found| found).collect())
    }

    /// Brings the results of these actions that the remote has into the store, several at once, and waits. What is damaged
    /// counts as not there, and is said by a notice; so does what fails.
    ///
    /// # Errors
    /// When the store cannot take it.
    pub fn pull_all(
        &self,
        store: &Store,
        actions: &[ActionDigest],
    ) -> Result<BTreeMap<ActionDigest, Moved>, RemoteError> {
        let pulled = stream::iter(actions).map(|action| async move {
            match self.pull_one(store, action).await {
                Ok(moved) => Ok(moved.map(|moved| (*action, moved))),
                Err(RemoteError::Store(error)) => Err(RemoteError::Store(error)),
                Err(error) => {
                    self.requests.say(&error);
                    Ok(None)
                }
            }
        });
        let pulled = pulled.buffer_unordered(self.requests.limits.parallel.div_ceil(4));
        self.wait(pulled.try_filter_map(async |moved| Ok(moved)).try_collect())
    }

    /// Brings a result with its objects into the store and waits. `None`: the remote has none.
    ///
    /// # Errors
    /// When the remote fails, what it has is damaged, or the store cannot take it.
    pub fn pull(&self, store: &Store, action: &ActionDigest) -> Result<Option<Moved>, RemoteError> {
        self.wait(self.pull_one(store, action))
    }

    async fn pull_one(
        &self,
        store: &Store,
        action: &ActionDigest,
    ) -> Result<Option<Moved>, RemoteError> {
        let Some(result) = self.requests.result(action).await? else { return Ok(None) };
        let moved = self.requests.fetch_objects(store, &result).await?;
        store.commit(result.into_commit(None))?;
        Ok(Some(moved))
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(crate) fn check_writable(&self) -> Result<(), RemoteError> {
        if self.read_only { Err(RemoteError::ReadOnly) } else { Ok(()) }
    }

    /// Waits for an answer. Not to be called where waiting is not allowed, as in the loop of a run.
    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime =
            self.runtime.as_ref().expect("the runtime is taken when the handle is dropped");
        runtime.block_on(work)
    }

    /// Works in the background; `answer` gets `None` if the work panicked or was ended.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
        answer: impl FnOnce(Option<T>) + Send + 'static,
    ) {
        let runtime =
            self.runtime.as_ref().expect("the runtime is taken when the handle is dropped");
        let worked = runtime.spawn(work);
        runtime.spawn(async move { answer(worked.await.ok()) });
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.requests.stop();
        if let Some(runtime) = self.runtime.take() {
            // A folder on a server that is gone may hold a thread for ever: it is not waited for.
            runtime.shutdown_background();
        }
    }
}

impl Requests {
    /// Says what is worth saying of an error, once.
    pub(crate) fn say(&self, error: &RemoteError) {
        match error {
            RemoteError::Damaged { .. } | RemoteError::BadResult { .. } => self.count_damage(error),
            error if error.is_silent() => {}
            error if error.is_failure() => self.say_failure(error),
            error => self.notice(format!("the remote {}: {error}", self.shown)),
        }
    }
}

async fn obtain(
    requests: &Requests,
    store: &Store,
    action: &ActionDigest,
    kinds: &[ArtifactKind],
    tell: impl FnOnce(u64),
) -> Result<Obtained, RemoteError> {
    let Some(result) = requests.result(action).await? else { return Ok(Obtained::Nothing) };
    let found: Vec<_> = result.outputs.iter().map(|output| output.kind).collect();
    if found != kinds {
        requests.unusable.add_result(*action);
        return Err(RemoteError::Damaged {
            key: crate::keys::Key::Action(*action).to_string(),
            message: "its outputs are not those that the action has".to_owned(),
        });
    }
    let Some(lease) = store.try_lease(action)? else { return Ok(Obtained::Leased) };
    tell(result.outputs.iter().map(|output| output.size).sum());
    let moved = requests.fetch_objects(store, &result).await?;
    store.commit(result.into_commit(Some(lease)))?;
    Ok(Obtained::Fetched(moved))
}
