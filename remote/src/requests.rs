//! Single requests to the object store: each bounded in time, counted, and never more than a few at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreSays, GetOptions, ObjectStore, ObjectStoreExt};
use okapi_cache::{Arrival, Digest, Store, StoreError};
use tokio::sync::{Semaphore, watch};

use crate::address::Opened;
use crate::breaker::Breaker;
use crate::error::{RemoteError, in_full, scrub};
use crate::keys::{Key, Kind, ROOT};
use crate::limits::Limits;
use crate::unusable::Unusable;

/// Objects from this size on are sent in parts.
pub(crate) const PARTS_FROM: u64 = 16 << 20;
/// What is sent at once where objects cannot be sent in parts: it is held in memory.
pub(crate) const LARGEST_WHOLE: u64 = 256 << 20;

/// What deleting is called.
pub(crate) const DELETE: &str = "delete";

/// What is small is seldom larger than this: the time to read it is reckoned so.
const USUAL: u64 = 1 << 20;

/// What a listing says of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, milliseconds since 1970.
    pub modified_unix_ms: u64,
}

/// How many bytes something must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Exactly(u64),
    AtMost(u64),
}

/// The object store with bounds on everything.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// As the user named it, for messages.
    pub(crate) shown: String,
    pub(crate) limits: Limits,
    pub(crate) has_parts: bool,
    without_credentials: bool,
    reads: Breaker,
    writes: Breaker,
    /// Counts what was damaged, and nothing takes it back: a remote that lies answers promptly.
    damage: Breaker,
    /// What was found to be unusable, and has not been mended since.
    pub(crate) unusable: Unusable,
    permits: Semaphore,
    /// One for each KiB of objects on their way out that may be in memory.
    memory: Semaphore,
    stopped: watch::Sender<bool>,
    notices: Mutex<Vec<String>>,
    failures: AtomicU32,
}

/// So many single failures are told to the user; more are no news.
const FAILURES_SAID: u32 = 3;

/// Which of the two breakers counts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Read,
    Write,
}

/// What a request wants, for messages and for its bound.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) side: Side,
    pub(crate) what: &'static str,
    pub(crate) key: &'a str,
    pub(crate) bytes: u64,
    /// How many bytes of an object it holds in memory while it is under way.
    pub(crate) memory: u64,
}

impl Requests {
    pub(crate) fn new(opened: Opened, shown: String, limits: Limits) -> Requests {
        Requests {
            store: opened.store,
            prefix: opened.prefix,
            shown,
            limits,
            has_parts: opened.has_parts,
            without_credentials: opened.without_credentials,
            reads: Breaker::new(limits.failures),
            writes: Breaker::new(limits.failures),
            damage: Breaker::new(limits.failures.saturating_mul(2)),
            unusable: Unusable::default(),
            permits: Semaphore::new(limits.parallel.max(1)),
            memory: Semaphore::new(kibibytes(limits.memory) as usize),
            stopped: watch::Sender::new(false),
            notices: Mutex::default(),
            failures: AtomicU32::new(0),
        }
    }

    /// Ends everything under way, for good.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn can_read(&self) -> bool {
        !self.reads.is_open() && !*self.stopped.borrow()
    }

    pub(crate) fn can_write(&self) -> bool {
        !self.writes.is_open() && !*self.stopped.borrow()
    }

    /// What is to be said to the user, each thing once.
    pub(crate) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn notice(&self, message: String) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    /// Tells of a request that failed after all its tries: what it would have brought is made here.
    pub(crate) fn say_failure(&self, error: &RemoteError) {
        if self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES_SAID {
            self.notice(format!("the remote {}: {error}{}", self.shown, what_to_do(error)));
        }
    }

    /// How many requests have failed after all their tries.
    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Counts something that arrived and was not what it should be: a remote that lies is set aside as one that is down.
    pub(crate) fn count_damage(&self, error: &RemoteError) {
        self.notice(format!("the remote {}: {error}; it is not used", self.shown));
        if self.damage.failed() && self.reads.open() {
            let (shown, hint) = (&self.shown, what_to_do(error));
            self.notice(format!(
                "the remote {shown} is set aside: too much of what it has is damaged{hint}"
            ));
        }
    }

    pub(crate) fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }

    /// Sends one request: waits for its turn, bounds its time, counts what became of it. `None`: there is no such thing.
    pub(crate) async fn send<T>(
        &self,
        wish: Wish<'_>,
        request: impl Future<Output = Result<T, StoreSays>>,
    ) -> Result<Option<T>, RemoteError> {
        let breaker = match wish.side {
            Side::Read => &self.reads,
            Side::Write => &self.writes,
        };
        if breaker.is_open() {
            return Err(RemoteError::SetAside);
        }
        let mut stopped = self.stopped.subscribe();
        let time = self.limits.time_for(wish.bytes);
        // One that needs more than there is goes alone.
        let memory = kibibytes(wish.memory).min(kibibytes(self.limits.memory));
        let bounded = async {
            // Never closed. Whoever has a permit waits for no memory, so that this ends.
            let _memory = self.memory.acquire_many(memory).await;
            let _permit = self.permits.acquire().await;
            tokio::time::timeout(time, request).await
        };
        let answered = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Err(RemoteError::Stopped),
            () = breaker.opened() => return Err(RemoteError::SetAside),
            answered = bounded => answered,
        };
        let error = match answered {
            Ok(Ok(value)) => {
                breaker.succeeded();
                return Ok(Some(value));
            }
            // Where something is written, what is not there is the bucket.
            Ok(Err(StoreSays::NotFound { .. }))
                if wish.side == Side::Read || wish.what == DELETE =>
            {
                breaker.succeeded();
                return Ok(None);
            }
            Ok(Err(error)) => {
                let forbidden = matches!(
                    error,
                    StoreSays::PermissionDenied { .. } | StoreSays::Unauthenticated { .. }
                );
                let message = scrub(&in_full(&error));
                let (what, key) = (wish.what, wish.key.to_owned());
                match self.without_credentials && is_about_credentials(&message) {
                    true => RemoteError::NoCredentials { what, key, message },
                    false => RemoteError::Request { what, key, message, forbidden },
                }
            }
            // Most likely whoever should have given credentials did not answer.
            Err(_) if self.without_credentials => RemoteError::NoCredentials {
                what: wish.what,
                key: wish.key.to_owned(),
                message: format!("no answer within {} s", time.as_secs().max(1)),
            },
            Err(_) => RemoteError::TimedOut {
                what: wish.what,
                key: wish.key.to_owned(),
                seconds: time.as_secs().max(1),
            },
        };
        let is_hopeless = self.limits.failures < u32::MAX
            && wish.side == Side::Write
            && matches!(error, RemoteError::Request { forbidden: true, .. });
        let opened = if is_hopeless { breaker.open() } else { breaker.failed() };
        if opened {
            let what = match wish.side {
                Side::Read => "is set aside",
                Side::Write => "is sent nothing more",
            };
            let hint = what_to_do(&error);
            self.notice(format!("the remote {} {what}: {error}{hint}", self.shown));
        }
        Err(error)
    }

    /// The same for what is written: it has an answer or an error.
    pub(crate) async fn send_there<T>(
        &self,
        wish: Wish<'_>,
        request: impl Future<Output = Result<T, StoreSays>>,
    ) -> Result<T, RemoteError> {
        let answered = self.send(wish, request).await?;
        answered.ok_or_else(|| RemoteError::Request {
            what: wish.what,
            key: wish.key.to_owned(),
            message: "there is no such place".to_owned(),
            forbidden: false,
        })
    }

    /// The size of something, if it is there.
    pub(crate) async fn size(&self, key: &Key) -> Result<Option<u64>, RemoteError> {
        let key = key.to_string();
        let path = self.path(&key);
        let wish = Wish { side: Side::Read, what: "look for", key: &key, bytes: 0, memory: 0 };
        Ok(self.send(wish, self.store.head(&path)).await?.map(|meta| meta.size))
    }

    /// Something small, whole; an error if it is longer than `longest`.
    pub(crate) async fn get(
        &self,
        key: &Key,
        longest: u64,
    ) -> Result<Option<Vec<u8>>, RemoteError> {
        self.get_within(key, longest, longest.min(USUAL)).await
    }

    /// The same in the time that so many bytes take.
    pub(crate) async fn get_within(
        &self,
        key: &Key,
        longest: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, RemoteError> {
        let key = key.to_string();
        let path = self.path(&key);
        let wish = Wish { side: Side::Read, what: "read", key: &key, bytes, memory: 0 };
        let request = async {
            let got = self.store.get_opts(&path, GetOptions::default()).await?;
            let size = got.meta.size;
            let mut bytes = Vec::new();
            if size <= longest {
                let mut stream = got.into_stream();
                while let Some(piece) = stream.try_next().await? {
                    bytes.extend_from_slice(&piece);
                    if bytes.len() as u64 > size {
                        break;
                    }
                }
            }
            Ok((bytes, size))
        };
        let Some((bytes, size)) = self.send(wish, request).await? else { return Ok(None) };
        if bytes.len() as u64 != size {
            let message = format!("it has {size} bytes, and {} were read", bytes.len());
            return Err(RemoteError::Damaged { key, message });
        }
        Ok(Some(bytes))
    }

    /// Brings an object into the store, if it is what its name says. Gives its size.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        digest: &Digest,
        size: Size,
    ) -> Result<Option<u64>, RemoteError> {
        let key = Key::Object(*digest).to_string();
        let path = self.path(&key);
        let (Size::Exactly(most) | Size::AtMost(most)) = size;
        let wish = Wish { side: Side::Read, what: "read", key: &key, bytes: most, memory: 0 };
        let request = async {
            let got = self.store.get_opts(&path, GetOptions::default()).await?;
            let said = got.meta.size;
            let fits = if let Size::Exactly(size) = size { said == size } else { said <= most };
            if !fits {
                return Ok(Err(Arrived::Unfit { said }));
            }
            let mut incoming = match store.receive() {
                Ok(incoming) => incoming,
                Err(error) => return Ok(Err(Arrived::Store(error))),
            };
            let mut stream = got.into_stream();
            while let Some(piece) = stream.try_next().await? {
                if let Err(error) = incoming.write(&piece) {
                    return Ok(Err(Arrived::Store(error)));
                }
                // Whatever more there may be, it is not what was asked for.
                if incoming.size() > most {
                    return Ok(Err(Arrived::Unfit { said: incoming.size() }));
                }
            }
            Ok(incoming.accept(digest).map_err(Arrived::Store))
        };
        let damaged = |message: String| {
            self.unusable.add_object(*digest);
            RemoteError::Damaged { key: key.clone(), message }
        };
        match self.send(wish, request).await? {
            None => Ok(None),
            Some(Ok(Arrival::Accepted { size })) => Ok(Some(size)),
            Some(Ok(Arrival::Refused { found, size })) => {
                Err(damaged(format!("its {size} bytes hash to {}", found.short())))
            }
            Some(Err(Arrived::Unfit { said })) => {
                let right = match size {
                    Size::Exactly(size) => format!("{size}"),
                    Size::AtMost(most) => format!("at most {most}"),
                };
                Err(damaged(format!("it has {said} bytes instead of {right}")))
            }
            Some(Err(Arrived::Store(error))) => Err(error.into()),
        }
    }

    /// Hashes something where it is, keeping nothing.
    pub(crate) async fn hash(&self, key: &Key, size: u64) -> Result<Option<Digest>, RemoteError> {
        let key = key.to_string();
        let path = self.path(&key);
        let wish = Wish { side: Side::Read, what: "read", key: &key, bytes: size, memory: 0 };
        let request = async {
            let got = self.store.get_opts(&path, GetOptions::default()).await?;
            let mut stream = got.into_stream();
            let mut hasher = Digest::hasher();
            while let Some(piece) = stream.try_next().await? {
                hasher.update(&piece);
            }
            Ok(hasher.finish())
        };
        self.send(wish, request).await
    }

    /// Everything of a kind, sorted. What is none of ours is left out.
    pub(crate) async fn list(&self, kind: Kind) -> Result<Vec<Listed>, RemoteError> {
        self.list_folder(&format!("{ROOT}/{}", kind.folder())).await
    }

    /// The same for a part of a kind.
    pub(crate) async fn list_folder(&self, folder: &str) -> Result<Vec<Listed>, RemoteError> {
        let path = self.path(folder);
        // A thousand names take a request, so the time for it grows with what has been listed.
        let mut stream = self.store.list(Some(&path)).chunks(1000);
        let mut listed = Vec::new();
        loop {
            let wish = Wish { side: Side::Read, what: "list", key: folder, bytes: 0, memory: 0 };
            let next = async {
                match stream.next().await {
                    Some(page) => page.into_iter().collect::<Result<Vec<_>, _>>().map(Some),
                    None => Ok(None),
                }
            };
            let Some(Some(page)) = self.send(wish, next).await? else { break };
            for meta in page {
                let parts = meta.location.prefix_match(&self.prefix).map(|parts| {
                    parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
                });
                if let Some(key) = parts.and_then(|name| Key::parse(&name)) {
                    let modified_unix_ms =
                        u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
                    listed.push(Listed { key, size: meta.size, modified_unix_ms });
                }
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }
}

/// What there is to do about an error, to be said after it.
fn what_to_do(error: &RemoteError) -> String {
    error.hint().map(|hint| format!("; {hint}")).unwrap_or_default()
}

/// Whether a message is about a request to a service of the machine that gives credentials.
fn is_about_credentials(message: &str) -> bool {
    ["/latest/api/token", "/latest/meta-data", "security-credentials"]
        .iter()
        .any(|part| message.contains(part))
}

/// A number of bytes in KiB, as permits are counted.
fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4)
}

/// Why an object that arrived did not enter the store.
enum Arrived {
    Unfit { said: u64 },
    Store(StoreError),
}
