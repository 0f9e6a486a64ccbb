//! Requests: one text, into which the key and the value of each are patched.

use clap::ValueEnum;

use crate::keys::{Draw, Keys};

/// What is asked of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Op {
    /// ekokv: the value of a key
    Get,
    /// ekokv: a new value for a key
    Set,
    /// ekokv: new values for many keys
    BatchSet,
    /// Webdis: GET
    WebdisGet,
    /// Webdis: SET, the value as the body
    WebdisSet,
    /// etcd's JSON gateway: put
    EtcdPut,
    /// etcd's JSON gateway: range of one key
    EtcdRange,
    /// The bare server: to the byte what `get` sends
    BareGet,
    /// The bare server: to the byte what `set` sends
    BareSet,
}

impl Op {
    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(crate) fn keys_per_request(self, batch: u32) -> f64 {
        match self {
            Self::BatchSet => f64::from(batch),
            _ => 1.0,
        }
    }
}

const KEY_PREFIX: &[u8] = b"key:";
const KEY_DIGITS: usize = 12;
/// Bytes of a key, as redis-benchmark makes them.
const KEY_BYTES: usize = KEY_PREFIX.len() + KEY_DIGITS;

/// What values and Base64 are made of: 64 letters that mean nothing in JSON.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What is patched into a text, and where it begins.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Key(usize),
    Value(usize),
    KeyBase64(usize),
    ValueBase64(usize),
}

impl Slot {
    fn shifted(self, by: usize) -> Self {
        match self {
            Self::Key(at) => Self::Key(at + by),
            Self::Value(at) => Self::Value(at + by),
            Self::KeyBase64(at) => Self::KeyBase64(at + by),
            Self::ValueBase64(at) => Self::ValueBase64(at + by),
        }
    }
}

/// A text under construction.
#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Text {
    fn add(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn slot(&mut self, slot: impl FnOnce(usize) -> Slot, bytes: usize) {
        self.slots.push(slot(self.bytes.len()));
        self.bytes.resize(self.bytes.len() + bytes, b'0');
    }

    fn append(&mut self, other: &Self) {
        let by = self.bytes.len();
        self.slots
            .extend(other.slots.iter().map(|slot| slot.shifted(by)));
        self.bytes.extend_from_slice(&other.bytes);
    }
}

/// The requests of a run.
#[derive(Debug)]
pub(crate) struct Requests {
    text: Text,
    /// A value while it is made.
    value: Vec<u8>,
}

impl Requests {
    /// For the server at `host`, with a token if it is not empty.
    pub(crate) fn new(op: Op, host: &str, token: &str, value_bytes: usize, batch: usize) -> Self {
        let value_bytes = value_bytes.max(2);
        let mut body = Text::default();
        let (method, path, path_has_key) = match op {
            Op::Get | Op::BareGet => ("GET", "/api/kv/get/", true),
            Op::WebdisGet => ("GET", "/GET/", true),
            Op::Set | Op::BareSet => {
                body.slot(Slot::Value, value_bytes);
                ("POST", "/api/kv/set/", true)
            }
            Op::WebdisSet => {
                body.slot(Slot::Value, value_bytes);
                ("PUT", "/SET/", true)
            }
            Op::BatchSet => {
                let list = |body: &mut Text, item: &mut dyn FnMut(&mut Text)| {
                    for index in 0..batch {
                        body.add(if index == 0 { "" } else { "," });
                        item(body);
                    }
                };
                body.add(r#"{"keys":["#);
                list(&mut body, &mut |body| {
                    body.add("\"");
                    body.slot(Slot::Key, KEY_BYTES);
                    body.add("\"");
                });
                body.add(r#"],"values":["#);
                list(&mut body, &mut |body| body.slot(Slot::Value, value_bytes));
                body.add("]}");
                ("POST", "/api/kv/batch/set", false)
            }
            Op::EtcdPut => {
                body.add(r#"{"key":""#);
                body.slot(Slot::KeyBase64, base64_bytes(KEY_BYTES));
                body.add(r#"","value":""#);
                body.slot(Slot::ValueBase64, base64_bytes(value_bytes));
                body.add(r#""}"#);
                ("POST", "/v3/kv/put", false)
            }
            Op::EtcdRange => {
                body.add(r#"{"key":""#);
                body.slot(Slot::KeyBase64, base64_bytes(KEY_BYTES));
                body.add(r#""}"#);
                ("POST", "/v3/kv/range", false)
            }
        };
        let mut text = Text::default();
        text.add(&format!("{method} {path}"));
        if path_has_key {
            text.slot(Slot::Key, KEY_BYTES);
        }
        text.add(&format!(" HTTP/1.1\r\nHost: {host}\r\n"));
        if !token.is_empty() {
            text.add(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.bytes.is_empty() {
            let length = body.bytes.len();
            text.add(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        text.add("\r\n");
        text.append(&body);
        Self {
            text,
            value: vec![b'"'; value_bytes],
        }
    }

    /// The next request.
    pub(crate) fn next(&mut self, keys: &mut Keys) -> &[u8] {
        let Self { text, value } = self;
        for slot in &text.slots {
            match *slot {
                Slot::Key(at) => put(&mut text.bytes, at, &key(keys.next())),
                Slot::KeyBase64(at) => put_base64(&mut text.bytes, at, &key(keys.next())),
                Slot::Value(at) => {
                    fill(value, keys.draw());
                    put(&mut text.bytes, at, value);
                }
                Slot::ValueBase64(at) => {
                    fill(value, keys.draw());
                    put_base64(&mut text.bytes, at, value);
                }
            }
        }
        &text.bytes
    }
}

/// The key with this number.
fn key(mut number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'0'; KEY_BYTES];
    let (prefix, digits) = key.split_at_mut(KEY_PREFIX.len());
    prefix.copy_from_slice(KEY_PREFIX);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// Draws the letters between a value's quotes.
fn fill(value: &mut [u8], draw: &mut Draw) {
    let Some(inner) = value
        .len()
        .checked_sub(1)
        .and_then(|end| value.get_mut(1..end))
    else {
        return;
    };
    // Six bits a letter: ten of them from each draw.
    for letters in inner.chunks_mut(10) {
        let mut bits = draw.next();
        for letter in letters {
            *letter = LETTERS[(bits & 63) as usize];
            bits >>= 6;
        }
    }
}

fn put(bytes: &mut [u8], at: usize, text: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + text.len()) {
        place.copy_from_slice(text);
    }
}

fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Base64 as in RFC 4648, padded.
fn put_base64(bytes: &mut [u8], at: usize, text: &[u8]) {
    let Some(place) = bytes.get_mut(at..at + base64_bytes(text.len())) else {
        return;
    };
    for (place, three) in place.chunks_exact_mut(4).zip(text.chunks(3)) {
        let byte = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (index, letter) in place.iter_mut().enumerate() {
            *letter = if index <= three.len() {
                LETTERS[(bits >> (18 - 6 * index) & 63) as usize]
            } else {
                b'='
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Order;

    fn requests(op: Op, count: usize) -> Vec<String> {
        let mut requests = Requests::new(op, "h:1", "T", 60, 2);
        let mut keys = Keys::new(Order::Sequential, 10, 1);
        (0..count)
            .map(|_| String::from_utf8(requests.next(&mut keys).to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_get_names_its_key_and_carries_the_token() {
        let two = requests(Op::Get, 2);
        for (request, key) in two.iter().zip(["key:000000000000", "key:000000000001"]) {
            let expected = format!(
                "GET /api/kv/get/{key} HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer T\r\n\r\n"
            );
            assert_eq!(*request, expected);
        }
    }

    #[test]
    fn each_set_has_a_json_string_of_its_own_of_just_the_size() {
        let three = requests(Op::Set, 3);
        let bodies: Vec<&str> = three
            .iter()
            .map(|request| request.split_once("\r\n\r\n").unwrap().1)
            .collect();
        for (request, body) in three.iter().zip(&bodies) {
            assert!(request.contains("\r\nContent-Length: 60\r\n"), "{request}");
            assert_eq!(body.len(), 60);
            assert!(serde_json::from_str::<String>(body).is_ok(), "{body}");
        }
        assert!(bodies[0] != bodies[1] && bodies[1] != bodies[2]);
    }

    #[test]
    fn a_batch_has_as_many_values_as_keys() {
        let batch = requests(Op::BatchSet, 1).remove(0);
        let (head, body) = batch.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body["keys"],
            serde_json::json!(["key:000000000000", "key:000000000001"])
        );
        assert_eq!(body["values"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, encoded) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut place = vec![0; encoded.len()];
            put_base64(&mut place, 0, text.as_bytes());
            assert_eq!(String::from_utf8(place).unwrap(), encoded);
        }
    }

    #[test]
    fn the_bare_server_is_asked_what_the_real_one_is() {
        assert_eq!(requests(Op::BareGet, 3), requests(Op::Get, 3));
        assert_eq!(requests(Op::BareSet, 3), requests(Op::Set, 3));
    }
}
