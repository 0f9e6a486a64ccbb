//! How much memory this process may use: the control group's limit, else the machine's memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of memory this process may use; `None` if the machine does not say.
pub(super) fn available_bytes() -> Option<u64> {
    available_below(Path::new("/"))
}

/// [`available_bytes`] of the file system at `root`.
fn available_below(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let machine = fs::read_to_string(root.join("proc/meminfo"))
        .ok()
        .and_then(|text| total(&text));
    // A group without a limit reads as no number (version 2) or as one far beyond any machine
    // (version 1): the minimum is right for both.
    groups
        .lines()
        .filter_map(|line| group_limit(root, line))
        .chain(machine)
        .min()
}

/// The smallest limit on the way from a group to the top of its hierarchy.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers
        .split(',')
        .any(|controller| controller == "memory")
    {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    // Inside a container the path may be the host's: the mount point itself is then the group.
    let group = PathBuf::from(path.trim_start_matches('/'));
    group
        .ancestors()
        .filter_map(|group| fs::read_to_string(root.join(mount).join(group).join(file)).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

/// `MemTotal` of `/proc/meminfo` in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("ekokv-memory-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// A machine's name, its files, and the limit that they mean.
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Option<u64>);

    #[test]
    fn the_smallest_limit_counts() {
        let meminfo = ("proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n");
        let cases: [Case<'_>; 6] = [
            ("none", vec![], None),
            ("machine", vec![meminfo], Some(2 << 20)),
            (
                "v2",
                vec![
                    meminfo,
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                    ("sys/fs/cgroup/a/memory.max", "1048576\n"),
                ],
                Some(1 << 20),
            ),
            (
                "v2-namespace",
                vec![
                    meminfo,
                    ("proc/self/cgroup", "0::/../host/path\n"),
                    ("sys/fs/cgroup/memory.max", "4096\n"),
                ],
                Some(4096),
            ),
            (
                "v1",
                vec![
                    meminfo,
                    ("proc/self/cgroup", "5:cpu,memory:/x\n"),
                    ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "8192\n"),
                ],
                Some(8192),
            ),
            (
                "v1-unlimited",
                vec![
                    meminfo,
                    ("proc/self/cgroup", "5:memory:/\n"),
                    (
                        "sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "9223372036854771712\n",
                    ),
                ],
                Some(2 << 20),
            ),
        ];
        for (name, files, expected) in cases {
            let root = machine(name, &files);
            assert_eq!(available_below(&root), expected, "{name}");
            let _ = fs::remove_dir_all(root);
        }
    }
}
