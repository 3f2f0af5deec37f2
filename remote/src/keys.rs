//! The names of what a remote holds.
//!
//! ```text
//! okapi/v1/object/ab/cdef...   an object: bytes by their BLAKE3
//! okapi/v1/action/ab/cdef...   the result of an action, as a document (okapi_cache::ResultFile)
//! okapi/v1/record/ab/cdef...   answers of teachers, many in one, by the BLAKE3 of the whole
//! okapi/v1/run/NAME.json       the results that a run ended with: what collection keeps
//! okapi/v1/job/PLACE/PART/...  what jobs of a cluster and who submitted them tell each other, by action
//! ```

use okapi_cache::{ActionDigest, Digest};

/// What all names begin with, below the prefix of the remote's URL.
pub(crate) const ROOT: &str = "okapi/v1";

/// The name of one thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An object.
    Object(Digest),
    /// A result.
    Action(ActionDigest),
    /// Answers of teachers.
    Record(Digest),
    /// A run.
    Run(String),
    /// A part of what there is of a job.
    Job(JobKey),
}

/// What names a part of a job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobKey {
    /// The store that it was submitted from: letters, digits, `-`, `_` and `.`.
    pub place: String,
    /// Which part.
    pub part: JobPart,
    /// What the job does.
    pub action: ActionDigest,
}

/// The parts of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobPart {
    /// What is to be done.
    Work,
    /// What the job says while it works.
    Said,
    /// What came of it.
    Ended,
}

impl JobPart {
    /// All there are.
    pub const ALL: [JobPart; 3] = [JobPart::Work, JobPart::Said, JobPart::Ended];

    fn folder(self) -> &'static str {
        match self {
            JobPart::Work => "work",
            JobPart::Said => "said",
            JobPart::Ended => "ended",
        }
    }
}

/// The kinds of things, for listing one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Objects.
    Object,
    /// Results.
    Action,
    /// Answers of teachers.
    Record,
    /// Runs.
    Run,
    /// Parts of jobs.
    Job,
}

impl Kind {
    /// The folder of such things.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Action => "action",
            Kind::Record => "record",
            Kind::Run => "run",
            Kind::Job => "job",
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, digest) = match self {
            Key::Object(digest) => (Kind::Object, digest),
            Key::Action(action) => (Kind::Action, &action.0),
            Key::Record(digest) => (Kind::Record, digest),
            Key::Run(name) => return write!(f, "{ROOT}/{}/{name}.json", Kind::Run.folder()),
            Key::Job(JobKey { place, part, action }) => {
                return write!(f, "{}/{action}", job_folder(place, *part));
            }
        };
        let hex = digest.to_string();
        write!(f, "{ROOT}/{}/{}/{}", kind.folder(), &hex[..2], &hex[2..])
    }
}

impl Key {
    /// Reads a name; `None` if it is none of ours.
    pub(crate) fn parse(name: &str) -> Option<Key> {
        let (kind, rest) = name.strip_prefix(ROOT)?.strip_prefix('/')?.split_once('/')?;
        if kind == Kind::Run.folder() {
            let name = rest.strip_suffix(".json")?;
            return is_run_name(name).then(|| Key::Run(name.to_owned()));
        }
        if kind == Kind::Job.folder() {
            let (place, rest) = rest.split_once('/')?;
            let (folder, action) = rest.split_once('/')?;
            let part = JobPart::ALL.into_iter().find(|part| part.folder() == folder)?;
            let action = action.parse().ok()?;
            let place = is_run_name(place).then(|| place.to_owned())?;
            return Some(Key::Job(JobKey { place, part, action }));
        }
        let (shard, rest) = rest.split_once('/')?;
        let digest: Digest =
            (shard.len() == 2).then(|| format!("{shard}{rest}").parse().ok())??;
        match kind {
            "object" => Some(Key::Object(digest)),
            "action" => Some(Key::Action(ActionDigest(digest))),
            "record" => Some(Key::Record(digest)),
            _ => None,
        }
    }
}

/// The folder of one part of all jobs of a store.
pub(crate) fn job_folder(place: &str, part: JobPart) -> String {
    format!("{ROOT}/{}/{place}/{}", Kind::Job.folder(), part.folder())
}

/// Whether a run may have this name: it becomes a part of a path.
pub(crate) fn is_run_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=120).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_back() {
        let digest = Digest::of(b"x");
        let keys = [
            Key::Object(digest),
            Key::Action(ActionDigest(digest)),
            Key::Record(digest),
            Key::Run("20260102-030405.678-0000-a_b".to_owned()),
            Key::Job(JobKey {
                place: "a1".to_owned(),
                part: JobPart::Said,
                action: ActionDigest(digest),
            }),
        ];
        for key in keys {
            assert_eq!(Key::parse(&key.to_string()), Some(key));
        }
    }

    #[test]
    fn other_names_are_none_of_ours() {
        let hex = Digest::of(b"x").to_string();
        for name in [
            "",
            "okapi/v1",
            "okapi/v1/object",
            "okapi/v1/run/../../x.json",
            "okapi/v1/run/.json",
            "okapi/v1/run/..json",
            "okapi/v1/run/..a.json",
            "okapi/v1/run/a/b.json",
            &format!("okapi/v1/object/{hex}"),
            &format!("okapi/v1/object/{}/{}.tmp", &hex[..2], &hex[2..]),
            &format!("okapi/v1/other/{}/{}", &hex[..2], &hex[2..]),
            &format!("okapi/v2/object/{}/{}", &hex[..2], &hex[2..]),
            &format!("okapi/v1/object/{}/{}", &hex[..3], &hex[3..]),
            &format!("okapi/v1/job/a/{hex}"),
            &format!("okapi/v1/job/../said/{hex}"),
            &format!("okapi/v1/job/a/other/{hex}"),
            &format!("okapi/v1/job/a/said/{hex}.tmp"),
        ] {
            assert_eq!(Key::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_would_be_written(name in "(okapi/v1/(object|run|job/a/said|x)/)?[0-9a-f/.é]{0,70}(\\.json)?") {
            if let Some(key) = Key::parse(&name) {
                prop_assert_eq!(key.to_string(), name);
            }
        }
    }
}
