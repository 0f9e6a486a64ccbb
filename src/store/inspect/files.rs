//! The files of a data dir and how they hang together, as far as their headers tell.
//!
//! What always holds: a segment is in the chain if `CURRENT`, or a header that verifies, leads to it; where
//! the chain is broken, all that is there below the break is in it.

use std::collections::BTreeMap;

use ekokv_wal::{
    Current, CurrentState, Disk, Error, Flags, Predecessor, SegmentHeader, Survey, segment_header,
    segment_numbers, segment_path,
};

use crate::store::open::OTHER_FILES;
use crate::store::recovery::snapshot_names;
use crate::store::snapshot::{Bad, Header, Scan, path_of};

/// A segment's file.
pub(super) struct SegmentFile {
    /// Number in its name.
    pub(super) named: u64,
    pub(super) header: Result<SegmentHeader, Error>,
}

impl SegmentFile {
    pub(super) fn path(&self) -> String {
        segment_path(self.named)
    }

    /// The number that counts: that of the header, if there is one.
    fn number(&self) -> u64 {
        self.header
            .as_ref()
            .map_or(self.named, |header| header.number)
    }
}

/// A snapshot's file: its header, or why it has none or no footer.
pub(super) struct SnapshotFile {
    /// Last sequence in its name.
    pub(super) sequence: u64,
    pub(super) header: Result<Header, Bad>,
}

impl SnapshotFile {
    pub(super) fn path(&self) -> String {
        path_of(self.sequence)
    }
}

/// A place in the log's chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// Number of the segment.
    pub(super) number: u64,
    /// Number in its file's name, `None` if it is not there.
    pub(super) file: Option<u64>,
    /// Its salt, as others name it.
    pub(super) salt: Option<[u8; 16]>,
    /// Where it ends, if that is named elsewhere.
    pub(super) end: Option<Predecessor>,
}

/// What a data dir holds.
pub(super) struct Files {
    pub(super) current: Result<Option<Current>, Error>,
    pub(super) current_one_copy: bool,
    /// Ascending by name.
    pub(super) segments: Vec<SegmentFile>,
    /// Ascending by name.
    pub(super) snapshots: Vec<SnapshotFile>,
    /// The store that the files are of, if any of them tells.
    pub(super) store_id: Option<[u8; 16]>,
}

impl Files {
    /// Reads all headers.
    ///
    /// # Errors
    /// If a directory cannot be listed.
    pub(super) fn read(disk: &dyn Disk) -> Result<Self, Error> {
        let (current, current_one_copy) = match ekokv_wal::current(disk, OTHER_FILES) {
            Ok(Some((current, one_copy))) => (Ok(Some(current)), one_copy),
            Ok(None) => (Ok(None), false),
            Err(error) => (Err(error), false),
        };
        let segments: Vec<SegmentFile> = segment_numbers(disk)?
            .into_iter()
            .map(|named| SegmentFile {
                named,
                header: segment_header(disk, &segment_path(named)).map(|(header, _)| header),
            })
            .collect();
        let snapshots: Vec<SnapshotFile> = snapshot_names(disk)?
            .into_iter()
            .map(|sequence| SnapshotFile {
                sequence,
                header: Scan::open(disk, &path_of(sequence)).map(|scan| *scan.header()),
            })
            .collect();
        let of_current = current.as_ref().ok().copied().flatten();
        let of_segment = || segments.iter().rev().find_map(|s| s.header.as_ref().ok());
        let of_snapshot = || snapshots.iter().rev().find_map(|s| s.header.as_ref().ok());
        let store_id = of_current
            .map(|current| current.store_id)
            .or_else(|| of_segment().map(|header| header.store_id))
            .or_else(|| of_snapshot().map(|header| header.store_id));
        Ok(Self {
            current,
            current_one_copy,
            segments,
            snapshots,
            store_id,
        })
    }

    /// Whether there is nothing of a store, or a first start that did not end.
    pub(super) fn is_empty(&self) -> bool {
        match &self.current {
            Ok(None) => true,
            Ok(Some(current)) => current.state == CurrentState::Creating,
            Err(_) => false,
        }
    }

    /// The chain, oldest segment first. It begins with the newest segment that `CURRENT` names, or the
    /// highest there is if `CURRENT` is lost or `beyond_current` says so.
    pub(super) fn chain(&self, beyond_current: bool) -> Vec<Link> {
        let mut ends: BTreeMap<u64, Predecessor> = BTreeMap::new();
        let snapshots = self.snapshots.iter();
        for header in snapshots.filter_map(|s| s.header.as_ref().ok()) {
            if Some(header.store_id) == self.store_id {
                ends.insert(header.end.number, header.end);
            }
        }
        let highest = self.highest_below(u64::MAX);
        let current = match &self.current {
            Ok(Some(current)) => Some(current),
            _ => None,
        };
        let first = match current {
            Some(current) if !beyond_current || highest <= Some(current.segment) => Some(Link {
                number: current.segment,
                file: self.file_of(current.segment, Some(current.salt)),
                salt: Some(current.salt),
                end: None,
            }),
            _ => highest.map(|number| self.link(number, None, None)),
        };
        let mut chain = Vec::new();
        let mut next = first;
        while let Some(link) = next {
            chain.push(link);
            next = match self.header_of(&link) {
                Some(header) => header
                    .predecessor
                    .filter(|before| before.number < link.number)
                    .map(|before| self.link(before.number, Some(before.salt), Some(before))),
                // The chain is broken here.
                None => self.highest_below(link.number).map(|number| {
                    let end = ends.get(&number).copied();
                    self.link(number, end.map(|end| end.salt), end)
                }),
            };
        }
        chain.reverse();
        chain
    }

    fn link(&self, number: u64, salt: Option<[u8; 16]>, end: Option<Predecessor>) -> Link {
        Link {
            number,
            file: self.file_of(number, salt),
            salt,
            end,
        }
    }

    /// The header of a segment of the chain, if it verifies and is the one that is meant.
    pub(super) fn header_of(&self, link: &Link) -> Option<&SegmentHeader> {
        let file = self.segments.iter().find(|s| Some(s.named) == link.file)?;
        file.header.as_ref().ok()
    }

    /// The file of a segment: the one that says so itself, best under its own name, else under any; else
    /// the one of that name whose header is lost.
    fn file_of(&self, number: u64, salt: Option<[u8; 16]>) -> Option<u64> {
        let says_so = |segment: &&SegmentFile| {
            segment.header.as_ref().is_ok_and(|header| {
                header.number == number
                    && Some(header.store_id) == self.store_id
                    && salt.is_none_or(|salt| header.salt == salt)
            })
        };
        let named = |segment: &&SegmentFile| segment.named == number;
        let lost = |segment: &&SegmentFile| named(segment) && segment.header.is_err();
        let all = || self.segments.iter();
        all()
            .find(|segment| named(segment) && says_so(segment))
            .or_else(|| all().find(says_so))
            .or_else(|| all().find(lost))
            .map(|segment| segment.named)
    }

    /// Why a file is not the segment of its name, if its header says so or `chain` leads to another one.
    pub(super) fn stranger(&self, file: &SegmentFile, chain: &[Link]) -> Option<String> {
        let header = file.header.as_ref().ok()?;
        if Some(header.store_id) != self.store_id {
            return Some("it belongs to another store".to_owned());
        }
        if header.number != file.named {
            let number = header.number;
            return Some(format!("it is segment {number} by another name"));
        }
        let meant = chain.iter().find(|link| link.number == file.named)?;
        (meant.file != Some(file.named))
            .then(|| "it is not the segment that the log leads to".to_owned())
    }

    /// The highest segment of this store below `number`.
    fn highest_below(&self, number: u64) -> Option<u64> {
        let ours = |segment: &&SegmentFile| match &segment.header {
            Ok(header) => Some(header.store_id) == self.store_id,
            Err(_) => true,
        };
        let numbers = self.segments.iter().filter(ours).map(SegmentFile::number);
        numbers.filter(|found| *found < number).max()
    }
}

/// Whether a segment holds nothing but what those before it hold as well.
pub(super) fn is_repetition(found: &Survey) -> bool {
    let again = |seen: &ekokv_wal::Seen| seen.flags.has(Flags::AGAIN);
    found.damage.is_empty() && found.batches.iter().all(again)
}
