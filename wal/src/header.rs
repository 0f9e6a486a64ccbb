//! The header block of a segment. The layout is in the package's docs.

use crate::batch::Position;
use crate::bytes::{array, put, u32_at, u64_at, u128_at};
use crate::cell::{
    BLOCK_BYTES, CELL_BYTES, Class, Flags, PAYLOAD_BYTES, Seed, Trailer, classify, finish,
};

const MAGIC: &[u8; 8] = b"ekokvwal";
/// Version of the segment format that this code writes and reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// CRC seed of header cells: the segment's salt is not known before its header is read.
pub(crate) const HEADER_SEED: &[u8] = b"ekokv segment header";

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 8;
const MODE_AT: usize = VERSION_AT + 4;
const STORE_AT: usize = MODE_AT + 4;
const NUMBER_AT: usize = STORE_AT + 16;
const SALT_AT: usize = NUMBER_AT + 8;
const LENGTH_AT: usize = SALT_AT + 16;
const FIRST_SEQUENCE_AT: usize = LENGTH_AT + 8;
const TIME_AT: usize = FIRST_SEQUENCE_AT + 8;
const PREDECESSOR_NUMBER_AT: usize = TIME_AT + 8;
const PREDECESSOR_SALT_AT: usize = PREDECESSOR_NUMBER_AT + 8;
const PREDECESSOR_END_AT: usize = PREDECESSOR_SALT_AT + 16;
const PREDECESSOR_BATCH_AT: usize = PREDECESSOR_END_AT + 8;
const PREDECESSOR_SEQUENCE_AT: usize = PREDECESSOR_BATCH_AT + 8;
const PREDECESSOR_CHAIN_AT: usize = PREDECESSOR_SEQUENCE_AT + 8;
const END: usize = PREDECESSOR_CHAIN_AT + 16;
const _: () = assert!(END == 144 && END <= PAYLOAD_BYTES);

/// When the run that wrote a segment answered its writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// After a sync: what follows a proven batch was never answered without one.
    Always,
    /// After write(2), synced now and then.
    Interval,
    /// After write(2).
    Os,
}

impl Mode {
    fn code(self) -> u32 {
        match self {
            Self::Always => 0,
            Self::Interval => 1,
            Self::Os => 2,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [Self::Always, Self::Interval, Self::Os]
            .into_iter()
            .find(|mode| mode.code() == code)
    }
}

/// The newest segment before this one that holds a proven record, and where it ends for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// Its number.
    pub number: u64,
    /// Its salt.
    pub salt: [u8; 16],
    /// Offset behind its last proven batch; what lies behind is not read.
    pub end: u64,
    /// Where the log stands there.
    pub position: Position,
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Durability of the run that wrote it.
    pub mode: Mode,
    /// Identity of the store.
    pub store_id: [u8; 16],
    /// Number, from 1; the file's name.
    pub number: u64,
    /// Random; seeds the CRCs and identifies the segment.
    pub salt: [u8; 16],
    /// Length of the file in bytes.
    pub length: u64,
    /// Sequence that comes first.
    pub first_sequence: u64,
    /// Store time in milliseconds since the Unix epoch.
    pub time: u64,
    /// The segment before, if there is one that counts.
    pub predecessor: Option<Predecessor>,
}

/// Why a header block is no header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Neither copy verifies.
    Lost,
    /// It verifies and cannot be understood.
    Foreign(String),
}

impl SegmentHeader {
    /// Where the log stands before the segment's first batch.
    #[must_use]
    pub fn before(&self) -> Position {
        self.predecessor.map_or(Position::default(), |p| p.position)
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::of(&self.salt)
    }

    /// The two header cells.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 2 * CELL_BYTES];
        for (index, cell) in out.chunks_exact_mut(CELL_BYTES).enumerate() {
            put(cell, MAGIC_AT, MAGIC);
            put(cell, VERSION_AT, &FORMAT_VERSION.to_le_bytes());
            put(cell, MODE_AT, &self.mode.code().to_le_bytes());
            put(cell, STORE_AT, &self.store_id);
            put(cell, NUMBER_AT, &self.number.to_le_bytes());
            put(cell, SALT_AT, &self.salt);
            put(cell, LENGTH_AT, &self.length.to_le_bytes());
            put(cell, FIRST_SEQUENCE_AT, &self.first_sequence.to_le_bytes());
            put(cell, TIME_AT, &self.time.to_le_bytes());
            if let Some(p) = &self.predecessor {
                put(cell, PREDECESSOR_NUMBER_AT, &p.number.to_le_bytes());
                put(cell, PREDECESSOR_SALT_AT, &p.salt);
                put(cell, PREDECESSOR_END_AT, &p.end.to_le_bytes());
                put(cell, PREDECESSOR_BATCH_AT, &p.position.batch.to_le_bytes());
                put(
                    cell,
                    PREDECESSOR_SEQUENCE_AT,
                    &p.position.sequence.to_le_bytes(),
                );
                put(cell, PREDECESSOR_CHAIN_AT, &p.position.chain.to_le_bytes());
            }
            let flags = if index == 0 {
                Flags::FIRST
            } else {
                Flags::LAST.with(Flags::PARITY)
            };
            finish(
                cell,
                Seed::of(HEADER_SEED),
                index as u64,
                Trailer {
                    batch_low: 0,
                    index,
                    flags,
                },
            );
        }
        out
    }

    /// Reads a header block. The flag says that only one of its two copies verified.
    pub(crate) fn decode(block: &[u8]) -> Result<(Self, bool), BadHeader> {
        let valid: Vec<&[u8]> = block
            .chunks_exact(CELL_BYTES)
            .take(2)
            .enumerate()
            .filter(|(index, cell)| {
                let class = classify(cell, Seed::of(HEADER_SEED), *index as u64);
                matches!(class, Class::Valid(t) if t.index == *index)
            })
            .map(|(_, cell)| cell)
            .collect();
        let cell = valid.first().ok_or(BadHeader::Lost)?;
        Ok((Self::decode_payload(cell)?, valid.len() < 2))
    }

    fn decode_payload(cell: &[u8]) -> Result<Self, BadHeader> {
        let foreign = |what: &str| BadHeader::Foreign(what.to_owned());
        if array::<8>(cell, MAGIC_AT).as_ref() != Some(MAGIC) {
            return Err(foreign("it is no segment of ekokv"));
        }
        let version = u32_at(cell, VERSION_AT).unwrap_or_default();
        if version != FORMAT_VERSION {
            return Err(BadHeader::Foreign(format!(
                "it has format version {version}; this program reads version {FORMAT_VERSION}: \
                 open it with the version of ekokv that wrote it, or a newer one"
            )));
        }
        let long = |at| u64_at(cell, at).unwrap_or_default();
        let salt = |at| array::<16>(cell, at).unwrap_or_default();
        let mode = u32_at(cell, MODE_AT).and_then(Mode::from_code);
        let predecessor = Predecessor {
            number: long(PREDECESSOR_NUMBER_AT),
            salt: salt(PREDECESSOR_SALT_AT),
            end: long(PREDECESSOR_END_AT),
            position: Position {
                batch: long(PREDECESSOR_BATCH_AT),
                sequence: long(PREDECESSOR_SEQUENCE_AT),
                chain: u128_at(cell, PREDECESSOR_CHAIN_AT).unwrap_or_default(),
            },
        };
        Ok(Self {
            mode: mode.ok_or_else(|| foreign("it names an unknown durability"))?,
            store_id: salt(STORE_AT),
            number: long(NUMBER_AT),
            salt: salt(SALT_AT),
            length: long(LENGTH_AT),
            first_sequence: long(FIRST_SEQUENCE_AT),
            time: long(TIME_AT),
            predecessor: (predecessor.number != 0).then_some(predecessor),
        })
    }
}

/// Offset of a segment's first batch in bytes.
pub(crate) const FIRST_BATCH_AT: u64 = BLOCK_BYTES as u64;

/// Directory of the segments.
pub(crate) const DIR: &str = "wal";

/// Path of a segment below the data dir.
#[must_use]
pub fn segment_path(number: u64) -> String {
    format!("{DIR}/{number:020}.wal")
}

/// The number in a segment's file name; `None` for other names.
pub(crate) fn number_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}
