//! `CURRENT`: names the newest segment. The layout is in the package's docs.

use crate::bytes::{array, put, u32_at, u64_at};
use crate::cell::{
    BLOCK_BYTES, CELL_BYTES, Class, Flags, PAYLOAD_BYTES, Seed, Trailer, classify, finish,
};

const MAGIC: &[u8; 8] = b"ekokvcur";
const FORMAT_VERSION: u32 = 1;
const SEED: &[u8] = b"ekokv CURRENT";

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 8;
const STATE_AT: usize = VERSION_AT + 4;
const STORE_AT: usize = STATE_AT + 4;
const SEGMENT_AT: usize = STORE_AT + 16;
const SALT_AT: usize = SEGMENT_AT + 8;
const _: () = assert!(SALT_AT + 16 <= PAYLOAD_BYTES);

/// Length of the file in bytes: two copies, a block apart.
pub(crate) const CURRENT_BYTES: usize = 2 * BLOCK_BYTES;
/// Name of the file.
pub(crate) const NAME: &str = "CURRENT";
/// Name before it is published.
pub(crate) const TMP_NAME: &str = "CURRENT.tmp";
/// The same for one that takes the place of a damaged one.
pub(crate) const RENEWED_TMP_NAME: &str = "CURRENT.renewed.tmp";

/// Whether a data dir holds a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurrentState {
    /// A first start has begun and not ended; there is no data yet.
    Creating,
    /// There is a store.
    Live,
}

/// Names the newest segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Whether there is a store.
    pub state: CurrentState,
    /// Identity of the store.
    pub store_id: [u8; 16],
    /// Number of the newest segment, 0 while creating.
    pub segment: u64,
    /// Its salt.
    pub salt: [u8; 16],
}

impl Current {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; CURRENT_BYTES];
        for (index, block) in out.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let cell = &mut block[..CELL_BYTES];
            let state: u32 = match self.state {
                CurrentState::Creating => 1,
                CurrentState::Live => 2,
            };
            put(cell, MAGIC_AT, MAGIC);
            put(cell, VERSION_AT, &FORMAT_VERSION.to_le_bytes());
            put(cell, STATE_AT, &state.to_le_bytes());
            put(cell, STORE_AT, &self.store_id);
            put(cell, SEGMENT_AT, &self.segment.to_le_bytes());
            put(cell, SALT_AT, &self.salt);
            let flags = if index == 0 {
                Flags::FIRST
            } else {
                Flags::LAST
            };
            finish(
                cell,
                Seed::of(SEED),
                position_of(index),
                Trailer {
                    batch_low: 0,
                    index,
                    flags,
                },
            );
        }
        out
    }

    /// Reads the file. The flag says that only one of its two copies verified.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, bool), String> {
        let copies: Vec<Result<Self, String>> = bytes
            .chunks(BLOCK_BYTES)
            .take(2)
            .enumerate()
            .filter_map(|(index, block)| {
                let cell = block.get(..CELL_BYTES)?;
                let class = classify(cell, Seed::of(SEED), position_of(index));
                matches!(class, Class::Valid(_)).then(|| Self::decode_payload(cell))
            })
            .collect();
        let both = copies.len() == 2 && bytes.len() == CURRENT_BYTES;
        match copies.into_iter().next() {
            Some(copy) => copy.map(|current| (current, !both)),
            None => Err("neither of its two copies verifies".to_owned()),
        }
    }

    fn decode_payload(cell: &[u8]) -> Result<Self, String> {
        if array::<8>(cell, MAGIC_AT).as_ref() != Some(MAGIC) {
            return Err("it is no CURRENT of ekokv".to_owned());
        }
        let version = u32_at(cell, VERSION_AT).unwrap_or_default();
        if version != FORMAT_VERSION {
            return Err(format!(
                "it has format version {version}; this program reads version {FORMAT_VERSION}: \
                 open it with the version of ekokv that wrote it, or a newer one"
            ));
        }
        Ok(Self {
            state: match u32_at(cell, STATE_AT) {
                Some(1) => CurrentState::Creating,
                Some(2) => CurrentState::Live,
                _ => return Err("it names an unknown state".to_owned()),
            },
            store_id: array(cell, STORE_AT).unwrap_or_default(),
            segment: u64_at(cell, SEGMENT_AT).unwrap_or_default(),
            salt: array(cell, SALT_AT).unwrap_or_default(),
        })
    }
}

fn position_of(copy: usize) -> u64 {
    (copy * BLOCK_BYTES / CELL_BYTES) as u64
}
