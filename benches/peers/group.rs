//! What a group of processes costs, from `/proc`.

use rig::process;
use std::collections::HashMap;
use std::fs;

/// The processes of one contender at one time.
pub struct Group {
    /// Those that do its work.
    pub own: Vec<u32>,
    /// runsvdir and runsv, which all contenders have, and with systemd none.
    pub supervisors: Vec<u32>,
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn rollup(pid: u32, starts: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let lines = text.lines().filter(|line| line.starts_with(starts));
    Some(lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}

/// A process's descendants, in one pass over `/proc`: there may be thousands.
pub fn descendants(root: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in process::all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.get(&root).cloned().unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        found.extend(children.get(&found[next]).into_iter().flatten());
        next += 1;
    }
    found
}

impl Group {
    /// Sorts them.
    pub fn of(mut pids: Vec<u32>) -> Self {
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| process::alive(*pid));
        let (supervisors, own) =
            pids.into_iter().partition(|pid| matches!(name(*pid).as_str(), "runsv" | "runsvdir"));
        Group { own, supervisors }
    }

    /// Threads of all.
    pub fn threads(&self) -> usize {
        self.own.iter().map(|pid| process::threads(*pid)).sum()
    }

    /// Private memory in KiB, and the proportional share of what is shared;
    /// `None` if the kernel does not let us look.
    pub fn memory(&self) -> Option<(u64, u64)> {
        let sum = |starts| self.own.iter().map(|pid| rollup(*pid, starts)).sum::<Option<u64>>();
        Some((sum("Private_")?, sum("Pss:")?))
    }

    /// Voluntary context switches so far.
    pub fn wakeups(&self) -> u64 {
        self.own.iter().map(|pid| process::wakeups(*pid)).sum()
    }

    /// Processor time so far, in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let ticks = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<u64> = stat
                .rsplit_once(") ")
                .map_or("", |(_, rest)| rest)
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse().ok())
                .collect();
            fields.iter().sum::<u64>()
        };
        self.own.iter().map(ticks).sum()
    }
}
