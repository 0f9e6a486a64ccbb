//! Any bytes as a snapshot: as they are, and with their checksums made right, without which hardly a
//! mutation would get past the header.

use ekokv::store::fuzzing::{loaded, mend, salvaged, verified, written_again};

fn read(bytes: &[u8]) {
    let found = loaded(bytes);
    assert_eq!(found, verified(bytes), "both readers say the same");
    let saved = salvaged(bytes);
    let Ok(fingerprint) = found else {
        return;
    };
    assert_eq!(saved, Ok((fingerprint, 0)), "what is whole can be saved");
    let again = written_again(bytes).expect("what was read can be written");
    assert_eq!(loaded(&again), Ok(fingerprint), "written again");
    let twice = written_again(&again).expect("what was written can be read");
    assert!(twice == again, "there is one way to write it");
    let mut mended = again.clone();
    mend(&mut mended);
    assert!(mended == again, "nothing is to be mended");
}

pub fn run(bytes: &[u8]) {
    read(bytes);
    let mut mended = bytes.to_vec();
    mend(&mut mended);
    read(&mended);
}
