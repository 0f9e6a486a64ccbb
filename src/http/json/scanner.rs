//! One pass over a text by the grammar of RFC 8259: each step passes one piece of it, or says what
//! is wrong and where.

use super::{DEPTH_MAX, Fault, JsonError};

/// The arrays and objects around a place, innermost last: a bit each, set for an object.
struct Nest {
    bits: u128,
    depth: u32,
}

const _: () = assert!(DEPTH_MAX == u128::BITS, "one bit for each level");

impl Nest {
    fn push(&mut self, is_object: bool) -> Result<(), Fault> {
        if self.depth == DEPTH_MAX {
            return Err(Fault::Depth);
        }
        self.bits = self.bits << 1 | u128::from(is_object);
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.bits >>= 1;
        self.depth -= 1;
    }

    fn in_object(&self) -> bool {
        self.bits & 1 == 1
    }
}

/// A place in a text. `at` is never behind its end, and between tokens it is at an ASCII character
/// or the end, thus between characters.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// The first bracket [`DEPTH_MAX`] levels deep in its value.
    full: Option<usize>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            full: None,
        }
    }

    /// The place, in bytes from the beginning of the text.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.peek() == Some(byte);
        self.at += usize::from(eaten);
        eaten
    }

    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn fail<T>(&self, what: Fault) -> Result<T, JsonError> {
        let what = if self.at == self.text.len() {
            Fault::Ends
        } else {
            what
        };
        Err(JsonError { what, at: self.at })
    }

    pub(super) fn require(&mut self, byte: u8, what: Fault) -> Result<(), JsonError> {
        if self.eat(byte) {
            Ok(())
        } else {
            self.fail(what)
        }
    }

    pub(super) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Ends the text; returns the value that began at `start`.
    pub(super) fn end(mut self, start: usize) -> Result<&'a str, JsonError> {
        let value = self.since(start);
        self.space();
        if self.at == self.text.len() {
            Ok(value)
        } else {
            self.fail(Fault::Trailing)
        }
    }

    /// Where values have begun to be as deep as they may be, since the last call: around them there
    /// is no room for another level.
    pub(super) fn take_full(&mut self) -> Option<usize> {
        self.full.take()
    }

    /// Passes one value and the space before it.
    pub(super) fn value(&mut self) -> Result<(), JsonError> {
        let mut nest = Nest { bits: 0, depth: 0 };
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(bracket @ (b'{' | b'[')) => {
                    let is_object = bracket == b'{';
                    nest.push(is_object).or_else(|what| self.fail(what))?;
                    if nest.depth == DEPTH_MAX {
                        self.full.get_or_insert(self.at);
                    }
                    self.at += 1;
                    self.space();
                    if !self.eat(if is_object { b'}' } else { b']' }) {
                        if is_object {
                            self.name()?;
                        }
                        continue;
                    }
                    nest.pop();
                }
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return self.fail(Fault::Value),
            }
            loop {
                if nest.depth == 0 {
                    return Ok(());
                }
                self.space();
                let in_object = nest.in_object();
                if self.eat(b',') {
                    if in_object {
                        self.space();
                        self.name()?;
                    }
                    break;
                }
                if in_object {
                    self.require(b'}', Fault::ObjectEnd)?;
                } else {
                    self.require(b']', Fault::ArrayEnd)?;
                }
                nest.pop();
            }
        }
    }

    /// Passes a member's name and the colon; returns the name in its quotation marks, and whether
    /// there are escapes in it.
    pub(super) fn name(&mut self) -> Result<(&'a str, bool), JsonError> {
        if self.peek() != Some(b'"') {
            return self.fail(Fault::Name);
        }
        let start = self.at;
        let escaped = self.string()?;
        let quoted = self.since(start);
        self.space();
        self.require(b':', Fault::Colon)?;
        Ok((quoted, escaped))
    }

    /// Passes a string, and tells whether there are escapes in it.
    fn string(&mut self) -> Result<bool, JsonError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.plain();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.fail(Fault::Control),
            }
        }
    }

    /// Passes what may stand in a string as it is, eight bytes at a time.
    fn plain(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let (words, tail) = rest.as_chunks::<8>();
        for word in words {
            let special = special_bytes(u64::from_le_bytes(*word));
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        self.at += tail
            .iter()
            .take_while(|byte| !matches!(byte, b'"' | b'\\' | 0x00..0x20))
            .count();
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                let lone = match self.hex4()? {
                    0xD800..0xDC00 => {
                        !(self.eat(b'\\')
                            && self.eat(b'u')
                            && matches!(self.hex4()?, 0xDC00..0xE000))
                    }
                    0xDC00..0xE000 => true,
                    _ => false,
                };
                if lone {
                    Err(JsonError {
                        what: Fault::Surrogate,
                        at: start,
                    })
                } else {
                    Ok(())
                }
            }
            _ => self.fail(Fault::Escape),
        }
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            match self.peek().and_then(|byte| char::from(byte).to_digit(16)) {
                Some(digit) => unit = unit << 4 | digit,
                None => return self.fail(Fault::Escape),
            }
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            self.fail(Fault::Number)
        } else {
            Ok(())
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), JsonError> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(JsonError {
                what: Fault::Literal,
                at: self.at,
            })
        }
    }
}

/// Marks with its highest bit each byte that ends the plain part of a string: quotation marks,
/// backslashes and control characters. Bytes behind the first marked one may be marked wrongly, as
/// the subtractions borrow from them.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let quote = below(word ^ (ONES * 0x22), 1);
    let backslash = below(word ^ (ONES * 0x5C), 1);
    (quote | backslash | below(word, 0x20)) & (ONES * 0x80)
}
