//! The checker against tables of what passes and what does not, and against serde_json.

use std::fmt;

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

fn fault(text: &str) -> (Fault, usize) {
    let error = check(text.as_bytes()).expect_err(text);
    (error.what, error.at)
}

#[test]
fn every_kind_of_value_passes_unchanged() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-0.0e-0",
        "29.990",
        "1e400",
        "1E+7",
        "-12.5e-3",
        "123456789012345678901234567890",
        r#""""#,
        r#""a""#,
        "\"\u{7f}\"",
        "\"ä€😀\"",
        r#""\"\\\/\b\f\n\r\t\u00e4\u0000""#,
        r#""\ud83d\ude00\uD83D\uDE00""#,
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[1,2]",
        "[ [ ] , { } ]",
        r#"{"a":{"a":[{"a":1}]},"a":2}"#,
        "[\n1\t,\r2 ]",
        r#"{"a" : "b" , "c":null}"#,
    ] {
        assert_eq!(check(text.as_bytes()), Ok(text));
        let padded = format!(" \t\r\n{text}\n\r\t ");
        assert_eq!(check(padded.as_bytes()), Ok(text));
        assert_eq!(
            check_body(padded.as_bytes()).map(|body| body.text),
            Ok(text)
        );
    }
}

#[test]
fn each_fault_is_named_and_placed() {
    for (text, what, at) in [
        ("", Fault::Ends, 0),
        (" \n", Fault::Ends, 2),
        ("[1", Fault::Ends, 2),
        ("[1,", Fault::Ends, 3),
        ("[", Fault::Ends, 1),
        ("{", Fault::Ends, 1),
        (r#"{"a""#, Fault::Ends, 4),
        (r#"{"a":"#, Fault::Ends, 5),
        (r#"{"a":1"#, Fault::Ends, 6),
        (r#"{"a":1,"#, Fault::Ends, 7),
        (r#""abc"#, Fault::Ends, 4),
        (r#""\"#, Fault::Ends, 2),
        (r#""\u12"#, Fault::Ends, 5),
        ("-", Fault::Ends, 1),
        ("1.", Fault::Ends, 2),
        ("1e", Fault::Ends, 2),
        ("x", Fault::Value, 0),
        ("\u{feff}1", Fault::Value, 0),
        ("\u{a0}1", Fault::Value, 0),
        ("+1", Fault::Value, 0),
        (".5", Fault::Value, 0),
        ("NaN", Fault::Value, 0),
        ("'a'", Fault::Value, 0),
        ("// a\n1", Fault::Value, 0),
        ("[,]", Fault::Value, 1),
        ("[1,]", Fault::Value, 3),
        ("]", Fault::Value, 0),
        (r#"{"a":}"#, Fault::Value, 5),
        ("tru", Fault::Literal, 0),
        ("nul1", Fault::Literal, 0),
        ("faLse", Fault::Literal, 0),
        ("-a", Fault::Number, 1),
        ("1.e5", Fault::Number, 2),
        ("1e+x", Fault::Number, 3),
        ("-.5", Fault::Number, 1),
        ("{a:1}", Fault::Name, 1),
        (r#"{"a":1,}"#, Fault::Name, 7),
        ("[{1:2}]", Fault::Name, 2),
        (r#"{"a" 1}"#, Fault::Colon, 5),
        (r#"[{"a",1}]"#, Fault::Colon, 5),
        ("[1 2]", Fault::ArrayEnd, 3),
        ("[1}", Fault::ArrayEnd, 2),
        ("[01]", Fault::ArrayEnd, 2),
        (r#"{"a":1]"#, Fault::ObjectEnd, 6),
        (r#"[{"a":1 "b":2}]"#, Fault::ObjectEnd, 8),
        ("\"a\n\"", Fault::Control, 2),
        ("\"\0\"", Fault::Control, 1),
        ("\"0123456789\u{1f}\"", Fault::Control, 11),
        (r#""\x""#, Fault::Escape, 2),
        (r#""\U0041""#, Fault::Escape, 2),
        (r#""\u004g""#, Fault::Escape, 6),
        (r#""\u00é9""#, Fault::Escape, 5),
        (r#""\ud83d""#, Fault::Surrogate, 1),
        (r#""\ude00""#, Fault::Surrogate, 1),
        (r#""a\ude00\ud83d""#, Fault::Surrogate, 2),
        (r#""\ud83d\n""#, Fault::Surrogate, 1),
        (r#""\ud83d\ud83d\ude00""#, Fault::Surrogate, 1),
        (r#"{"\udfff":1}"#, Fault::Surrogate, 2),
        ("1 2", Fault::Trailing, 2),
        ("01", Fault::Trailing, 1),
        ("1.5.5", Fault::Trailing, 3),
        ("truex", Fault::Trailing, 4),
        ("{}}", Fault::Trailing, 2),
        ("null\0", Fault::Trailing, 4),
    ] {
        assert_eq!(fault(text), (what, at), "{text:?}");
        let error = check_body(text.as_bytes()).expect_err(text);
        assert_eq!((error.what, error.at), (what, at), "{text:?}");
    }
}

#[test]
fn invalid_utf8_is_refused_where_it_begins() {
    for (bytes, at) in [
        (&b"\"a\xff\""[..], 2),
        (b"\"\xc3\"", 1),
        (b"\"\xed\xa0\xbd\"", 1),
        (b"\"\xc0\xaf\"", 1),
        (b"1\x80", 1),
    ] {
        assert_eq!(
            check(bytes),
            Err(JsonError {
                what: Fault::Utf8,
                at
            })
        );
        assert_eq!(
            check_body(bytes),
            Err(JsonError {
                what: Fault::Utf8,
                at
            })
        );
    }
}

#[test]
fn a_string_may_end_anywhere_in_a_word() {
    for length in 0..40 {
        let plain = "x".repeat(length);
        for (tail, expected) in [
            ("\"", Ok(())),
            ("\\n\"", Ok(())),
            ("é\u{7f}\"", Ok(())),
            ("\u{1f}\"", Err(Fault::Control)),
            ("\\x\"", Err(Fault::Escape)),
            ("", Err(Fault::Ends)),
        ] {
            let text = format!("\"{plain}{tail}");
            let seen = check(text.as_bytes())
                .map(|_| ())
                .map_err(|error| error.what);
            assert_eq!(seen, expected, "{text:?}");
        }
    }
}

#[test]
fn nesting_ends_at_128_levels() {
    let arrays = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| {
        format!(
            "{}{{}}{}",
            r#"{"a":"#.repeat(depth - 1),
            "}".repeat(depth - 1)
        )
    };
    let mixed = |depth: usize| {
        format!("{}{}", r#"[{"a":"#.repeat(depth / 2), "1") + &"}]".repeat(depth / 2)
    };
    for nested in [arrays(128), objects(128), mixed(128)] {
        assert_eq!(check(nested.as_bytes()), Ok(&*nested));
        assert_eq!(
            check_body(nested.as_bytes()).map(|body| body.text),
            Ok(&*nested)
        );
        let wide = format!("[1,{nested}]");
        assert_eq!(fault(&wide).0, Fault::Depth);
        // An envelope is no part of the value, any other object is.
        let enveloped = format!(r#"{{"value":{nested},"ttl":1}}"#);
        assert_eq!(
            check_body(enveloped.as_bytes()).map(|body| body.shape),
            Ok(Shape::Envelope {
                value: &nested,
                ttl: Some("1")
            })
        );
        for bare in [
            format!(r#"{{"a":{nested}}}"#),
            format!(r#"{{"value":{nested},"a":1}}"#),
            format!(r#"{{"ttl":{nested}}}"#),
            format!(r#"{{"value":[{nested}]}}"#),
        ] {
            assert_eq!(
                check_body(bare.as_bytes()).map_err(|error| error.what),
                Err(Fault::Depth),
                "{bare}"
            );
        }
    }
    assert_eq!(fault(&arrays(129)), (Fault::Depth, 128));
    assert_eq!(fault(&"[".repeat(1_000_000)), (Fault::Depth, 128));
    let side_by_side = format!("[{}]", vec![arrays(127); 300].join(","));
    assert_eq!(check(side_by_side.as_bytes()), Ok(&*side_by_side));
}

#[test]
fn bodies_have_one_of_two_forms() {
    let envelope = |value, ttl| Shape::Envelope { value, ttl };
    let bare = |ttl| Shape::Bare { ttl };
    for (text, shape) in [
        ("1", bare(None)),
        ("[]", bare(None)),
        (r#""value""#, bare(None)),
        ("{}", bare(None)),
        (r#"[{"value":1}]"#, bare(None)),
        (r#"{"value":1}"#, envelope("1", None)),
        (r#"{ "value" : [ 1 ] }"#, envelope("[ 1 ]", None)),
        (
            r#"{"value":null,"ttl":null}"#,
            envelope("null", Some("null")),
        ),
        (
            r#"{"ttl":"1h" , "value":{"value":2,"value":3}}"#,
            envelope(r#"{"value":2,"value":3}"#, Some(r#""1h""#)),
        ),
        (r#"{"val\u0075e":1}"#, envelope("1", None)),
        (
            r#"{"\u0076\u0061\u006C\u0075\u0065":1,"\u0074tl":2}"#,
            envelope("1", Some("2")),
        ),
        (r#"{"value":1,"x":2}"#, bare(None)),
        (r#"{"value":1,"x":2,"ttl":3}"#, bare(Some("3"))),
        (r#"{"ttl":60}"#, bare(Some("60"))),
        (r#"{"x":{"ttl":60}}"#, bare(None)),
        (r#"{"Value":1}"#, bare(None)),
        (r#"{"value ":1}"#, bare(None)),
        (r#"{"val\\u0075e":1}"#, bare(None)),
        (r#"{"valu\u00e9":1}"#, bare(None)),
        (r#"{"a":1,"a":2}"#, bare(None)),
    ] {
        assert_eq!(check_body(text.as_bytes()), Ok(Body { text, shape }));
        assert_eq!(
            check_body_text(&format!(" {text} ")),
            Ok(Body { text, shape })
        );
    }
}

#[test]
fn a_doubled_value_or_ttl_at_the_top_is_refused() {
    for (text, name, at) in [
        (r#"{"value":1,"value":2}"#, "value", 11),
        (r#"{"value":1,"x":0, "v\u0061lue":1}"#, "value", 18),
        (r#"{"ttl":1,"ttl":1}"#, "ttl", 9),
        (r#"{"value":1,"ttl":1,"\u0074tl":1}"#, "ttl", 19),
    ] {
        let what = Fault::Doubled(name);
        assert_eq!(
            check_body(text.as_bytes()),
            Err(JsonError { what, at }),
            "{text}"
        );
        assert_eq!(check(text.as_bytes()), Ok(text));
    }
}

#[test]
fn messages_are_sentences_without_input() {
    let error = check_body(br#"{"ttl":1,"ttl":2}"#).unwrap_err();
    let expected = r#"the body is not acceptable JSON: a second member "ttl" at byte 9"#;
    assert_eq!(error.to_string(), expected);
    let error = check(br#"{"secret":1"#).unwrap_err();
    let expected = "the body is not acceptable JSON: the text ends too early at byte 11";
    assert_eq!(error.to_string(), expected);
    let error = check(br#"{"secret":1]"#).unwrap_err();
    let expected = "the body is not acceptable JSON: a comma or } is missing at byte 11";
    assert_eq!(error.to_string(), expected);
}

/// The members of an object as serde_json sees them, in order and with doubles.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What serde_json makes of a text; `None` if it cannot tell (numbers beyond its range).
fn accepted_by_serde(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().contains("out of range") => None,
        Err(_) => Some(false),
    }
}

fn shape_by_serde(text: &str) -> Result<Shape<'_>, ()> {
    let Ok(Members(members)) = serde_json::from_str(text) else {
        return Ok(Shape::Bare { ttl: None });
    };
    let all = |name| {
        members
            .iter()
            .filter(move |(seen, _)| seen == name)
            .map(|(_, raw)| raw.get())
    };
    if all("value").count() > 1 || all("ttl").count() > 1 {
        return Err(());
    }
    let ttl = all("ttl").next();
    let known = all("value").count() + all("ttl").count();
    Ok(match all("value").next() {
        Some(value) if known == members.len() => Shape::Envelope { value, ttl },
        _ => Shape::Bare { ttl },
    })
}

fn agrees_with_serde(bytes: &[u8]) -> Result<(), TestCaseError> {
    let checked = check(bytes);
    if let Some(accepted) = accepted_by_serde(bytes) {
        prop_assert_eq!(
            checked.is_ok(),
            accepted,
            "{:?}: {:?}",
            bytes.escape_ascii(),
            checked
        );
    }
    match (checked, check_body(bytes)) {
        (Ok(text), Ok(body)) => {
            prop_assert_eq!(body.text, text);
            prop_assert_eq!(text, std::str::from_utf8(bytes).unwrap().trim_ascii());
            prop_assert_eq!(Ok(body.shape), shape_by_serde(text));
        }
        (Ok(text), Err(error)) => {
            prop_assert!(matches!(error.what, Fault::Doubled(_)), "{}", error);
            prop_assert_eq!(shape_by_serde(text), Err(()));
        }
        // As a text of its own an envelope is deeper than its value.
        (Err(error), body) => prop_assert!(
            body.is_err() || error.what == Fault::Depth,
            "{:?}",
            bytes.escape_ascii()
        ),
    }
    Ok(())
}

fn document() -> impl Strategy<Value = String> {
    let space = prop::sample::select(vec!["", "", "", " ", "\n", "\t\r "]);
    let string = prop::sample::select(vec![
        r#""value""#,
        r#""ttl""#,
        r#""val\u0075e""#,
        r#""\u0074\u0074l""#,
        r#""""#,
        r#""a""#,
        r#""longer than eight bytes""#,
        r#""\ud83d\ude00é€""#,
        r#""\\\"\/\n""#,
    ]);
    let leaf = prop_oneof![
        string.clone(),
        prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-0.5e+10",
            "1E9",
            "1234567890"
        ]),
    ];
    leaf.prop_map(String::from).prop_recursive(5, 40, 5, move |inner| {
        let member = (space.clone(), string.clone(), space.clone(), inner.clone())
            .prop_map(|(before, name, after, value)| format!("{before}{name}{after}:{after}{value}"));
        let element = (space.clone(), inner)
            .prop_map(|(space, value)| format!("{space}{value}{space}"));
        prop_oneof![
            2 => prop::collection::vec(member, 0..5).prop_map(|all| format!("{{{}}}", all.join(","))),
            1 => prop::collection::vec(element, 0..5).prop_map(|all| format!("[{}]", all.join(","))),
        ]
    })
}

/// A byte that is likely to matter to the grammar.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(b"{}[]:,\"\\ \n0129.eE+-tfnruladD8cC".to_vec()),
        1 => any::<u8>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents_and_near_misses_are_judged_as_serde_json_does(
        document in document(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, byte()), 0..3),
    ) {
        let mut bytes = document.into_bytes();
        agrees_with_serde(&bytes)?;
        for (place, edit, byte) in edits {
            let at = place.index(bytes.len() + 1);
            match edit {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
            agrees_with_serde(&bytes)?;
        }
    }

    #[test]
    fn byte_soup_is_judged_as_serde_json_does(
        bytes in prop::collection::vec(byte(), 0..24),
        quoted in any::<bool>(),
    ) {
        let bytes = if quoted { [b"\"", &*bytes, b"\""].concat() } else { bytes };
        agrees_with_serde(&bytes)?;
    }
}
