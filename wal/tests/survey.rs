//! Looking at a segment on its own: whatever is lost of it, the batches that are left are found, and no
//! others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{append, create, options, payloads};
use ekokv_wal::{Mode, Predecessor, Seen, SimDisk, Survey, segment_header, survey};

const SEGMENT_BYTES: u64 = 128 * 1024;
const BLOCK: usize = 4096;
const PATH: &str = "wal/00000000000000000001.wal";

/// A sealed segment of batches of one and of several blocks.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    let options = options(SEGMENT_BYTES, Mode::Always);
    let mut log = create(&disk, &options, &payloads(1, 2, 40));
    for (tag, count, bytes) in [
        (2, 1, 60),
        (3, 20, 450),
        (4, 3, 200),
        (5, 1, 9000),
        (6, 2, 10),
        (7, 1, 1),
    ] {
        append(&mut log, &payloads(tag, count, bytes));
        log.sync().unwrap();
    }
    log.stop(3_000).unwrap();
    disk
}

fn look(disk: &SimDisk, salt: Option<[u8; 16]>, end: Option<&Predecessor>) -> Survey {
    let mut visited = Vec::new();
    let found = survey(disk, PATH, salt, end, &mut |offset, batch| {
        assert!(batch.records().all(|record| record.is_ok()));
        visited.push((offset, batch.number));
    })
    .unwrap();
    let seen: Vec<_> = found
        .batches
        .iter()
        .map(|b| (b.offset, b.after.batch))
        .collect();
    assert_eq!(seen, visited);
    found
}

/// The batches of which no byte lies in the blocks from `from` on that are lost.
fn left(all: &[Seen], end: u64, from: usize, blocks: usize) -> Vec<Seen> {
    let lost = (from * BLOCK) as u64..((from + blocks) * BLOCK) as u64;
    let ends = all.iter().skip(1).map(|b| b.offset).chain([end]);
    let all = all.iter().zip(ends);
    all.filter(|(batch, end)| *end <= lost.start || batch.offset >= lost.end)
        .map(|(batch, _)| *batch)
        .collect()
}

#[test]
fn what_lies_outside_of_lost_blocks_is_found_whatever_is_lost() {
    let disk = disk();
    let whole = disk.content(PATH).unwrap();
    let (header, _) = segment_header(&disk, PATH).unwrap();
    let all = look(&disk, None, None);
    assert!(all.damage.is_empty() && all.torn.is_none() && all.batches.len() == 8);
    let last = all.batches.last().unwrap();
    let end = last.offset + BLOCK as u64;
    let named = Predecessor {
        number: 1,
        salt: header.salt,
        end,
        position: last.after,
    };
    let mut cases = 0;
    for blocks in 1..4 {
        for from in 0..(end as usize / BLOCK) - blocks {
            let mut bytes = whole.clone();
            bytes[from * BLOCK..(from + blocks) * BLOCK].fill(0);
            disk.set_content(PATH, bytes);
            let expected = left(&all.batches, end, from, blocks);
            // As the newest segment, and as one whose end is known.
            for end in [None, Some(&named)] {
                let found = look(&disk, Some(header.salt), end);
                assert_eq!(found.batches, expected, "{blocks} blocks from {from}");
                assert!(!found.damage.is_empty(), "{blocks} blocks from {from}");
                cases += 1;
            }
            // Without a salt nothing verifies.
            if from == 0 {
                assert!(look(&disk, None, None).batches.is_empty());
            }
        }
    }
    println!("{cases} holes, and each time exactly the batches beside them");
}

#[test]
fn what_a_crash_leaves_behind_a_torn_batch_is_not_handed_on() {
    let disk = SimDisk::new();
    let options = options(SEGMENT_BYTES, Mode::Os);
    let mut log = create(&disk, &options, &payloads(1, 2, 40));
    let before = log.position();
    for tag in 2..5 {
        // No sync: the disk may write them in any order.
        append(&mut log, &payloads(tag, 1, 60));
    }
    let mut bytes = disk.content(PATH).unwrap();
    bytes[2 * BLOCK..3 * BLOCK].fill(0);
    disk.set_content(PATH, bytes);
    let found = look(&disk, None, None);
    assert_eq!(found.batches.last().unwrap().after, before);
    assert!(found.torn.is_some() && found.damage.is_empty(), "{found:?}");
}
