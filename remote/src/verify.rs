//! Looks at what a remote has: are the bytes what their names say, are the outputs of results there?

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use okapi_cache::{ActionDigest, Digest, Store};

use crate::error::RemoteError;
use crate::keys::{Key, Kind};
use crate::push::{Pushed, Replace};
use crate::remote::Remote;
use crate::requests::{Listed, Requests};
use crate::runs::RunRoot;

/// What a look at a remote found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteReport {
    /// Objects that are what their names say.
    pub good_objects: u64,
    /// Their bytes.
    pub good_bytes: u64,
    /// Results that can be used, as far as their objects are there.
    pub good_results: u64,
    /// Runs that can be read.
    pub good_runs: u64,
    /// Packs of records that are what their names say.
    pub good_packs: u64,
    /// Things that were not looked at, as a sample was asked for.
    pub not_looked_at: u64,
    /// What is wrong, sorted by name.
    pub wrong: Vec<Wrong>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where.
    pub key: Key,
    /// What.
    pub message: String,
    /// What was done about it, if that was asked for.
    pub repaired: Option<Repaired>,
}

/// What was done about something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The store had it: it is there again.
    Sent,
    /// The store did not have it: it is a miss from now on.
    Deleted,
}

/// What this store would write of a run that it ended, by the run's name on the remote; `None`: it knows no such run.
pub type Roots<'a> = dyn Fn(&str) -> Option<RunRoot> + 'a;

impl Remote {
    /// Looks at everything, or at a sample of so many objects and results. To repair is to send what `store` and `roots`
    /// have, and to delete the rest. `progress` is told how many bytes were hashed since it was told last.
    ///
    /// # Errors
    /// When the remote fails; a thing that is wrong is no error.
    pub fn verify(
        &self,
        store: &Store,
        sample: Option<usize>,
        repair: Option<&Roots<'_>>,
        progress: &dyn Fn(u64),
    ) -> Result<RemoteReport, RemoteError> {
        if repair.is_some() {
            self.check_writable()?;
        }
        self.wait(async {
            let requests = self.requests();
            let mut objects = requests.list(Kind::Object).await?;
            let results = requests.list(Kind::Action).await?;
            let mut sizes: BTreeMap<Digest, u64> = objects.iter().filter_map(object).collect();
            objects.extend(requests.list(Kind::Record).await?);
            let all = objects.len() + results.len();
            let objects = pick(objects, sample);
            let mut looked_at = objects.len();
            let mut report = RemoteReport::default();
            requests.look_at_objects(objects, &mut report, progress).await?;
            if let Some(roots) = repair {
                requests.repair_all(store, &mut report.wrong, roots).await?;
            }
            let deleted =
                report.wrong.iter().filter_map(|wrong| match (&wrong.key, wrong.repaired) {
                    (Key::Object(digest), Some(Repaired::Deleted)) => Some(sizes.remove(digest)),
                    _ => None,
                });
            // Any result may name what was deleted just now.
            let sample = if deleted.count() > 0 { None } else { sample };
            let results = pick(results, sample);
            looked_at += results.len();
            report.not_looked_at = (all - looked_at) as u64;
            let before = report.wrong.len();
            requests.look_at_results(store, results, &sizes, &mut report).await?;
            requests.look_at_runs(&mut report).await?;
            if let Some(roots) = repair {
                requests.repair_all(store, &mut report.wrong[before..], roots).await?;
            }
            report.wrong.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(report)
        })
    }
}

impl Requests {
    async fn look_at_objects(
        &self,
        objects: Vec<Listed>,
        report: &mut RemoteReport,
        progress: &dyn Fn(u64),
    ) -> Result<(), RemoteError> {
        let looked = stream::iter(objects).map(|Listed { key, size, .. }| async move {
            let found = self.hash(&key, size).await?;
            Ok::<_, RemoteError>((key, size, found))
        });
        let mut looked = std::pin::pin!(looked.buffer_unordered(self.limits.parallel));
        while let Some((key, size, found)) = looked.try_next().await? {
            progress(size);
            // Collected meanwhile.
            let Some(found) = found else { continue };
            match &key {
                Key::Object(digest) if found == *digest => {
                    report.good_objects += 1;
                    report.good_bytes += size;
                }
                Key::Record(digest) if found == *digest => report.good_packs += 1,
                _ => {
                    let message = format!("its {size} bytes hash to {}", found.short());
                    report.wrong.push(Wrong { key, message, repaired: None });
                }
            }
        }
        Ok(())
    }

    async fn look_at_results(
        &self,
        store: &Store,
        results: Vec<Listed>,
        sizes: &BTreeMap<Digest, u64>,
        report: &mut RemoteReport,
    ) -> Result<(), RemoteError> {
        let actions = results.into_iter().filter_map(|listed| match listed.key {
            Key::Action(action) => Some(action),
            _ => None,
        });
        let looked = stream::iter(actions).map(|action| async move {
            Ok::<_, RemoteError>((action, self.look_at(store, &action, sizes).await?))
        });
        let mut looked = std::pin::pin!(looked.buffer_unordered(self.limits.parallel));
        while let Some((action, message)) = looked.try_next().await? {
            match message {
                None => report.good_results += 1,
                Some(message) => {
                    let key = Key::Action(action);
                    report.wrong.push(Wrong { key, message, repaired: None });
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a result.
    async fn look_at(
        &self,
        store: &Store,
        action: &ActionDigest,
        sizes: &BTreeMap<Digest, u64>,
    ) -> Result<Option<String>, RemoteError> {
        let result = match self.result(action).await {
            Ok(Some(result)) => result,
            // Collected meanwhile.
            Ok(None) => return Ok(None),
            Err(RemoteError::Damaged { message, .. }) => return Ok(Some(message)),
            Err(RemoteError::BadResult { source, .. }) => return Ok(Some(source.to_string())),
            Err(error) => return Err(error),
        };
        let lacking = self.lacking(store, &result, sizes).await?;
        Ok(lacking.map(|it| format!("the object {} that it names is not there", it.short())))
    }

    /// Collection ends where a run cannot be read, so all are looked at, few as they are.
    async fn look_at_runs(&self, report: &mut RemoteReport) -> Result<(), RemoteError> {
        for listed in self.list(Kind::Run).await? {
            let Key::Run(name) = &listed.key else { continue };
            match self.run(name).await {
                Ok(found) => report.good_runs += u64::from(found.is_some()),
                Err(RemoteError::Damaged { message, .. }) => {
                    report.wrong.push(Wrong { key: listed.key, message, repaired: None });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn repair_all(
        &self,
        store: &Store,
        wrong: &mut [Wrong],
        roots: &Roots<'_>,
    ) -> Result<(), RemoteError> {
        for wrong in wrong {
            wrong.repaired = Some(self.repair(store, &wrong.key, roots).await?);
        }
        Ok(())
    }

    async fn repair(
        &self,
        store: &Store,
        key: &Key,
        roots: &Roots<'_>,
    ) -> Result<Repaired, RemoteError> {
        let sent = match key {
            Key::Object(digest) => match store.object_size(digest) {
                Some(size) => self.send_object(store, *digest, size, true).await.map(|()| true),
                None => Ok(false),
            },
            Key::Action(action) => {
                self.push(store, action, Replace::Any).await.map(|it| it != Pushed::NotHere)
            }
            Key::Run(name) => match roots(name) {
                Some(root) => self.put_run(name, &root).await.map(|()| true),
                None => Ok(false),
            },
            // Whoever sent such a pack sends its records again when it is not there.
            Key::Record(_) | Key::Job(_) => Ok(false),
        };
        match sent {
            Ok(true) => Ok(Repaired::Sent),
            // What this store has is damaged, too, and was set aside.
            Ok(false) | Err(RemoteError::Store(_)) => {
                self.delete(key).await?;
                Ok(Repaired::Deleted)
            }
            Err(error) => Err(error),
        }
    }
}

fn object(listed: &Listed) -> Option<(Digest, u64)> {
    match listed.key {
        Key::Object(digest) => Some((digest, listed.size)),
        _ => None,
    }
}

/// So many of these, evenly spread: names are digests, so that is as good as chance.
fn pick(listed: Vec<Listed>, sample: Option<usize>) -> Vec<Listed> {
    let count = listed.len();
    match sample {
        Some(sample) if sample < count => {
            let mut all: Vec<_> = listed.into_iter().map(Some).collect();
            (0..sample).filter_map(|place| all[place * count / sample].take()).collect()
        }
        _ => listed,
    }
}
