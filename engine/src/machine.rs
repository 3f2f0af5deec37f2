//! What the machine has to run instances with.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::graph::Resources;

/// Slots, memory and GPUs that running instances share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// How many instances of one processor slot may run at once (`-j`).
    pub slots: u32,
    /// Memory to hand out, bytes.
    pub memory: u64,
    /// GPU ids, as `CUDA_VISIBLE_DEVICES` spells them.
    pub gpus: Vec<String>,
    /// How many jobs may be in a cluster's queue at once.
    pub cluster_jobs: u32,
}

/// Enough that a cluster is never idle for want of jobs, and few enough that none minds.
const CLUSTER_JOBS: u32 = 1000;

impl Machine {
    /// The machine that this process runs on: its processors, its memory, and its GPUs.
    /// `visible_gpus` is the value of `CUDA_VISIBLE_DEVICES`, if set: GPUs are handed out within
    /// that set and never beyond it.
    pub fn detect(jobs: Option<u32>, visible_gpus: Option<&str>) -> Machine {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Machine {
            slots: jobs.unwrap_or(processors).max(1),
            memory: total_memory(),
            gpus: match visible_gpus {
                Some(visible) => parse_visible(visible),
                None => nvidia_devices(),
            },
            cluster_jobs: CLUSTER_JOBS,
        }
    }

    /// What `resources` take of this machine. An instance that asks for more processors or memory
    /// than there are gets all of them: it runs, alone. One that asks for more GPUs than there are
    /// is refused before it is granted anything.
    pub fn clamp(&self, resources: Resources) -> Resources {
        Resources {
            cpu_milli: resources.cpu_milli.min(self.slots.saturating_mul(1000)),
            memory: resources.memory.min(self.memory),
            gpu: resources.gpu.min(self.gpus.len() as u32),
        }
    }
}

/// The place of a GPU among those that CUDA shows this process, by its id.
pub fn ordinal_of_gpu(id: &str) -> usize {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let visible = visible.map_or_else(nvidia_devices, |visible| parse_visible(&visible));
    visible.iter().position(|other| other == id).unwrap_or(0)
}

/// The memory that a program can have of the smallest GPU, bytes, as the driver's own program says it; `None` if
/// that is not there.
pub fn gpu_memory() -> Option<u64> {
    // Every node of a plan wants to know, and each answer takes the program a while.
    static FOUND: OnceLock<Option<u64>> = OnceLock::new();
    *FOUND.get_or_init(ask_for_gpu_memory)
}

fn ask_for_gpu_memory() -> Option<u64> {
    let question = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"];
    let mut program = Command::new("nvidia-smi");
    program.args(question).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut asked = program.spawn().ok()?;
    let begun = Instant::now();
    while asked.try_wait().ok()?.is_none() {
        if begun.elapsed() > PATIENCE {
            // Where a driver hangs, so does this program, and an estimate is not worth waiting for.
            let _ = asked.kill().and_then(|()| asked.wait());
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut answer = String::new();
    asked.stdout.take()?.read_to_string(&mut answer).ok()?;
    let mebibytes = answer.lines().filter_map(|line| line.trim().parse::<u64>().ok());
    // The driver, its libraries and their kernels take some of it.
    mebibytes.min().map(|mebibytes| (mebibytes << 20).saturating_sub(2 << 30))
}

/// How long the driver's program may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// CUDA's rule: ids up to the first that is empty or `-1` count.
fn parse_visible(visible: &str) -> Vec<String> {
    visible
        .split(',')
        .map(str::trim)
        .take_while(|id| !id.is_empty() && *id != "-1")
        .map(str::to_owned)
        .collect()
}

fn nvidia_devices() -> Vec<String> {
    let mut devices: Vec<u32> = std::fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("nvidia")?.parse().ok())
        .collect();
    devices.sort_unstable();
    devices.iter().map(u32::to_string).collect()
}

/// Bytes that this user may still write where a folder is; `None` if the file system does not say.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The memory that this process may take, bytes: the machine's, or less where a control group says so.
pub fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let total = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit =
        limits.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    total.min(limit.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_taken_from_the_visible_set_by_cudas_rule() {
        assert_eq!(parse_visible("2,5"), ["2", "5"]);
        assert_eq!(parse_visible("GPU-8a3f, 1"), ["GPU-8a3f", "1"]);
        assert_eq!(parse_visible("0,-1,1"), ["0"]);
        assert!(parse_visible("").is_empty());
        assert!(parse_visible("-1").is_empty());
    }

    #[test]
    fn an_instance_larger_than_the_machine_gets_the_whole_machine() {
        let machine = Machine { slots: 2, memory: 100, gpus: vec![], cluster_jobs: 0 };
        let resources = Resources { cpu_milli: 64_000, memory: 1_000, gpu: 0 };
        assert_eq!(machine.clamp(resources), Resources { cpu_milli: 2_000, memory: 100, gpu: 0 });
    }
}
