//! What the fuzz target of snapshots drives, for the readers are private to this room and a fuzz target is
//! a program of its own. Not part of what the crate offers; nothing else calls it.

use std::sync::Arc;

use ekokv_wal::{Disk, SimDisk};
use xxhash_rust::xxh3::Xxh3;

use super::block::Entries;
use super::format::{
    BLOCK_HEADER_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, Header, block_crc, header_crc,
};
use super::{Bad, Scan, Writer, load, path_of, read_parts, verify};
use crate::state::{Fingerprint, Recorded, State};

const STORE_AT: std::ops::Range<usize> = 16..32;

/// What any bytes hold as a snapshot, read into a state.
///
/// # Errors
/// What is wrong with them.
pub fn loaded(bytes: &[u8]) -> Result<Fingerprint, String> {
    let mut store_id = [0; 16];
    if let Some(named) = bytes.get(STORE_AT) {
        store_id.copy_from_slice(named);
    }
    let (disk, path) = on_disk(bytes);
    let found = load(disk.as_ref(), &path, store_id, 1_000, &|_, _| {});
    found
        .map(|(_, _, state)| state.fingerprint())
        .map_err(|bad| bad.to_string())
}

/// The same, read through without building anything.
///
/// # Errors
/// What is wrong with them.
pub fn verified(bytes: &[u8]) -> Result<Fingerprint, String> {
    let (disk, path) = on_disk(bytes);
    let disk: Arc<dyn Disk> = disk;
    match verify(&disk, &path, &mut |_| true) {
        Ok(Some((_, footer))) => Ok(footer.fingerprint),
        Ok(None) => Err("it was not read to its end".to_owned()),
        Err(bad) => Err(bad.to_string()),
    }
}

/// What can be saved of them block by block, and how many gaps there are in it.
///
/// # Errors
/// Why nothing can.
pub fn salvaged(bytes: &[u8]) -> Result<(Fingerprint, usize), String> {
    let (disk, path) = on_disk(bytes);
    let mut fingerprint = Fingerprint::default();
    let mut scratch = Vec::new();
    let parts = read_parts(disk.as_ref(), &path, &mut |key| {
        fingerprint.add(&mut scratch, &key.key, key.kept.by_ref());
    });
    let parts = parts.map_err(|bad| bad.to_string())?;
    fingerprint.add_keyring(&parts.keyring);
    Ok((fingerprint, parts.gaps.len()))
}

/// The snapshot that the writer makes of what these bytes hold.
///
/// # Errors
/// What is wrong with them.
pub fn written_again(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (header, keys, secrets) = scanned(bytes).map_err(|bad| bad.to_string())?;
    let (disk, path) = on_disk(&[]);
    let simulated = disk.clone();
    let disk: Arc<dyn Disk> = disk;
    let wrong = |error: ekokv_wal::Error| error.to_string();
    let mut writer = Writer::create(&disk, &path, &header, secrets.keyring()).map_err(wrong)?;
    for key in &keys {
        writer.push(key).map_err(wrong)?;
    }
    writer.finish().map_err(wrong)?;
    Ok(simulated.content(&path).unwrap_or_default())
}

/// Makes the checksums of a mutated snapshot right, as far as its structure can be followed: header,
/// blocks, secrets, values, links, footer with its counts and its fingerprint. Without this hardly a
/// mutation would get past the header.
pub fn mend(bytes: &mut [u8]) {
    let length = bytes.len();
    let Some(footer_at) = length
        .checked_sub(FOOTER_BYTES)
        .filter(|at| *at >= HEADER_BYTES)
    else {
        return;
    };
    let seed = header_crc(bytes);
    put(bytes, HEADER_BYTES - 4, &seed.to_le_bytes());
    let mut at = HEADER_BYTES;
    let mut blocks = 0;
    let mut longest_block = 0;
    let mut hash = Xxh3::new();
    while let Some(entries_at) = at
        .checked_add(BLOCK_HEADER_BYTES)
        .filter(|end| *end <= footer_at)
    {
        let field = |at: usize| {
            bytes
                .get(at..at + 4)
                .and_then(|field| field.try_into().ok())
        };
        let (Some(span), Some(count)) = (field(at), field(at + 4)) else {
            break;
        };
        // The last block takes what is left, lest a wrong length hide all that is behind it.
        let span = (u32::from_le_bytes(span) as usize).min(footer_at - entries_at);
        put(bytes, at, &(span as u32).to_le_bytes());
        if let Some(entries) = bytes.get_mut(entries_at..entries_at + span) {
            Entries::mend(entries, u32::from_le_bytes(count));
        }
        let entries = bytes.get(entries_at..entries_at + span).unwrap_or_default();
        let crc = block_crc(seed, blocks, u32::from_le_bytes(count), entries).to_le_bytes();
        hash.update(&crc);
        put(bytes, at + 8, &crc);
        at = entries_at + span;
        longest_block = longest_block.max(span as u32);
        blocks += 1;
    }
    // First any footer, then the one that names what is there.
    for _ in 0..2 {
        let footer = Footer {
            blocks,
            fingerprint: held(bytes),
            blocks_hash: hash.digest128(),
            length: length as u64,
            longest_block,
        };
        put(bytes, footer_at, &footer.encode(seed));
    }
}

/// What the entries add up to, whatever the footer says of them.
fn held(bytes: &[u8]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    if let Ok((_, keys, secrets)) = scanned(bytes) {
        fingerprint.add_keyring(secrets.keyring());
        let mut scratch = Vec::new();
        for key in &keys {
            fingerprint.add(&mut scratch, &key.key, key.kept.by_ref());
        }
    }
    fingerprint
}

fn scanned(bytes: &[u8]) -> Result<(Header, Vec<Recorded>, State), Bad> {
    let (disk, path) = on_disk(bytes);
    let mut scan = Scan::open(disk.as_ref(), &path)?;
    let mut keys = Vec::new();
    while let Some(key) = scan.next()? {
        keys.push(key);
    }
    let secrets = State::new(0).with_keyring(scan.keyring().clone());
    Ok((*scan.header(), keys, secrets))
}

fn on_disk(bytes: &[u8]) -> (Arc<SimDisk>, String) {
    let disk = SimDisk::new();
    let path = path_of(1);
    disk.set_content(&path, bytes.to_vec());
    (Arc::new(disk), path)
}

/// Writes a field, if there is room for it.
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}
