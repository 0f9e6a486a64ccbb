//! `ekokv dump DIR`: the state as NDJSON, one key a line, ascending.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::holder::{holder, refused};
use super::place::{no_store, open, unwritten};
use crate::state::ttl::format_rfc3339;
use crate::state::{EntryRef, Form, KeptRef, Link};
use crate::store::options::Failure;
use crate::store::recovery::{self, Loaded};

/// So often a data dir is read that a process has open and changes.
const LOOKS_MAX: u32 = 5;
/// After so long each.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// What was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dumped {
    /// Keys with a value.
    pub keys: u64,
    /// Keys that have expired.
    pub expired: u64,
    /// Links.
    pub links: u64,
    /// The sequence that the state is of.
    pub last_sequence: u64,
}

/// Prints the keys of the store in `dir` as they are at `now` (milliseconds since the Unix epoch), one
/// JSON object a line. API keys are not printed.
///
/// # Errors
/// As a start would refuse the data dir, before anything is printed; [`Failure::Storage`] if `out` takes
/// no more.
pub fn dump(dir: &Path, now: u64, out: &mut dyn Write) -> Result<Dumped, Failure> {
    let disk = open(dir)?;
    let mut looks = 1;
    let loaded = loop {
        match recovery::read(&disk, u64::MAX) {
            // A segment or a snapshot may have come or gone just then.
            Err(_) if looks < LOOKS_MAX && holder(dir).is_some() => {
                looks += 1;
                std::thread::sleep(LOOK_PAUSE);
            }
            loaded => break loaded.map_err(|error| refused(dir, error))?,
        }
    };
    let store = match loaded {
        Loaded::Nothing => return Err(no_store(dir)),
        Loaded::Store(store) => store,
    };
    let mut dumped = Dumped {
        last_sequence: store.log.position.sequence,
        ..Dumped::default()
    };
    let mut line = Vec::new();
    for (key, kept) in store.state.kept_after(None) {
        line.clear();
        push(&mut line, key, kept, now, &mut dumped).map_err(|error| unwritten(&error))?;
        out.write_all(&line).map_err(|error| unwritten(&error))?;
    }
    out.flush().map_err(|error| unwritten(&error))?;
    Ok(dumped)
}

fn push(
    line: &mut Vec<u8>,
    key: &str,
    kept: KeptRef<'_>,
    now: u64,
    dumped: &mut Dumped,
) -> io::Result<()> {
    line.extend_from_slice(b"{\"key\":");
    serde_json::to_writer(&mut *line, key)?;
    match kept {
        KeptRef::Live(entry) if entry.deadline.is_none_or(|at| now < at) => {
            dumped.keys += 1;
            dumped.links += entry.links.as_slice().len() as u64;
            push_entry(line, &entry)?;
        }
        // A value whose deadline has passed is not shown, here as anywhere.
        KeptRef::Live(EntryRef {
            deadline: Some(deadline),
            ..
        })
        | KeptRef::Remembered { deadline, .. } => {
            dumped.expired += 1;
            let at = format_rfc3339(deadline);
            write!(line, ",\"expires_at\":\"{at}\",\"expired\":true")?;
        }
        KeptRef::Live(_) => {}
    }
    line.extend_from_slice(b"}\n");
    Ok(())
}

fn push_entry(line: &mut Vec<u8>, entry: &EntryRef<'_>) -> io::Result<()> {
    line.extend_from_slice(b",\"value\":");
    push_json(line, &entry.value);
    write!(line, ",\"version\":{}", entry.version)?;
    if let Some(deadline) = entry.deadline {
        write!(line, ",\"expires_at\":\"{}\"", format_rfc3339(deadline))?;
    }
    if entry.form == Form::Envelope {
        line.extend_from_slice(b",\"form\":\"envelope\"");
    }
    let links = entry.links.as_slice();
    if !links.is_empty() {
        line.extend_from_slice(b",\"links\":[");
        for (index, link) in links.iter().enumerate() {
            if index > 0 {
                line.push(b',');
            }
            push_link(line, link)?;
        }
        line.push(b']');
    }
    Ok(())
}

fn push_link(line: &mut Vec<u8>, link: &Link) -> io::Result<()> {
    line.extend_from_slice(b"{\"collection\":");
    serde_json::to_writer(&mut *line, &*link.collection)?;
    line.extend_from_slice(b",\"record_id\":");
    serde_json::to_writer(&mut *line, &*link.record_id)?;
    line.extend_from_slice(b",\"metadata\":");
    push_json(line, link.metadata.as_deref().unwrap_or(b"{}"));
    let at = format_rfc3339(link.created_at);
    write!(line, ",\"created_at\":\"{at}\"}}")
}

/// JSON text as it is, but on one line: a raw line break can only be space between its parts, for within
/// a string it is written as an escape.
fn push_json(line: &mut Vec<u8>, text: &[u8]) {
    line.extend(text.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    }));
}
