//! Slurm's programs: what they are told, what they answer. Each call is bounded in time, for they wait for minutes where the
//! controller is down.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Why a program of Slurm gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClientError {
    /// It is not there.
    #[error("`{program}` cannot be started: {message}")]
    Unavailable { program: &'static str, message: String },
    /// It did not answer in time. What it was told to do may be done all the same.
    #[error("`{program}` did not answer within {} s", patience.as_secs())]
    TimedOut { program: &'static str, patience: Duration },
    /// Something ended it. What it was told to do may be done all the same.
    #[error("`{program}` was ended by signal {signal}")]
    Ended { program: &'static str, signal: i32 },
    /// It refused.
    #[error("`{program}` failed: {said}")]
    Refused { program: &'static str, said: String },
}

/// What Slurm knows of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobState {
    /// `17`, or `17_3` for one of an array.
    pub(super) id: String,
    /// `RUNNING`.
    pub(super) state: String,
    /// `Resources`; `None` if there is none.
    pub(super) reason: Option<String>,
    /// The batch that it is in, for jobs of okapi.
    pub(super) batch: String,
}

/// What is asked of a cluster.
pub(super) trait Cluster: Send + 'static {
    /// Submits a script with these options; gives the id.
    fn submit(
        &mut self,
        options: &[String],
        script: &str,
        env: &[(String, String)],
    ) -> Result<String, ClientError>;
    /// All jobs of this user that the controller knows.
    fn states(&mut self) -> Result<Vec<JobState>, ClientError>;
    /// What was written down of jobs that the controller knows no more, where somebody writes it down.
    fn account(&mut self, ids: &[String]) -> Result<Vec<JobState>, ClientError>;
    /// Ends jobs; those alone that wait, if `waiting` says so.
    fn cancel(&mut self, ids: &[String], waiting: bool) -> Result<(), ClientError>;
}

/// How long the controller may take for a question, and for a submission.
const TO_ANSWER: Duration = Duration::from_secs(30);
const TO_SUBMIT: Duration = Duration::from_secs(60);

/// With these words `sbatch` begins to wait by itself where the queue is full: for minutes, in which nothing is submitted.
const WAITS_BY_ITSELF: &str = "sleeping and retrying";

/// How many jobs are named in one call: a command line has an end.
const IDS_AT_ONCE: usize = 500;

/// Slurm, by its programs on the PATH.
pub(super) struct Programs;

impl Cluster for Programs {
    fn submit(
        &mut self,
        options: &[String],
        script: &str,
        env: &[(String, String)],
    ) -> Result<String, ClientError> {
        let mut command = Command::new("sbatch");
        command.arg("--parsable").args(options).envs(env.iter().map(|(name, value)| (name, value)));
        let said = ask("sbatch", command, script, TO_SUBMIT)?;
        // Of several clusters the name follows.
        let id = said.trim().split(';').next().unwrap_or_default().to_owned();
        match !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Ok(id),
            false => Err(ClientError::Refused { program: "sbatch", said: gist(&said) }),
        }
    }

    fn states(&mut self) -> Result<Vec<JobState>, ClientError> {
        let mut command = Command::new("squeue");
        command.args(["--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%k"]);
        let said = ask("squeue", command, "", TO_ANSWER)?;
        Ok(said.lines().filter_map(parse_state).collect())
    }

    fn account(&mut self, ids: &[String]) -> Result<Vec<JobState>, ClientError> {
        let mut states = Vec::new();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let mut command = Command::new("sacct");
            command.args(["--allocations", "--noheader", "--parsable2"]);
            command.args(["--format=JobID,State,Reason,Comment", "--jobs", &ids.join(",")]);
            let said = ask("sacct", command, "", TO_ANSWER)?;
            states.extend(said.lines().filter_map(parse_state));
        }
        Ok(states)
    }

    fn cancel(&mut self, ids: &[String], waiting: bool) -> Result<(), ClientError> {
        for ids in ids.chunks(IDS_AT_ONCE) {
            let mut command = Command::new("scancel");
            command.args(waiting.then_some("--state=PENDING")).args(ids);
            match ask("scancel", command, "", TO_ANSWER) {
                // One that has ended meanwhile is what was wanted.
                Err(ClientError::Refused { said, .. }) if said.contains("Invalid job id") => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

/// A line of `squeue` or `sacct`.
fn parse_state(line: &str) -> Option<JobState> {
    let mut parts = line.splitn(4, '|').map(str::trim);
    let (id, state) = (parts.next()?, parts.next()?);
    let reason = parts.next().filter(|it| !it.is_empty() && *it != "None");
    // `CANCELLED by 1000`, and `CANCELLED+` where a column is narrow.
    let state = state.split([' ', '+']).next().unwrap_or_default();
    (!id.is_empty() && !state.is_empty()).then(|| JobState {
        id: id.to_owned(),
        state: state.to_owned(),
        reason: reason.map(str::to_owned),
        batch: parts.next().unwrap_or_default().to_owned(),
    })
}

/// Runs a program to its end, or ends it.
fn ask(
    program: &'static str,
    mut command: Command,
    input: &str,
    patience: Duration,
) -> Result<String, ClientError> {
    let unavailable =
        |error: std::io::Error| ClientError::Unavailable { program, message: error.to_string() };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // An interrupt from the terminal is for this process, which knows what to do about it.
    command.process_group(0);
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
        if is_misleading(&name) {
            command.env_remove(name);
        }
    }
    let mut child = command.spawn().map_err(unavailable)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    let stdout = thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = stdout {
            // What was read before the program was ended is as good as what comes after.
            let _ = pipe.take(MOST_SAID).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let waits = Arc::new(AtomicBool::new(false));
    let waits_too = Arc::clone(&waits);
    let stderr = thread::spawn(move || {
        let mut said = String::new();
        for line in
            stderr.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok)
        {
            if line.contains(WAITS_BY_ITSELF) {
                waits_too.store(true, Ordering::Relaxed);
            }
            if said.len() < MOST_COMPLAINED {
                said.push_str(&line);
                said.push('\n');
            }
        }
        said
    });
    let status = wait(&mut child, patience, &waits).map_err(unavailable)?;
    let Some(status) = status else {
        // Its threads end with its pipes.
        return Err(match waits.load(Ordering::Relaxed) {
            true => ClientError::Refused { program, said: "the queue is full".to_owned() },
            false => ClientError::TimedOut { program, patience },
        });
    };
    // A program may refuse before it has read all.
    let _ = writer.join();
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    match (status.success(), status.signal()) {
        (true, _) => Ok(stdout),
        (false, Some(signal)) => Err(ClientError::Ended { program, signal }),
        (false, None) => Err(ClientError::Refused { program, said: gist(&stderr) }),
    }
}

/// Whether a variable stands for options that would hide jobs from us, or make other ones than we know of.
fn is_misleading(name: &str) -> bool {
    let of_program = ["SQUEUE_", "SACCT_", "SCANCEL_"].iter().any(|it| name.starts_with(it));
    of_program || ["SBATCH_WAIT", "SBATCH_ARRAY_INX", "SBATCH_TEST_ONLY"].contains(&name)
}

/// More than a hundred thousand jobs take.
const MOST_SAID: u64 = 64 << 20;
/// More than anybody reads.
const MOST_COMPLAINED: usize = 64 << 10;

/// Waits for the end of a program; one that takes too long, or waits by itself, is ended.
fn wait(
    child: &mut Child,
    patience: Duration,
    waits: &AtomicBool,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > patience || waits.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What a program complained of, without its own name before it: the lines that it calls errors, and all where it does so with none.
/// Clusters have their programs say other things, too.
fn gist(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let plain = |line: &str| line.strip_prefix("sbatch: ").unwrap_or(line).to_owned();
    let errors: Vec<String> = lines()
        .map(plain)
        .filter_map(|line| line.strip_prefix("error: ").map(str::to_owned))
        .collect();
    let said = if errors.is_empty() { lines().map(plain).collect() } else { errors };
    match said.is_empty() {
        true => "no reason given".to_owned(),
        false => said.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_from_lines() {
        let state = parse_state("17_3|PENDING|Resources|okapi-20260101").unwrap();
        assert_eq!((state.id.as_str(), state.state.as_str()), ("17_3", "PENDING"));
        assert_eq!(state.reason.as_deref(), Some("Resources"));
        assert_eq!(state.batch, "okapi-20260101");
        assert_eq!(parse_state("17|CANCELLED by 1000|None|").unwrap().state, "CANCELLED");
        assert_eq!(parse_state("17|CANCELLED by 1000|None|").unwrap().reason, None);
        assert_eq!(parse_state(""), None);
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_one_that_fails_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo asked; sleep 60"]);
        let patience = Duration::from_millis(50);
        let error = ask("sh", command, "", patience).unwrap_err();
        assert_eq!(error, ClientError::TimedOut { program: "sh", patience });
        let mut command = Command::new("sh");
        command
            .args(["-c", "cat > /dev/null; echo 'sbatch: error: invalid partition' >&2; exit 1"]);
        let error = ask("sh", command, "script", TO_ANSWER).unwrap_err();
        let said = "invalid partition".to_owned();
        assert_eq!(error, ClientError::Refused { program: "sh", said });
        let mut command = Command::new("sh");
        let banner = "echo 'sbatch: Your account has 1200 hours left' >&2";
        let error = "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2";
        command.args(["-c", &format!("{banner}; {error}; exit 1")]);
        let said = "Batch job submission failed: Socket timed out".to_owned();
        let error = ask("sh", command, "", TO_ANSWER).unwrap_err();
        assert_eq!(error, ClientError::Refused { program: "sh", said });
        let mut command = Command::new("sh");
        command.args(["-c", "kill -INT $$"]);
        let error = ask("sh", command, "", TO_ANSWER).unwrap_err();
        assert_eq!(error, ClientError::Ended { program: "sh", signal: 2 });
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2; sleep 60"]);
        let said = "the queue is full".to_owned();
        let error = ask("sh", command, "", TO_ANSWER).unwrap_err();
        assert_eq!(error, ClientError::Refused { program: "sh", said });
        let error = ask("none", Command::new("no-such-program"), "", TO_ANSWER).unwrap_err();
        assert!(matches!(error, ClientError::Unavailable { .. }));
    }
}
