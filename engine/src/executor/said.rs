//! What a job says that does not see the store of its run: its reports, and the end of what its work has written, in one file on the
//! remote. At both ends they lie where those of any job would, so that whoever shows them need not know how they came.
//!
//! ```text
//! {"okapi_said":1,"try_name":"...","reports":120,"stdout":5,"stderr":80}     how many bytes of each follow
//! ...
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use okapi_cache::{ActionDigest, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::job_folder::{JOB, JobFile, JobFolders, REPORTS, read_whole};
use crate::stage_context::WorkFolder;

/// The version of the file.
const VERSION: u32 = 1;

/// How much is sent of stdout, and of stderr, while the work goes on, bytes.
pub(crate) const AT_WORK: u64 = 64 << 10;
/// The same when it has ended without a result; with one, all of it is kept as a log of any other.
pub(crate) const AT_THE_END: u64 = 8 << 20;

/// What a job has said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Of which try of the same.
    pub(crate) try_name: String,
    reports: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    okapi_said: u32,
    try_name: String,
    reports: usize,
    stdout: usize,
    stderr: usize,
}

impl Said {
    /// As the store has it in which the job works, with so many bytes of each stream at most.
    pub(crate) fn read(store: &Store, action: &ActionDigest, most: u64) -> Said {
        let work = WorkFolder::at(store.work_folder(action));
        let folder = JobFolders::of(store).job(action);
        let reports = fs::read(folder.join(REPORTS));
        let file: Option<JobFile> = read_whole(&folder.join(JOB));
        // What is not there has not been said.
        Said {
            try_name: file.map(|file| file.try_name).unwrap_or_default(),
            reports: reports.unwrap_or_default(),
            stdout: end_of(&work.stdout, most).unwrap_or_default(),
            stderr: end_of(&work.stderr, most).unwrap_or_default(),
        }
    }

    /// Leaves it in the store of the run.
    pub(crate) fn leave(&self, store: &Store, action: &ActionDigest) -> Result<(), StoreError> {
        store.write_file(&JobFolders::of(store).job(action).join(REPORTS), &self.reports)?;
        let work = WorkFolder::at(store.work_folder(action));
        if self.stdout.is_empty() && self.stderr.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&work.root).map_err(|error| StoreError::io(&work.root, error))?;
        store.write_file(&work.stdout, &self.stdout)?;
        store.write_file(&work.stderr, &self.stderr)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Said { try_name, reports, stdout, stderr } = self;
        let head = Head {
            okapi_said: VERSION,
            try_name: try_name.clone(),
            reports: reports.len(),
            stdout: stdout.len(),
            stderr: stderr.len(),
        };
        // A text and numbers can always be written.
        let head = serde_json::to_vec(&head).unwrap_or_default();
        [&head, &b"\n"[..], reports, stdout, stderr].concat()
    }

    /// `None` if it is nothing of the kind.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Said> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
        let head: Head = serde_json::from_slice(head).ok()?;
        let (reports, rest) = rest.split_at_checked(head.reports)?;
        let (stdout, rest) = rest.split_at_checked(head.stdout)?;
        let is_whole = head.okapi_said == VERSION && rest.len() == head.stderr;
        let said = || Said {
            try_name: head.try_name.clone(),
            reports: reports.to_vec(),
            stdout: stdout.to_vec(),
            stderr: rest.to_vec(),
        };
        is_whole.then(said)
    }
}

/// How far the beginning of a line is looked for.
const NEAR: usize = 4 << 10;

/// The end of a file, from the beginning of a line on if there is one near; what is left out before it is said.
fn end_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let left_out = size.saturating_sub(most);
    file.seek(SeekFrom::Start(left_out))?;
    let mut end = Vec::new();
    // It may grow meanwhile.
    file.take(most).read_to_end(&mut end)?;
    if left_out == 0 {
        return Ok(end);
    }
    let near = &end[..end.len().min(NEAR)];
    // A line may be long: that of a progress bar, say.
    let cut = near.iter().position(|byte| *byte == b'\n').map_or_else(
        || near.iter().take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count(),
        |at| at + 1,
    );
    let cut = if cut == end.len() { 0 } else { cut };
    let left_out = left_out + cut as u64;
    let told = format!("[the first {left_out} bytes stayed on the node]\n");
    Ok([told.as_bytes(), &end[cut..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use okapi_cache::{Access, Digest, Durability};

    #[test]
    fn what_is_said_in_one_store_is_read_in_another() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            |name| Store::open(&folder.path().join(name), Access::ReadWrite, Durability::None);
        let (there, here) = (open("there").unwrap(), open("here").unwrap());
        let action = ActionDigest(Digest::of(b"work"));
        let said = Said::read(&there, &action, 100);
        assert_eq!(said, Said::default());
        let reports = JobFolders::of(&there).job(&action);
        let work = WorkFolder::at(there.work_folder(&action));
        fs::create_dir_all(&reports).unwrap();
        fs::create_dir_all(&work.root).unwrap();
        fs::write(reports.join(REPORTS), "{\"log\":\"x\"}\n").unwrap();
        fs::write(&work.stderr, b"one\n\xff\ntwo\nthree\n").unwrap();
        let said = Said::read(&there, &action, 100);
        assert_eq!(Said::decode(&said.encode()), Some(said.clone()));
        fs::create_dir_all(JobFolders::of(&here).job(&action)).unwrap();
        said.leave(&here, &action).unwrap();
        assert_eq!(Said::read(&here, &action, 100), said);
        // The end of what is long, by whole lines.
        let end = Said::read(&there, &action, 8).stderr;
        assert_eq!(end, b"[the first 10 bytes stayed on the node]\nthree\n");
        // And of what has no lines, from a character on.
        for (written, end) in [
            ("x".repeat(NEAR + 10) + "\n", "x".repeat(NEAR + 4) + "\n"),
            ("one line that ends\n".to_owned(), "that ends\n"[5..].to_owned()),
            ("é".repeat(9), "éé".to_owned()),
        ] {
            fs::write(&work.stderr, &written).unwrap();
            let said = end_of(&work.stderr, end.len() as u64).unwrap();
            let told =
                format!("[the first {} bytes stayed on the node]\n", written.len() - end.len());
            assert_eq!(String::from_utf8(said).unwrap(), told + &end);
        }
        fs::write(&work.stderr, "ééé").unwrap();
        let said = end_of(&work.stderr, 3).unwrap();
        assert_eq!(said, "[the first 4 bytes stayed on the node]\né".as_bytes());
    }

    #[test]
    fn what_is_not_whole_is_not_read() {
        let said = Said { stderr: b"words".to_vec(), ..Said::default() };
        let bytes = said.encode();
        for end in 0..bytes.len() {
            assert_eq!(Said::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Said::decode(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(Said::decode(b"{\"log\":\"of an older version\"}\n"), None);
        let head = br#"{"okapi_said":1,"try_name":"","reports":18446744073709551615,"stdout":1,"stderr":0}"#;
        assert_eq!(Said::decode(&[&head[..], b"\nx"].concat()), None);
    }
}
