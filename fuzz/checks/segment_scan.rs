//! Any bytes as a log segment: as they are, and with their checksums made right, without which hardly
//! a mutation would get past the first cell.

use ekokv_wal::{BLOCK_BYTES, rewrite_checksums, scan_segment};

/// Offset of the salt in a segment's header.
const SALT_AT: usize = 40;

fn scan(bytes: &[u8]) {
    let mut next = BLOCK_BYTES as u64;
    let mut batch_before = None;
    let scanned = scan_segment(bytes, |offset, batch| {
        assert_eq!(offset, next, "batches lie one behind the other");
        next += ekokv_wal::span_of_records(batch.records.len() as u64);
        assert!(next <= bytes.len() as u64 + BLOCK_BYTES as u64);
        assert!(batch_before.is_none_or(|before| batch.number == before + 1));
        batch_before = Some(batch.number);
        let mut count = 0u64;
        for record in batch.records() {
            // A record that does not parse ends the iteration; a start would refuse it.
            if record.is_err() {
                return;
            }
            count += 1;
        }
        assert_eq!(count, u64::from(batch.count));
    });
    if let Ok((_, end, _)) = &scanned {
        assert_eq!(*end, next);
    }
    let again = scan_segment(bytes, |_, _| {});
    assert_eq!(
        again.is_ok(),
        scanned.is_ok(),
        "reading again gives the same"
    );
}

pub fn run(bytes: &[u8]) {
    scan(bytes);
    let salt: [u8; 16] = bytes
        .get(SALT_AT..SALT_AT + 16)
        .and_then(|salt| salt.try_into().ok())
        .unwrap_or_default();
    let mut mended = bytes.to_vec();
    rewrite_checksums(&mut mended, 2, b"ekokv segment header", &salt);
    scan(&mended);
}
