//! Header and footer of a snapshot. The layout is in the module's docs.

use ekokv_wal::{Position, Predecessor};

use super::error::Bad;
use crate::state::Fingerprint;

/// Length of the header in bytes.
pub(super) const HEADER_BYTES: usize = 128;
/// Length of the footer in bytes.
pub(super) const FOOTER_BYTES: usize = 128;
/// Length of what stands before a block's entries, in bytes.
pub(super) const BLOCK_HEADER_BYTES: usize = 12;

const HEADER_MAGIC: &[u8; 8] = b"ekokvsnp";
const FOOTER_MAGIC: &[u8; 8] = b"ekokvend";
const FORMAT_VERSION: u32 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 8;
const STORE_AT: usize = VERSION_AT + 4 + 4;
const SEGMENT_AT: usize = STORE_AT + 16;
const SALT_AT: usize = SEGMENT_AT + 8;
const END_AT: usize = SALT_AT + 16;
const BATCH_AT: usize = END_AT + 8;
const SEQUENCE_AT: usize = BATCH_AT + 8;
const CHAIN_AT: usize = SEQUENCE_AT + 8;
const TIME_AT: usize = CHAIN_AT + 16;
const CRC_AT: usize = HEADER_BYTES - 4;
const _: () = assert!(TIME_AT + 8 + 20 == CRC_AT);

const BLOCKS_AT: usize = MAGIC_AT + 8;
const LIVE_AT: usize = BLOCKS_AT + 8;
const REMEMBERED_AT: usize = LIVE_AT + 8;
const LINKS_AT: usize = REMEMBERED_AT + 8;
const API_KEYS_AT: usize = LINKS_AT + 8;
const DIGEST_AT: usize = API_KEYS_AT + 8;
const BLOCKS_HASH_AT: usize = DIGEST_AT + 16;
const LENGTH_AT: usize = BLOCKS_HASH_AT + 16;
const LONGEST_AT: usize = LENGTH_AT + 8;
const _: () = assert!(LONGEST_AT + 4 + 32 == CRC_AT && FOOTER_BYTES == HEADER_BYTES);

/// What a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Header {
    /// Identity of the store.
    pub(in crate::store) store_id: [u8; 16],
    /// Where in the log it ends: the end of a segment.
    pub(in crate::store) end: Predecessor,
    /// Store time there, in milliseconds since the Unix epoch.
    pub(in crate::store) time: u64,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Footer {
    /// Blocks.
    pub(in crate::store) blocks: u64,
    /// What its entries add up to.
    pub(in crate::store) fingerprint: Fingerprint,
    /// XXH3-128 of the blocks' CRCs.
    pub(super) blocks_hash: u128,
    /// Length of the file in bytes.
    pub(in crate::store) length: u64,
    /// Length of the longest block's entries in bytes: a longer one is not believed.
    pub(super) longest_block: u32,
}

impl Header {
    /// The header's bytes and the CRC that seeds all others of the file.
    pub(super) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut out = [0; HEADER_BYTES];
        put(&mut out, MAGIC_AT, HEADER_MAGIC);
        put(&mut out, VERSION_AT, &FORMAT_VERSION.to_le_bytes());
        put(&mut out, STORE_AT, &self.store_id);
        put(&mut out, SEGMENT_AT, &self.end.number.to_le_bytes());
        put(&mut out, SALT_AT, &self.end.salt);
        put(&mut out, END_AT, &self.end.end.to_le_bytes());
        let Position {
            batch,
            sequence,
            chain,
        } = self.end.position;
        put(&mut out, BATCH_AT, &batch.to_le_bytes());
        put(&mut out, SEQUENCE_AT, &sequence.to_le_bytes());
        put(&mut out, CHAIN_AT, &chain.to_le_bytes());
        put(&mut out, TIME_AT, &self.time.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_AT]);
        put(&mut out, CRC_AT, &crc.to_le_bytes());
        (out, crc)
    }

    /// Reads a header of the file `path`, and the CRC that seeds all others.
    pub(super) fn decode(path: &str, bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), Bad> {
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        if u32::from_le_bytes(field(bytes, CRC_AT)) != crc {
            return Err(Bad::damaged(path, 0, "its header does not verify"));
        }
        if &field::<8>(bytes, MAGIC_AT) != HEADER_MAGIC {
            return Err(Bad::damaged(path, 0, "it is no snapshot of ekokv"));
        }
        let version = u32::from_le_bytes(field(bytes, VERSION_AT));
        if version != FORMAT_VERSION {
            return Err(Bad::foreign(
                path,
                format!(
                    "it has format version {version}; this program reads version \
                     {FORMAT_VERSION}: open it with the version of ekokv that wrote it, or a newer \
                     one"
                ),
            ));
        }
        let long = |at| u64::from_le_bytes(field(bytes, at));
        let position = Position {
            batch: long(BATCH_AT),
            sequence: long(SEQUENCE_AT),
            chain: u128::from_le_bytes(field(bytes, CHAIN_AT)),
        };
        let end = Predecessor {
            number: long(SEGMENT_AT),
            salt: field(bytes, SALT_AT),
            end: long(END_AT),
            position,
        };
        let header = Self {
            store_id: field(bytes, STORE_AT),
            end,
            time: long(TIME_AT),
        };
        Ok((header, crc))
    }
}

impl Footer {
    pub(super) fn encode(&self, seed: u32) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        let Fingerprint {
            live,
            remembered,
            links,
            api_keys,
            digest,
        } = self.fingerprint;
        put(&mut out, MAGIC_AT, FOOTER_MAGIC);
        put(&mut out, BLOCKS_AT, &self.blocks.to_le_bytes());
        put(&mut out, LIVE_AT, &live.to_le_bytes());
        put(&mut out, REMEMBERED_AT, &remembered.to_le_bytes());
        put(&mut out, LINKS_AT, &links.to_le_bytes());
        put(&mut out, API_KEYS_AT, &api_keys.to_le_bytes());
        put(&mut out, DIGEST_AT, &digest.to_le_bytes());
        put(&mut out, BLOCKS_HASH_AT, &self.blocks_hash.to_le_bytes());
        put(&mut out, LENGTH_AT, &self.length.to_le_bytes());
        put(&mut out, LONGEST_AT, &self.longest_block.to_le_bytes());
        let crc = seeded(seed, &[&out[..CRC_AT]]);
        put(&mut out, CRC_AT, &crc.to_le_bytes());
        out
    }

    /// Reads the footer of the file `path`, which is `length` bytes long.
    pub(super) fn decode(
        path: &str,
        length: u64,
        bytes: &[u8; FOOTER_BYTES],
        seed: u32,
    ) -> Result<Self, Bad> {
        let at = length.saturating_sub(FOOTER_BYTES as u64);
        if u32::from_le_bytes(field(bytes, CRC_AT)) != seeded(seed, &[&bytes[..CRC_AT]])
            || &field::<8>(bytes, MAGIC_AT) != FOOTER_MAGIC
        {
            return Err(Bad::damaged(
                path,
                at,
                "its footer does not verify, or its end is missing",
            ));
        }
        let long = |at| u64::from_le_bytes(field(bytes, at));
        if long(LENGTH_AT) != length {
            let reason = format!("its footer says that it is {} bytes long", long(LENGTH_AT));
            return Err(Bad::damaged(path, at, reason));
        }
        Ok(Self {
            blocks: long(BLOCKS_AT),
            fingerprint: Fingerprint {
                live: long(LIVE_AT),
                remembered: long(REMEMBERED_AT),
                links: long(LINKS_AT),
                api_keys: long(API_KEYS_AT),
                digest: u128::from_le_bytes(field(bytes, DIGEST_AT)),
            },
            blocks_hash: u128::from_le_bytes(field(bytes, BLOCKS_HASH_AT)),
            length,
            longest_block: u32::from_le_bytes(field(bytes, LONGEST_AT)),
        })
    }
}

/// CRC of the header that `bytes` begin with, 0 if they are shorter.
pub(super) fn header_crc(bytes: &[u8]) -> u32 {
    bytes.get(..CRC_AT).map_or(0, crc32fast::hash)
}

/// CRC of a block's number, the first fields of its header, and its entries, which are less than 4 GiB.
pub(super) fn block_crc(seed: u32, number: u64, count: u32, entries: &[u8]) -> u32 {
    let length = (entries.len() as u32).to_le_bytes();
    seeded(
        seed,
        &[
            &number.to_le_bytes(),
            &length,
            &count.to_le_bytes(),
            entries,
        ],
    )
}

/// The seed with which a footer of a file of `length` bytes has its CRC; `None` if it is no such footer.
/// A footer that is damaged elsewhere gives a seed with which nothing verifies.
pub(super) fn seed_by_footer(bytes: &[u8; FOOTER_BYTES], length: u64) -> Option<u32> {
    let is_footer = &field::<8>(bytes, MAGIC_AT) == FOOTER_MAGIC
        && u64::from_le_bytes(field(bytes, LENGTH_AT)) == length;
    let crc = u32::from_le_bytes(field(bytes, CRC_AT));
    is_footer.then(|| unseeded(crc, &bytes[..CRC_AT]))
}

/// The same header with another CRC.
pub(super) fn with_crc(mut bytes: [u8; HEADER_BYTES], crc: u32) -> [u8; HEADER_BYTES] {
    put(&mut bytes, CRC_AT, &crc.to_le_bytes());
    bytes
}

/// The seed with which `bytes` have this CRC: CRC-32 run backwards, which is possible since each of its
/// steps can be undone.
fn unseeded(crc: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let mut register = !crc;
    for byte in bytes.iter().rev() {
        for _ in 0..8 {
            // The polynomial's highest bit is set, so a step that used it shows there.
            register = if register >> 31 == 0 {
                register << 1
            } else {
                ((register ^ POLYNOMIAL) << 1) | 1
            };
        }
        register ^= u32::from(*byte);
    }
    !register
}

fn seeded(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Writes a field; offsets are constants within the buffer.
fn put(bytes: &mut [u8; HEADER_BYTES], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// The `N` bytes of a field; offsets are constants within the buffer.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_follows_from_the_crc() {
        let bytes: Vec<u8> = (0..124u32).map(|i| (i * 37 % 251) as u8).collect();
        for length in 0..bytes.len() {
            for seed in [0, 1, 0x8000_0000, 0xDEAD_BEEF, u32::MAX] {
                let bytes = &bytes[..length];
                assert_eq!(unseeded(seeded(seed, &[bytes]), bytes), seed);
            }
        }
    }
}
