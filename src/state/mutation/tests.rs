use proptest::prelude::*;

use super::*;

fn put<'a>(key: &'a str, value: &'static [u8], form: Form, deadline: Option<u64>) -> Mutation<'a> {
    Mutation::Put {
        key,
        value: value.into(),
        form,
        deadline,
    }
}

fn encoded(mutation: &Mutation<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    mutation.encode(&mut out);
    out
}

#[test]
fn the_bytes_are_these() {
    let digest: KeyDigest = std::array::from_fn(|at| at as u8);
    let golden: [(Mutation<'_>, Vec<u8>); 15] = [
        (
            put("k", b"[1]", Form::Bare, None),
            b"\x01\x00\x01\x00k[1]".to_vec(),
        ),
        (
            put("k", b"1", Form::Envelope, None),
            b"\x01\x01\x01\x00k1".to_vec(),
        ),
        (
            put("\u{e4}b", b"\"x\"", Form::Bare, Some(0x0102_0304_0506_0708)),
            b"\x01\x02\x08\x07\x06\x05\x04\x03\x02\x01\x03\x00\xc3\xa4b\"x\"".to_vec(),
        ),
        (
            put("k", b"0", Form::Envelope, Some(1)),
            b"\x01\x03\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00k0".to_vec(),
        ),
        (Mutation::Delete { key: "a/b" }, b"\x02a/b".to_vec()),
        (Mutation::Clear, b"\x03".to_vec()),
        (
            Mutation::Link {
                key: "k",
                collection: "users",
                record_id: "\u{e4}",
                metadata: Some(Bytes::from_static(b"{\"a\":1.0}")),
                created_at: 0x0102_0304_0506_0708,
            },
            b"\x04\x08\x07\x06\x05\x04\x03\x02\x01\x01\x00k\x05\x00users\x02\x00\xc3\xa4{\"a\":1.0}"
                .to_vec(),
        ),
        (
            Mutation::Link {
                key: "k",
                collection: "c",
                record_id: "1",
                metadata: None,
                created_at: 1,
            },
            b"\x04\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00k\x01\x00c\x01\x001".to_vec(),
        ),
        (
            Mutation::Unlink {
                key: "k",
                collection: "users",
                record_id: "7",
            },
            b"\x05\x01\x00k\x05\x00users7".to_vec(),
        ),
        (Mutation::Expire { key: "k" }, b"\x06k".to_vec()),
        (Mutation::Forget { key: "k" }, b"\x07k".to_vec()),
        (
            Mutation::HashingKey {
                hashing_key: digest,
            },
            [&[8], &digest[..]].concat(),
        ),
        (
            Mutation::ApiKey {
                id: "root",
                role: Role::Admin,
                digest,
            },
            [&b"\x09\x01"[..], &digest, b"root"].concat(),
        ),
        (
            Mutation::ApiKey {
                id: "u",
                role: Role::User,
                digest,
            },
            [&b"\x09\x02"[..], &digest, b"u"].concat(),
        ),
        (Mutation::ApiKeyRemoved { id: "root" }, b"\x0aroot".to_vec()),
    ];
    for (mutation, bytes) in &golden {
        assert_eq!(&encoded(mutation), bytes, "{mutation:?}");
        assert_eq!(mutation.encoded_len(), bytes.len(), "{mutation:?}");
        assert_eq!(Mutation::decode(bytes).as_ref(), Ok(mutation));
        match mutation {
            Mutation::Put {
                key,
                value,
                form,
                deadline,
            } => {
                let crc = put_crc(key, value, *form, *deadline);
                assert_eq!(crc, crc32fast::hash(bytes), "{mutation:?}");
            }
            Mutation::Link {
                key,
                collection,
                record_id,
                metadata,
                created_at,
            } => {
                let link = Link {
                    collection: (*collection).into(),
                    record_id: (*record_id).into(),
                    metadata: metadata.clone(),
                    created_at: *created_at,
                };
                assert_eq!(link_crc(key, &link), crc32fast::hash(bytes), "{mutation:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn encode_appends() {
    let mut out = b"before".to_vec();
    Mutation::Clear.encode(&mut out);
    assert_eq!(out, b"before\x03");
}

#[test]
fn what_encode_cannot_produce_is_refused() {
    let short = |field| DecodeError::Short { field };
    let invalid = |field| DecodeError::Invalid { field };
    for (bytes, error) in [
        (&b""[..], short("kind")),
        (b"\x01", short("flags")),
        (b"\x01\x04\x01\x00k1", invalid("flags")),
        (b"\x01\x80\x01\x00k1", invalid("flags")),
        (b"\x01\x02\x01\x00\x00\x00\x00\x00\x00", short("deadline")),
        (b"\x01\x00\x01", short("key length")),
        (b"\x01\x00\x02\x00k", short("key")),
        (b"\x01\x00\xff\xffk", short("key")),
        (b"\x01\x00\x00\x001", short("key")),
        (b"\x01\x00\x01\x00\xff1", invalid("key")),
        (b"\x01\x00\x01\x00k", short("value")),
        (b"\x02", short("key")),
        (b"\x02\xc3", invalid("key")),
        (b"\x03x", DecodeError::Trailing { bytes: 1 }),
        (b"\x06", short("key")),
        (b"\x07", short("key")),
        (&[8; 32], short("hashing key")),
        (&[8; 34], DecodeError::Trailing { bytes: 1 }),
        (b"\x09", short("role")),
        (b"\x09\x00", invalid("role")),
        (b"\x09\x03", invalid("role")),
        (b"\x09\x01short", short("digest")),
        (&[&b"\x09\x01"[..], &[0; 32]].concat(), short("id")),
        (b"\x0a", short("id")),
    ] {
        assert_eq!(
            Mutation::decode(bytes),
            Err(error),
            "{}",
            bytes.escape_ascii()
        );
    }
    for named in [2, 6, 7, 10] {
        let mut bytes = vec![b'k'; KEY_BYTES_MAX + 1];
        bytes[0] = named;
        assert!(Mutation::decode(&bytes).is_ok(), "kind {named}");
        bytes.push(b'k');
        assert!(Mutation::decode(&bytes).is_err(), "kind {named}");
    }
}

#[test]
fn unknown_kinds_name_themselves() {
    for kind in [0].into_iter().chain(11..=u8::MAX) {
        let error = Mutation::decode(&[kind, b'k']).unwrap_err();
        assert_eq!(error, DecodeError::UnknownKind { kind });
        let message = error.to_string();
        assert!(message.contains(&format!("kind {kind} ")), "{message}");
        assert!(message.contains("newer version of ekokv"), "{message}");
    }
}

#[test]
fn the_longest_key_fits() {
    let key = "k".repeat(KEY_BYTES_MAX);
    let bytes = encoded(&put(&key, b"1", Form::Bare, None));
    assert_eq!(
        Mutation::decode(&bytes),
        Ok(put(&key, b"1", Form::Bare, None))
    );
}

#[test]
fn lengths_that_do_not_fit_never_reach_the_log() {
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    for mutation in [
        put("", b"1", Form::Bare, None),
        put(&long, b"1", Form::Bare, None),
        put("k", b"", Form::Bare, None),
        Mutation::Delete { key: &long },
        Mutation::ApiKeyRemoved { id: "" },
        Mutation::ApiKey {
            id: &long,
            role: Role::User,
            digest: [0; 32],
        },
    ] {
        let encoded = std::panic::catch_unwind(|| encoded(&mutation));
        assert!(encoded.is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn puts_survive(
        key in ".{1,20}",
        value in prop::collection::vec(any::<u8>(), 1..50),
        envelope in any::<bool>(),
        deadline in any::<Option<u64>>(),
    ) {
        let form = if envelope { Form::Envelope } else { Form::Bare };
        let mutation = Mutation::Put { key: &key, value: value.as_slice().into(), form, deadline };
        let bytes = encoded(&mutation);
        prop_assert_eq!(bytes.len(), mutation.encoded_len());
        prop_assert_eq!(Mutation::decode(&bytes), Ok(mutation));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        kind in 0..12_u8,
        second in 0..5_u8,
        length in 0..4_u8,
        rest in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        for bytes in [
            [&[kind], &*rest].concat(),
            [&[kind, second], &*rest].concat(),
            [&[kind, second & 1, length, 0], &*rest].concat(),
        ] {
            if let Ok(mutation) = Mutation::decode(&bytes) {
                prop_assert_eq!(encoded(&mutation), bytes);
            }
        }
    }
}
