//! A recorded story: the calls of the disk, and what was promised after so many of them. A tape whose
//! judges find fault is kept in a file, and can be judged again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ekokv_wal::{SimDisk, SimOp};

/// What was promised after so many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) calls: usize,
    /// Changes up to this sequence survive a power cut from here on.
    pub(crate) durable: u64,
    /// Changes up to this sequence may have been sent.
    pub(crate) sent: u64,
}

/// A recorded story.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tape {
    pub(crate) calls: Vec<SimOp>,
    pub(crate) marks: Vec<Mark>,
}

impl Tape {
    /// What is promised after so many calls: durable, sent.
    pub(crate) fn promised(&self, calls: usize) -> (u64, u64) {
        let so_far = || self.marks.iter().filter(|mark| mark.calls <= calls);
        let durable = so_far().map(|mark| mark.durable).max().unwrap_or(0);
        let sent = so_far().map(|mark| mark.sent).max().unwrap_or(0);
        (durable, sent)
    }

    /// The disk before the first call, and after each.
    pub(crate) fn states(&self) -> Vec<SimDisk> {
        let mut states = vec![SimDisk::new()];
        for call in &self.calls {
            let next = states.last().unwrap().kill();
            next.play(call);
            states.push(next);
        }
        states
    }

    /// Keeps it where tests may leave something. Returns the file.
    pub(crate) fn keep(&self, name: &str) -> PathBuf {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.tape"));
        std::fs::write(&file, self.print()).unwrap();
        file
    }

    /// Reads what [`Tape::keep`] kept.
    pub(crate) fn play_again(file: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    fn print(&self) -> String {
        let mut out = String::new();
        for Mark {
            calls,
            durable,
            sent,
        } in &self.marks
        {
            writeln!(out, "mark {calls} {durable} {sent}").unwrap();
        }
        for call in &self.calls {
            match call {
                SimOp::CreateDir(path) => writeln!(out, "create_dir {path}"),
                SimOp::Create(path) => writeln!(out, "create {path}"),
                SimOp::Write(file, at, bytes) => {
                    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
                    let digits = bytes[..bytes.len() - zeros].iter();
                    let digits: String = digits.map(|byte| format!("{byte:02x}")).collect();
                    writeln!(out, "write {file} {at} {zeros} {digits}")
                }
                SimOp::Sync(file) => writeln!(out, "sync {file}"),
                SimOp::Truncate(file, length) => writeln!(out, "truncate {file} {length}"),
                SimOp::Punch(file, at, length) => writeln!(out, "punch {file} {at} {length}"),
                SimOp::Rename(from, to) => writeln!(out, "rename {from} {to}"),
                SimOp::Remove(path) => writeln!(out, "remove {path}"),
                SimOp::SyncDir(path) => writeln!(out, "sync_dir {path}"),
            }
            .unwrap();
        }
        out
    }

    fn parse(text: &str) -> Option<Self> {
        let mut tape = Self::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
            let index = |at: usize| number(at).map(|number| number as usize);
            let path = |at: usize| fields.get(at).map(|path| (*path).to_owned());
            let call = match fields[0] {
                "mark" => {
                    tape.marks.push(Mark {
                        calls: index(1)?,
                        durable: number(2)?,
                        sent: number(3)?,
                    });
                    continue;
                }
                "create_dir" => SimOp::CreateDir(path(1)?),
                "create" => SimOp::Create(path(1)?),
                "write" => {
                    let pairs = fields.get(4)?.as_bytes().chunks(2);
                    let mut bytes: Vec<u8> = pairs
                        .map(|pair| {
                            let pair = std::str::from_utf8(pair).ok()?;
                            u8::from_str_radix(pair, 16).ok()
                        })
                        .collect::<Option<_>>()?;
                    bytes.resize(bytes.len() + index(3)?, 0);
                    SimOp::Write(index(1)?, number(2)?, bytes)
                }
                "sync" => SimOp::Sync(index(1)?),
                "truncate" => SimOp::Truncate(index(1)?, number(2)?),
                "punch" => SimOp::Punch(index(1)?, number(2)?, number(3)?),
                "rename" => SimOp::Rename(path(1)?, path(2)?),
                "remove" => SimOp::Remove(path(1)?),
                "sync_dir" => SimOp::SyncDir(path(1)?),
                _ => return None,
            };
            tape.calls.push(call);
        }
        Some(tape)
    }

    /// Whether what is kept can be read again.
    pub(crate) fn survives_keeping(&self) -> bool {
        Self::parse(&self.print()).as_ref() == Some(self)
    }
}
