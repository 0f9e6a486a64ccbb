//! Any bytes as a mutation: what is accepted encodes to the same bytes and can be applied.

use ekokv::state::{Mutation, State};

pub fn run(bytes: &[u8]) {
    let Ok(mutation) = Mutation::decode(bytes) else {
        return;
    };
    assert_eq!(mutation.encoded_len(), bytes.len());
    let mut encoded = Vec::new();
    mutation.encode(&mut encoded);
    assert_eq!(encoded, bytes);
    let mut state = State::new(1_000);
    let _ = state.apply(1, &mutation);
    let _ = state.due(u64::MAX, 16);
    state.released(1);
}
