//! Reading a whole log: from `CURRENT` back along the predecessors, then forwards through the
//! batches.
//!
//! What always holds: nothing is changed, made or removed here. Reading the same files again gives
//! the same result.

use std::collections::VecDeque;

use crate::batch::{Batch, Position, Whole};
use crate::cell::{BLOCK_BYTES, Flags};
use crate::current::{self, CURRENT_BYTES, Current, CurrentState};
use crate::disk::{Disk, read_file};
use crate::error::{Damage, Error};
use crate::header::{
    BadHeader, DIR, FIRST_BATCH_AT, Mode, Predecessor, SegmentHeader, number_of_name, segment_path,
};
use crate::image::Image;
use crate::log::SEGMENT_FILE_BYTES_MAX;
use crate::planted::planted;
use crate::scan::{Repair, Segment, Torn, bad_header};
use crate::survey::survey;

/// Directory of the snapshots; a file in it makes a directory a store.
const SNAPSHOTS: &str = "snapshots";
/// Number of the batch with which a store begins.
const FIRST_BATCH: u64 = 1;

/// What a data dir holds.
#[derive(Debug)]
pub enum Found {
    /// Nothing of ekokv.
    Nothing,
    /// A first start that did not end; there is no data.
    Creating,
    /// A log, read to its end.
    Log(Box<Recovered>),
}

/// A log as it was found, and what the next [`crate::Log::start`] needs to know of it.
#[derive(Debug)]
pub struct Recovered {
    /// Identity of the store.
    pub store_id: [u8; 16],
    /// Where the log stands.
    pub position: Position,
    /// Newest store time in milliseconds since the Unix epoch.
    pub time: u64,
    /// Durability of the run that wrote last.
    pub mode: Mode,
    /// Whether that run ended in order.
    pub stopped: bool,
    /// Batches that were read.
    pub batches: u64,
    /// Records that were read.
    pub records: u64,
    /// Bytes of these records.
    pub records_bytes: u64,
    /// Bytes of segments that were read.
    pub disk_bytes: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Batches whose durability nothing proves; the next start writes them again.
    pub doubtful: u64,
    /// What was rebuilt from parity or a second copy.
    pub repairs: Vec<Repair>,
    /// What a crash left of a batch that nothing proves to be synced; dropped.
    pub torn: Option<Torn>,
    /// The next segment's predecessor.
    pub(crate) predecessor: Option<Predecessor>,
    /// What the next segment repeats.
    pub(crate) again: Vec<Copy>,
    /// Numbers of the segments that count.
    pub(crate) chain: Vec<u64>,
    /// Segments up to this number are a snapshot's: whether they count is not for the log to say.
    pub(crate) covered: u64,
    /// The highest number of any segment that is there.
    pub(crate) highest: u64,
}

/// A batch that is written again.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) first_sequence: u64,
    pub(crate) count: u32,
    pub(crate) time: u64,
    pub(crate) skip: bool,
    pub(crate) records: Vec<u8>,
}

impl Recovered {
    /// Those of the repairs whose damage is still on disk behind the next start: not in `CURRENT`,
    /// which is written anew, and not in what is repeated or removed.
    #[must_use]
    pub fn lasting_repairs(&self) -> usize {
        let Some(kept) = self.predecessor else {
            return 0;
        };
        let lasts = |repair: &&Repair| {
            let mut numbers = self.chain.iter().filter(|number| **number <= kept.number);
            repair.batch <= kept.position.batch
                && numbers.any(|number| segment_path(*number) == repair.file)
        };
        self.repairs.iter().filter(lasts).count()
    }
}

impl Copy {
    fn of(batch: &Batch<'_>) -> Self {
        Self {
            first_sequence: batch.first_sequence,
            count: batch.count,
            time: batch.time,
            skip: batch.flags.has(Flags::SKIP),
            records: batch.records.to_vec(),
        }
    }

    /// The batch that goes behind `before`, with `durable` as what is known to be synced.
    pub(crate) fn batch(&self, before: Position, durable: u64, flags: Flags) -> Batch<'_> {
        Batch {
            number: before.batch.saturating_add(1),
            first_sequence: self.first_sequence,
            count: self.count,
            time: self.time,
            durable,
            flags: if self.skip {
                flags.with(Flags::SKIP)
            } else {
                flags
            },
            records: &self.records,
        }
    }
}

/// What [`read`] and [`read_sealed`] call for each batch, in order, with the segment's path and the
/// offset. What it returns as an error becomes the reason to refuse.
pub type Visit<'a> = dyn FnMut(&str, u64, &Batch<'_>) -> Result<(), String> + 'a;

/// What `CURRENT` says; `None` if the data dir holds no store. `others` are names in the data dir that
/// belong to a store as well: if one of them, a segment or a snapshot is there and `CURRENT` is not,
/// the directory is refused. The flag says that only one of its two copies verified.
///
/// # Errors
/// [`Error::Damaged`] and [`Error::Unreadable`] as [`read`].
pub fn current(disk: &dyn Disk, others: &[&str]) -> Result<Option<(Current, bool)>, Error> {
    let Some(bytes) = read_file(disk, current::NAME, CURRENT_BYTES as u64)? else {
        let numbers = segment_numbers(disk)?;
        let list = |dir: &str| disk.list(dir).map_err(unlisted(dir));
        let names = list("")?;
        let snapshot = list(SNAPSHOTS)?
            .into_iter()
            .find(|name| name.ends_with(".snap"));
        let snapshot = snapshot.map(|name| format!("{SNAPSHOTS}/{name}"));
        let segment = numbers.first().map(|n| segment_path(*n));
        let orphan = segment.or(snapshot).or_else(|| {
            names
                .iter()
                .find(|name| others.contains(&name.as_str()))
                .cloned()
        });
        return match orphan {
            None => Ok(None),
            Some(file) => Err(refuse_file(
                current::NAME,
                format!(
                    "it is missing, yet there is {file}: this is part of a store, not all of it"
                ),
            )),
        };
    };
    let decoded = Current::decode(&bytes).map_err(|reason| refuse_file(current::NAME, reason))?;
    if decoded.0.state == CurrentState::Creating
        && let Some(file) = put_beside_a_beginning(disk)?
    {
        // A tool may look on while a server goes on.
        let again = read_file(disk, current::NAME, CURRENT_BYTES as u64)?;
        if again.is_some_and(|again| again != bytes) {
            return current(disk, others);
        }
        let reason = format!(
            "it says that a first start did not end, and such a start leaves nothing like {file}: \
             what would be begun anew holds part of a store"
        );
        return Err(refuse_file(current::NAME, reason));
    }
    Ok(Some(decoded))
}

/// What a first start that did not end cannot have left: no snapshot, and of records the first batch's alone,
/// perhaps repeated by a start behind a kill, whose `CURRENT` a power cut took back. Beginning anew would remove
/// it.
fn put_beside_a_beginning(disk: &dyn Disk) -> Result<Option<String>, Error> {
    let names = disk.list(SNAPSHOTS).map_err(unlisted(SNAPSHOTS))?;
    if let Some(name) = names.into_iter().find(|name| name.ends_with(".snap")) {
        return Ok(Some(format!("{SNAPSHOTS}/{name}")));
    }
    for number in segment_numbers(disk)? {
        let path = segment_path(number);
        let mut goes_on = false;
        survey(disk, &path, None, None, &mut |_, batch| {
            goes_on |= batch.count > 0 && batch.number > FIRST_BATCH;
        })?;
        if goes_on {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Reads the log of a data dir from `from` on, where a snapshot ends, or from its beginning. Segments
/// up to that end are not looked at. For `others` see [`current`].
///
/// # Errors
/// [`Error::Damaged`] if acknowledged data may be lost, [`Error::Unreadable`] if the disk does not
/// hand over what is needed.
pub fn read(
    disk: &dyn Disk,
    others: &[&str],
    from: Option<&Predecessor>,
    visit: &mut Visit<'_>,
) -> Result<Found, Error> {
    let Some((current, one_copy)) = self::current(disk, others)? else {
        return Ok(Found::Nothing);
    };
    if current.state == CurrentState::Creating {
        return Ok(Found::Creating);
    }
    let numbers = segment_numbers(disk)?;
    if let Some(from) = from
        && current.segment <= from.number
    {
        let reason = format!(
            "it names segment {}, and the snapshot ends with segment {}: one of them was put back \
             from another time",
            current.segment, from.number
        );
        return Err(refuse_file(current::NAME, reason));
    }
    let mut repairs = Vec::new();
    if one_copy {
        repairs.push(copy_lost(current::NAME));
    }

    // A rotation, or a start, that CURRENT does not name yet.
    for number in numbers.iter().filter(|n| **n > current.segment) {
        let segment = load(disk, *number, current.store_id, None, &mut Vec::new())?;
        if let Some(error) = segment.first_unreadable() {
            return Err(error);
        }
        if !segment.is_superfluous() {
            let reason = "CURRENT names an older segment, yet this one holds batches of its own";
            return Err(segment.damaged(FIRST_BATCH_AT, segment.header.before(), reason));
        }
    }

    let newest = (current.segment, current.salt, current::NAME.to_owned());
    let chain = chain_of(disk, current.store_id, newest, from, &mut repairs)?;
    let mut reader = Reader::new(visit);
    let mut position = from.map_or(Position::default(), |from| from.position);
    for (header, next) in chain.iter().zip(chain.iter().skip(1)) {
        // `chain_of` has made sure that the next one names this one.
        if let Some(named) = next.predecessor {
            position = reader.read_sealed(disk, header, &named, position, &mut repairs)?;
        }
    }

    // The newest one: its end is a verdict, and its last batches may be doubtful.
    let number = chain.last().map_or(current.segment, |header| header.number);
    let segment = load(disk, number, current.store_id, None, &mut Vec::new())?;
    if segment.header.before() != position {
        let reason = "it does not follow the segment before it";
        return Err(segment.damaged(0, position, reason));
    }
    reader.time = reader.time.max(segment.header.time);
    let mut tail = Tail::new(&segment.header);
    let end = segment.read_to_tail(
        &mut |offset, whole| {
            let batch = reader.take(&segment, offset, whole)?;
            tail.push(offset.saturating_add(whole.span), whole.after, &batch);
            Ok(())
        },
        &mut repairs,
    )?;
    tail.prove(end.proven);

    let mut again: Vec<Copy> = Vec::new();
    for copy in tail.pending.into_iter().filter_map(|p| p.copy) {
        // Of skips one behind the other the last says all: restarts do not pile them up.
        if copy.skip {
            again.pop_if(|last| last.skip);
        }
        again.push(copy);
    }
    let mut position = tail
        .anchor
        .map_or(Position::default(), |anchor| anchor.position);
    let covered = from.map_or(0, |from| from.number);
    for copy in &again {
        position = copy
            .batch(position, 0, Flags::AGAIN)
            .position_after(position);
    }
    Ok(Found::Log(Box::new(Recovered {
        store_id: current.store_id,
        position,
        time: if planted("time-runs-back") {
            0
        } else {
            reader.time
        },
        mode: segment.header.mode,
        stopped: tail.stopped,
        batches: reader.batches,
        records: reader.records,
        records_bytes: reader.records_bytes,
        disk_bytes: reader.disk_bytes,
        segments: chain.len() as u64,
        doubtful: again.len() as u64,
        repairs,
        torn: end.torn,
        predecessor: tail.anchor,
        again,
        chain: chain.iter().map(|header| header.number).collect(),
        covered,
        highest: numbers.iter().copied().max().unwrap_or(number).max(number),
    })))
}

/// Reads the sealed segments between two places that headers or snapshots name: behind `from`, or from
/// the beginning, up to `to`. Returns what was rebuilt from parity.
///
/// # Errors
/// As [`read`].
pub fn read_sealed(
    disk: &dyn Disk,
    store_id: [u8; 16],
    from: Option<&Predecessor>,
    to: &Predecessor,
    visit: &mut Visit<'_>,
) -> Result<Vec<Repair>, Error> {
    let mut repairs = Vec::new();
    let mut position = from.map_or(Position::default(), |from| from.position);
    if from.is_some_and(|from| from.number >= to.number) {
        return Ok(repairs);
    }
    let chain = sealed_chain_with(disk, store_id, from, to, &mut repairs)?;
    let mut reader = Reader::new(visit);
    let names = chain.iter().skip(1).map(|header| header.predecessor);
    for (header, named) in chain.iter().zip(names.chain([Some(*to)])) {
        if let Some(named) = named {
            position = reader.read_sealed(disk, header, &named, position, &mut repairs)?;
        }
    }
    Ok(repairs)
}

/// The headers of the sealed segments behind `from`, or from the first one, up to `to`, oldest first.
///
/// # Errors
/// As [`read`], of the headers alone: batches are not looked at.
pub fn sealed_chain(
    disk: &dyn Disk,
    store_id: [u8; 16],
    from: Option<&Predecessor>,
    to: &Predecessor,
) -> Result<Vec<SegmentHeader>, Error> {
    if from.is_some_and(|from| from.number >= to.number) {
        return Ok(Vec::new());
    }
    sealed_chain_with(disk, store_id, from, to, &mut Vec::new())
}

fn sealed_chain_with(
    disk: &dyn Disk,
    store_id: [u8; 16],
    from: Option<&Predecessor>,
    to: &Predecessor,
    repairs: &mut Vec<Repair>,
) -> Result<Vec<SegmentHeader>, Error> {
    let last = (to.number, to.salt, "the segment behind it".to_owned());
    chain_of(disk, store_id, last, from, repairs)
}

/// The headers from the oldest segment that counts, the one behind `from` or the first one, to the one
/// that is given by number, salt and who names it.
fn chain_of(
    disk: &dyn Disk,
    store_id: [u8; 16],
    newest: (u64, [u8; 16], String),
    from: Option<&Predecessor>,
    repairs: &mut Vec<Repair>,
) -> Result<Vec<SegmentHeader>, Error> {
    let mut chain = VecDeque::new();
    let (mut number, mut salt, mut namer) = newest;
    loop {
        let header = load(disk, number, store_id, Some(FIRST_BATCH_AT), repairs)
            .map_err(|error| missing(error, &namer))?
            .header;
        let path = segment_path(number);
        if header.salt != salt {
            return Err(refuse_file(
                &path,
                format!("it is not the segment that {namer} names"),
            ));
        }
        chain.push_front(header);
        let predecessor = match (header.predecessor, from) {
            (None, None) => return Ok(chain.into()),
            (Some(predecessor), Some(from)) if predecessor == *from => return Ok(chain.into()),
            (Some(predecessor), None) => predecessor,
            (Some(predecessor), Some(from)) if predecessor.number > from.number => predecessor,
            _ => {
                return Err(refuse_file(
                    &path,
                    "it does not follow the snapshot: one of them was put back from another time, \
                     or from another store"
                        .to_owned(),
                ));
            }
        };
        if predecessor.number >= number {
            return Err(refuse_file(
                &path,
                "it names a later segment as its predecessor".to_owned(),
            ));
        }
        (number, salt, namer) = (predecessor.number, predecessor.salt, path);
    }
}

/// Loads a segment's header and its first `upto` bytes, or all of it, and checks that it is what its
/// name says.
fn load(
    disk: &dyn Disk,
    number: u64,
    store_id: [u8; 16],
    upto: Option<u64>,
    repairs: &mut Vec<Repair>,
) -> Result<Segment, Error> {
    let path = segment_path(number);
    let unreadable = |source| Error::Unreadable {
        file: path.clone(),
        offset: 0,
        source,
    };
    let file = disk.open(&path).map_err(unreadable)?;
    let length = file.length().map_err(unreadable)?;
    // The head first: a length is believed, and memory taken, only if both agree on it.
    let image = Image::load(file.as_ref(), &path, length.min(FIRST_BATCH_AT))?;
    let (header, one_copy) = SegmentHeader::decode(image.head(BLOCK_BYTES)).map_err(|bad| {
        match image.first_unreadable(0..2) {
            Some((_, source)) if bad == BadHeader::Lost => unreadable(source),
            _ => bad_header(&path, &bad),
        }
    })?;
    if one_copy {
        repairs.push(copy_lost(&path));
    }
    let wrong = if header.number != number {
        Some(format!(
            "its header says that it is segment {}",
            header.number
        ))
    } else if header.store_id != store_id && !planted("store-id-unchecked") {
        Some("it belongs to another store".to_owned())
    } else if length > SEGMENT_FILE_BYTES_MAX {
        Some(format!(
            "it is {length} bytes long, and {SEGMENT_FILE_BYTES_MAX} are the most"
        ))
    } else if header.length != length {
        Some(format!(
            "it is {length} bytes long and its header says {}",
            header.length
        ))
    } else if header.first_sequence != header.before().sequence.saturating_add(1) {
        Some("its first sequence does not follow its predecessor".to_owned())
    } else {
        None
    };
    match wrong {
        Some(reason) => Err(refuse_file(&path, reason)),
        None => {
            let image = Image::load(file.as_ref(), &path, upto.unwrap_or(length).min(length))?;
            Ok(Segment::new(path, header, image))
        }
    }
}

/// A segment that is named and not there is damage, not a failing disk.
fn missing(error: Error, namer: &str) -> Error {
    match error {
        Error::Unreadable { file, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            refuse_file(&file, format!("it is missing, and {namer} names it"))
        }
        other => other,
    }
}

fn refuse_file(file: &str, reason: String) -> Error {
    Error::Damaged(Damage {
        file: file.to_owned(),
        offset: 0,
        batch: None,
        last_sequence: None,
        reason,
    })
}

fn copy_lost(file: &str) -> Repair {
    Repair {
        file: file.to_owned(),
        offset: 0,
        batch: 0,
        cells: 1,
    }
}

fn unlisted(dir: &str) -> impl FnOnce(std::io::Error) -> Error {
    let file = if dir.is_empty() { "." } else { dir }.to_owned();
    move |source| Error::Unreadable {
        file,
        offset: 0,
        source,
    }
}

/// Where the newest sealed segment ends, as the segment that `CURRENT` names says; `None` if there is no
/// store, or no such segment.
///
/// # Errors
/// As [`read`].
pub fn newest_sealed(disk: &dyn Disk) -> Result<Option<Predecessor>, Error> {
    let Some((current, _)) = self::current(disk, &[])? else {
        return Ok(None);
    };
    if current.state == CurrentState::Creating {
        return Ok(None);
    }
    let (number, store_id) = (current.segment, current.store_id);
    let head = load(
        disk,
        number,
        store_id,
        Some(FIRST_BATCH_AT),
        &mut Vec::new(),
    )
    .map_err(|error| missing(error, current::NAME))?;
    Ok(head.header.predecessor)
}

/// The numbers of the segments that are there, ascending.
///
/// # Errors
/// [`Error::Unreadable`] if the directory cannot be listed.
pub fn segment_numbers(disk: &dyn Disk) -> Result<Vec<u64>, Error> {
    let names = disk.list(DIR).map_err(unlisted(DIR))?;
    Ok(names
        .iter()
        .filter_map(|name| number_of_name(name))
        .collect())
}

/// Hands batches on and counts them.
struct Reader<'v, 'a> {
    visit: &'v mut Visit<'a>,
    batches: u64,
    records: u64,
    records_bytes: u64,
    disk_bytes: u64,
    time: u64,
}

impl<'v, 'a> Reader<'v, 'a> {
    fn new(visit: &'v mut Visit<'a>) -> Self {
        Self {
            visit,
            batches: 0,
            records: 0,
            records_bytes: 0,
            disk_bytes: 0,
            time: 0,
        }
    }

    /// Reads a segment that ends where `named` says, behind `position`. Returns where the log then
    /// stands.
    fn read_sealed(
        &mut self,
        disk: &dyn Disk,
        header: &SegmentHeader,
        named: &Predecessor,
        position: Position,
        repairs: &mut Vec<Repair>,
    ) -> Result<Position, Error> {
        self.time = self.time.max(header.time);
        if named.end > header.length || header.before() != position {
            let reason = "it does not follow the segment before it";
            let before = Segment::new(segment_path(header.number), *header, Image::default());
            return Err(before.damaged(0, position, reason));
        }
        let (number, store_id) = (header.number, header.store_id);
        let segment = load(disk, number, store_id, Some(named.end), &mut Vec::new())?;
        segment.read_to(
            named.end,
            named.position,
            &mut |offset, whole| self.take(&segment, offset, whole).map(drop),
            repairs,
        )
    }

    fn take<'w>(
        &mut self,
        segment: &Segment,
        offset: u64,
        whole: &'w Whole,
    ) -> Result<Batch<'w>, Error> {
        let batch = whole.batch();
        let refuse = |reason: &str| {
            let before = Position {
                batch: batch.number - 1,
                sequence: batch.first_sequence - 1,
                chain: 0,
            };
            segment.damaged(offset, before, reason)
        };
        for record in batch.records() {
            record.map_err(refuse)?;
        }
        (self.visit)(&segment.path, offset, &batch).map_err(|reason| refuse(&reason))?;
        self.batches += 1;
        self.records += u64::from(batch.count);
        self.records_bytes += batch.records.len() as u64;
        self.disk_bytes += whole.span;
        self.time = self.time.max(batch.time);
        Ok(batch)
    }
}

/// Follows the newest segment: which of its batches are proven, and where the next segment may
/// name its end.
struct Tail {
    segment: SegmentHeader,
    /// All batches up to this one are durable.
    proven: u64,
    /// The last proven batch of the newest segment with a proven record.
    anchor: Option<Predecessor>,
    anchored_here: bool,
    /// Batches behind the anchor.
    pending: VecDeque<Pending>,
    stopped: bool,
}

struct Pending {
    end: u64,
    after: Position,
    has_records: bool,
    /// `None` for seals: what they prove is proven, and they prove nothing in another place.
    copy: Option<Copy>,
}

impl Tail {
    fn new(segment: &SegmentHeader) -> Self {
        Self {
            segment: *segment,
            proven: if planted("doubtful-end-named") {
                u64::MAX
            } else {
                segment.before().batch
            },
            anchor: segment.predecessor,
            anchored_here: false,
            pending: VecDeque::new(),
            stopped: false,
        }
    }

    fn push(&mut self, end: u64, after: Position, batch: &Batch<'_>) {
        if batch.flags.has(Flags::AFTER_SYNC) {
            self.proven = self.proven.max(batch.number.saturating_sub(1));
        }
        let keep = batch.count > 0 || batch.flags.has(Flags::SKIP);
        self.pending.push_back(Pending {
            end,
            after,
            has_records: batch.count > 0,
            copy: keep.then(|| Copy::of(batch)),
        });
        self.stopped = batch.flags.has(Flags::STOP);
        self.prove(batch.durable);
    }

    fn prove(&mut self, batch: u64) {
        self.proven = self.proven.max(batch);
        let count = self
            .pending
            .iter()
            .take_while(|p| p.after.batch <= self.proven)
            .count();
        // A segment without a proven record is not worth naming: the next one repeats what little
        // it holds, and it is removed.
        let has_records = self.pending.iter().take(count).any(|p| p.has_records);
        if !self.anchored_here && !has_records {
            return;
        }
        for proven in self.pending.drain(..count) {
            self.anchored_here = true;
            self.anchor = Some(Predecessor {
                number: self.segment.number,
                salt: self.segment.salt,
                end: proven.end,
                position: proven.after,
            });
        }
    }
}
