//! `ekokv wal DIR`: the log's batches as text, without changing anything.

use std::io::{self, Write};
use std::path::Path;

use ekokv_wal::{Batch, Disk, Error, Flags, Found, Predecessor, Recovered};

use super::files::Files;
use super::holder::refused;
use super::place::{no_store, open, unwritten};
use super::torn;
use crate::state::ttl::format_rfc3339;
use crate::state::{Form, Mutation};
use crate::store::open::OTHER_FILES;
use crate::store::options::Failure;

/// Prints the batches of the log in `dir`, one line each, with a line for each change: sequence, kind
/// and key, never a value, key material or digest. Then how the log ends. It begins with the oldest
/// segment that is still there.
///
/// # Errors
/// [`Failure::Damaged`] and [`Failure::Storage`] as a start would give them, after what is readable;
/// [`Failure::Settings`] if there is no store, or a first start that did not end; [`Failure::Storage`] if
/// `out` takes no more.
pub fn print(dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let disk = open(dir)?;
    let from = beginning(&disk).map_err(|error| refused(dir, error))?;
    if let Some(from) = &from {
        let (batch, sequence) = (from.position.batch, from.position.sequence);
        writeln!(
            out,
            "begins behind segment {}, batch {batch}, sequence {sequence}: what came before is in a \
             snapshot",
            from.number
        )
        .map_err(|error| unwritten(&error))?;
    }
    let mut broken_out = None;
    let visited = &mut |path: &str, offset, batch: &Batch<'_>| {
        print_batch(out, path, offset, batch).map_err(|error| match error {
            PrintError::Out(error) => {
                let reason = error.to_string();
                broken_out = Some(error);
                reason
            }
            PrintError::Record(reason) => reason,
        })
    };
    let found = ekokv_wal::read(&disk, OTHER_FILES, from.as_ref(), visited);
    if let Some(error) = broken_out {
        return Err(unwritten(&error));
    }
    let found = found.map_err(|error| refused(dir, error))?;
    match found {
        Found::Nothing | Found::Creating => Err(no_store(dir)),
        Found::Log(recovered) => print_end(out, &recovered).map_err(|error| unwritten(&error)),
    }
}

/// Where the log can be read from: the end of the newest segment that is gone, if a snapshot has what
/// came before; else the end of that snapshot, or the beginning.
fn beginning(disk: &dyn Disk) -> Result<Option<Predecessor>, Error> {
    let files = Files::read(disk)?;
    let ours = |header: &&crate::store::snapshot::Header| Some(header.store_id) == files.store_id;
    let headers = files.snapshots.iter().rev();
    let snapshot = headers.filter_map(|s| s.header.as_ref().ok()).find(ours);
    let chain = files.chain(false);
    let there = chain.iter().rev().map_while(|link| files.header_of(link));
    let gone = there.last().and_then(|oldest| oldest.predecessor);
    Ok(match (gone, snapshot) {
        (Some(gone), Some(snapshot)) if gone.number > snapshot.end.number => Some(snapshot.end),
        (Some(gone), Some(_)) => Some(gone),
        _ => None,
    })
}

enum PrintError {
    Out(io::Error),
    Record(String),
}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> Self {
        Self::Out(error)
    }
}

fn print_batch(
    out: &mut dyn Write,
    path: &str,
    offset: u64,
    batch: &Batch<'_>,
) -> Result<(), PrintError> {
    let names = [
        (Flags::SEAL, "seal"),
        (Flags::STOP, "stop"),
        (Flags::AGAIN, "again"),
        (Flags::SKIP, "skip"),
        (Flags::AFTER_SYNC, "after-sync"),
    ];
    let flags: Vec<&str> = names
        .iter()
        .filter(|(flag, _)| batch.flags.has(*flag))
        .map(|(_, name)| *name)
        .collect();
    writeln!(
        out,
        "{path} {offset} batch {} at {} durable {} changes {} bytes {} [{}]",
        batch.number,
        format_rfc3339(batch.time),
        batch.durable,
        batch.count,
        batch.records.len(),
        flags.join(" "),
    )?;
    for (sequence, record) in (batch.first_sequence..).zip(batch.records()) {
        let record = record.map_err(|reason| PrintError::Record(reason.to_owned()))?;
        let mutation = Mutation::decode(record.bytes)
            .map_err(|error| PrintError::Record(error.to_string()))?;
        match mutation {
            Mutation::Put {
                key,
                value,
                form,
                deadline,
            } => {
                let form = match form {
                    Form::Bare => "bare",
                    Form::Envelope => "envelope",
                };
                write!(out, "  {sequence} put {key:?} {} bytes {form}", value.len())?;
                match deadline {
                    Some(at) => writeln!(out, " expires {}", format_rfc3339(at))?,
                    None => writeln!(out)?,
                }
            }
            Mutation::Delete { key } => writeln!(out, "  {sequence} delete {key:?}")?,
            Mutation::Clear => writeln!(out, "  {sequence} clear")?,
            Mutation::Link {
                key,
                collection,
                record_id,
                ..
            } => writeln!(
                out,
                "  {sequence} link {key:?} {collection:?} {record_id:?}"
            )?,
            Mutation::Unlink {
                key,
                collection,
                record_id,
            } => writeln!(
                out,
                "  {sequence} unlink {key:?} {collection:?} {record_id:?}"
            )?,
            Mutation::Expire { key } => writeln!(out, "  {sequence} expire {key:?}")?,
            Mutation::Forget { key } => writeln!(out, "  {sequence} forget {key:?}")?,
            Mutation::HashingKey { .. } => writeln!(out, "  {sequence} hashing key")?,
            Mutation::ApiKey { id, role, .. } => {
                writeln!(out, "  {sequence} api key {id:?} {}", role.as_str())?;
            }
            Mutation::ApiKeyRemoved { id } => writeln!(out, "  {sequence} api key removed {id:?}")?,
        }
    }
    Ok(())
}

fn print_end(out: &mut dyn Write, recovered: &Recovered) -> io::Result<()> {
    for repair in &recovered.repairs {
        writeln!(
            out,
            "repaired in memory: {} offset {} batch {} cells {}",
            repair.file, repair.offset, repair.batch, repair.cells
        )?;
    }
    if let Some(torn) = &recovered.torn {
        writeln!(out, "{}", torn::in_words(torn, recovered.mode))?;
    }
    writeln!(
        out,
        "{} segments, {} batches, {} changes, last sequence {}, {}",
        recovered.segments,
        recovered.batches,
        recovered.records,
        recovered.position.sequence,
        if recovered.stopped {
            "stopped in order"
        } else {
            "not stopped in order"
        },
    )
}
