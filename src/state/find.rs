//! Find: which keys are looked for, and one slice of the way through them.
//!
//! - A slice ends after some time, entries or bytes; the next one resumes behind the last key it
//!   looked at, so a key that is there throughout is found exactly once.
//! - What is known of a key's beginning bounds the range that is walked.
//! - The answer names the sequence it depends on, absences included.
//! - Matching a pattern against one key takes linear time, and yet up to a tenth of a second where
//!   both are as long as they may be. So the walk through the state leaves patterns out:
//!   [`Query::narrow`] applies them to what it found, wherever nobody waits.

use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use regex::{Regex, RegexBuilder};

use super::entry::{KEY_BYTES_MAX, Key};
use super::map::{Shown, State};

/// After so many entries it is asked whether the time is over.
const ENTRIES_PER_LOOK: usize = 32;
/// A slice ends with so many records, or with so many bytes of keys and values.
const SLICE_RECORDS_MAX: usize = 1_000;
const SLICE_BYTES_MAX: usize = 256 << 10;
/// One view may look at so many entries.
const ATOMIC_ENTRIES_MAX: usize = 4_000;
/// One view may find so many records.
const ATOMIC_LIMIT_MAX: u64 = 1_000;

/// The longest pattern or glob, in bytes.
pub const PATTERN_BYTES_MAX: usize = 4 << 10;
/// The most memory that a compiled pattern may take, and its cache as much again.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// What is looked for; all that is given must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The key begins so.
    pub prefix: Option<String>,
    /// The key ends so.
    pub suffix: Option<String>,
    /// The key has this somewhere.
    pub contains: Option<String>,
    /// A regular expression that matches somewhere in the key.
    pub pattern: Option<String>,
    /// `*`, `?`, `[a-z]`, `[!a-z]` and `\` for the whole key.
    pub glob: Option<String>,
    /// At most so many records.
    pub limit: Option<u64>,
    /// So many are passed over first.
    pub offset: u64,
    /// Keys behind this one only; with `reverse`, keys before it.
    pub after: Option<String>,
    /// From the last key to the first.
    pub reverse: bool,
    /// No values.
    pub keys_only: bool,
    /// Also keys that have expired and are remembered.
    pub include_expired: bool,
}

/// Why a filter cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The pattern or the glob is longer than [`PATTERN_BYTES_MAX`], or another text than any key.
    #[error("the {what} has {length} bytes and at most {limit} are possible")]
    TooLong {
        /// The member.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// The pattern would take too much memory.
    #[error("the {what} is too large once it is compiled")]
    TooLarge {
        /// `pattern` or `glob`.
        what: &'static str,
    },
    /// The pattern does not parse.
    #[error("the {what} is not valid: {reason}")]
    Invalid {
        /// `pattern` or `glob`.
        what: &'static str,
        /// Why, on one line.
        reason: String,
    },
}

/// A filter, ready to be used.
pub struct Query {
    filter: Filter,
    patterns: Vec<Regex>,
    /// What every key that matches begins with.
    head: String,
    /// The first key behind all that begin so, if there can be one.
    end: Option<String>,
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filter.fmt(f)
    }
}

/// How far a find has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The last key that was looked at.
    behind: Option<Key>,
    /// Matches that were passed over.
    passed: u64,
    /// Records that were found.
    found: u64,
}

/// What one slice found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Where the next slice begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// One key that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// What is there.
    pub hit: Hit,
    /// Its deadline in milliseconds since the Unix epoch.
    pub deadline: Option<u64>,
}

/// What is there under a key that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// A value.
    Live {
        /// The JSON text, unless only keys are wanted.
        value: Option<Bytes>,
        /// The sequence of the key's last change.
        version: u64,
    },
    /// Nothing any more.
    Expired,
}

impl Query {
    /// Compiles a filter.
    ///
    /// # Errors
    /// If the pattern or the glob is too long, too large or not valid.
    pub fn new(filter: Filter) -> Result<Self, QueryError> {
        for (what, text) in [
            ("prefix", &filter.prefix),
            ("suffix", &filter.suffix),
            ("contains", &filter.contains),
            ("after", &filter.after),
        ] {
            // A filter lives as long as its find: what no key can match need not be kept.
            let length = text.as_ref().map_or(0, String::len);
            if length > KEY_BYTES_MAX {
                let limit = KEY_BYTES_MAX;
                return Err(QueryError::TooLong {
                    what,
                    limit,
                    length,
                });
            }
        }
        let mut patterns = Vec::new();
        let mut head = filter.prefix.clone().unwrap_or_default();
        // Of two beginnings the longer one says more, if it contains the other. Where they
        // contradict each other nothing matches, which either of them finds out.
        let mut narrow = |literal: String| {
            if literal.len() > head.len() {
                head = literal;
            }
        };
        if let Some(pattern) = &filter.pattern {
            patterns.push(compile("pattern", pattern, pattern.len())?);
            narrow(anchored_literal(pattern));
        }
        if let Some(glob) = &filter.glob {
            let (expression, literal) = translate(glob)?;
            patterns.push(compile("glob", &expression, glob.len())?);
            narrow(literal);
        }
        let end = successor(&head);
        Ok(Self {
            filter,
            patterns,
            head,
            end,
        })
    }

    /// Whether only keys are wanted.
    #[must_use]
    pub fn keys_only(&self) -> bool {
        self.filter.keys_only
    }

    /// Whether the answer is one atomic view, as long as few entries are looked at.
    fn may_be_atomic(&self) -> bool {
        let filter = &self.filter;
        filter.limit.is_some_and(|limit| limit <= ATOMIC_LIMIT_MAX)
            && filter.offset == 0
            && filter.suffix.is_none()
            && filter.contains.is_none()
            && filter.pattern.is_none()
            && filter.glob.is_none()
    }

    /// Whether what a walk finds must be narrowed by [`Query::narrow`].
    #[must_use]
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// What the patterns leave of a slice that began at `cursor`, with limit and offset. When `is_over`
    /// says so it ends early, behind at least one record, and the next slice begins there.
    #[must_use]
    pub fn narrow(
        &self,
        slice: Slice,
        cursor: &Cursor,
        mut is_over: impl FnMut() -> bool,
    ) -> Slice {
        let limit = self.filter.limit.unwrap_or(u64::MAX);
        let (mut passed, mut found) = (cursor.passed, cursor.found);
        let mut records = Vec::new();
        let mut behind: Option<Key> = None;
        for record in slice.records {
            if behind.is_some() && is_over() {
                let next = Some(Cursor {
                    behind,
                    passed,
                    found,
                });
                return Slice { records, next };
            }
            behind = Some(record.key.clone());
            if !self
                .patterns
                .iter()
                .all(|pattern| pattern.is_match(&record.key))
            {
                continue;
            }
            if passed < self.filter.offset {
                passed += 1;
                continue;
            }
            records.push(record);
            found += 1;
            if found >= limit {
                return Slice {
                    records,
                    next: None,
                };
            }
        }
        let next = slice.next.map(|next| Cursor {
            passed,
            found,
            ..next
        });
        Slice { records, next }
    }

    /// Whether a key matches all but the patterns.
    fn matches(&self, key: &str) -> bool {
        let filter = &self.filter;
        filter
            .prefix
            .as_ref()
            .is_none_or(|prefix| key.starts_with(prefix.as_str()))
            && filter
                .suffix
                .as_ref()
                .is_none_or(|suffix| key.ends_with(suffix.as_str()))
            && filter
                .contains
                .as_ref()
                .is_none_or(|part| key.contains(part.as_str()))
    }

    /// The range of keys from a cursor on; `None` if it is empty.
    fn range<'a>(&'a self, cursor: &'a Cursor) -> Option<(Bound<&'a str>, Bound<&'a str>)> {
        let behind = cursor.behind.as_deref().or(self.filter.after.as_deref());
        let head = self.head.as_str();
        let mut low = Bound::Included(head);
        let mut end = self.end.as_deref();
        match behind {
            Some(key) if self.filter.reverse => {
                end = Some(end.map_or(key, |end| end.min(key)));
            }
            Some(key) if key >= head => low = Bound::Excluded(key),
            _ => {}
        }
        // A map's range must not be turned round.
        match (low, end) {
            (Bound::Included(low) | Bound::Excluded(low), Some(end)) if low >= end => None,
            _ => Some((low, end.map_or(Bound::Unbounded, Bound::Excluded))),
        }
    }

    /// Walks one slice at `now` (milliseconds since the Unix epoch), at least some entries and then
    /// until `is_over` says so. Returns it with the sequence that it depends on. With patterns it is
    /// still to be narrowed, and limit and offset are not applied.
    #[must_use]
    pub fn walk(
        &self,
        state: &State,
        cursor: &Cursor,
        now: u64,
        mut is_over: impl FnMut() -> bool,
    ) -> (Slice, u64) {
        let mut gate = state.cleared_at();
        let limit = self.filter.limit.unwrap_or(u64::MAX);
        let mut at = cursor.clone();
        let mut records = Vec::new();
        let range = self.range(cursor).filter(|_| at.found < limit);
        let Some(range) = range else {
            return (
                Slice {
                    records,
                    next: None,
                },
                gate,
            );
        };
        // Only the first slice can be the whole view.
        let atomic = self.may_be_atomic() && *cursor == Cursor::default();
        let mut bytes = 0;
        let mut last: Option<&str> = None;
        for (index, (key, version, shown)) in
            state.walk(range, self.filter.reverse, now).enumerate()
        {
            if let Some(last) = last.filter(|_| atomic && index >= ATOMIC_ENTRIES_MAX) {
                at.behind = Some(last.into());
                let next = Some(at);
                return (Slice { records, next }, gate);
            }
            last = Some(key);
            if self.matches(key) {
                gate = gate.max(version);
                match self.record(key, version, &shown) {
                    Some(record) if self.has_patterns() => {
                        bytes += record.bytes();
                        records.push(record);
                    }
                    Some(_) if at.passed < self.filter.offset => at.passed += 1,
                    Some(record) => {
                        bytes += record.bytes();
                        records.push(record);
                        at.found += 1;
                        if at.found >= limit {
                            return (
                                Slice {
                                    records,
                                    next: None,
                                },
                                gate,
                            );
                        }
                    }
                    None => {}
                }
            }
            let seen = index + 1;
            let full = records.len() >= SLICE_RECORDS_MAX || bytes >= SLICE_BYTES_MAX;
            if !atomic && (full || (seen.is_multiple_of(ENTRIES_PER_LOOK) && is_over())) {
                at.behind = Some(key.into());
                return (
                    Slice {
                        records,
                        next: Some(at),
                    },
                    gate,
                );
            }
        }
        (
            Slice {
                records,
                next: None,
            },
            gate,
        )
    }

    /// What is said of a key that matches, if anything is.
    fn record(&self, key: &str, version: u64, shown: &Shown<'_>) -> Option<Record> {
        let (hit, deadline) = match shown {
            Shown::Found(entry) => {
                let value = (!self.filter.keys_only).then(|| entry.value.to_bytes());
                (Hit::Live { value, version }, entry.deadline)
            }
            Shown::Expired { deadline } if self.filter.include_expired => {
                (Hit::Expired, Some(*deadline))
            }
            Shown::Expired { .. } | Shown::Missing => return None,
        };
        Some(Record {
            key: key.into(),
            hit,
            deadline,
        })
    }
}

impl Record {
    /// About what it takes in an answer, in bytes.
    fn bytes(&self) -> usize {
        const MEMBERS_BYTES: usize = 64;
        let value = match &self.hit {
            Hit::Live {
                value: Some(value), ..
            } => value.len(),
            Hit::Live { value: None, .. } | Hit::Expired => 0,
        };
        MEMBERS_BYTES + self.key.len() + value
    }
}

/// The first text behind all that begin with `head`; `None` if every text behind it does.
fn successor(head: &str) -> Option<String> {
    let mut chars: Vec<char> = head.chars().collect();
    while let Some(last) = chars.pop() {
        // Surrogates are no characters: `char::from_u32` refuses them, and the range skips them.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn compile(what: &'static str, expression: &str, length: usize) -> Result<Regex, QueryError> {
    if length > PATTERN_BYTES_MAX {
        return Err(QueryError::TooLong {
            what,
            limit: PATTERN_BYTES_MAX,
            length,
        });
    }
    RegexBuilder::new(expression)
        .size_limit(PATTERN_MEMORY_MAX)
        .dfa_size_limit(PATTERN_MEMORY_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => QueryError::TooLarge { what },
            // The parser's message draws the pattern over several lines; its last one is the reason.
            other => {
                let text = other.to_string();
                let reason = text.lines().last().unwrap_or_default();
                let reason = reason.trim().trim_start_matches("error: ").to_owned();
                QueryError::Invalid { what, reason }
            }
        })
}

/// What every match of a regular expression begins with, as far as it is easily seen: the literal
/// characters behind a leading `^`.
fn anchored_literal(pattern: &str) -> String {
    let Some(rest) = pattern.strip_prefix('^') else {
        return String::new();
    };
    // With an alternative anywhere, or flags that change how literals match, nothing is easily seen.
    if rest.contains('|') || rest.contains("(?") {
        return String::new();
    }
    let mut literal = String::new();
    let mut chars = rest.chars().peekable();
    while let Some(char) = chars.next() {
        let plain = match char {
            '\\' => match chars.next() {
                // Other escapes are classes, or characters by number.
                Some(escaped) if escaped.is_ascii_punctuation() && !"<>".contains(escaped) => {
                    escaped
                }
                _ => break,
            },
            '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' => break,
            other => other,
        };
        // A character that need not be there says nothing.
        if matches!(chars.peek(), Some('*' | '?' | '{')) {
            break;
        }
        literal.push(plain);
    }
    literal
}

/// A glob as a regular expression, and the literal that every match begins with.
fn translate(glob: &str) -> Result<(String, String), QueryError> {
    let invalid = |reason: &str| QueryError::Invalid {
        what: "glob",
        reason: reason.to_owned(),
    };
    let mut expression = String::from("^(?s:");
    let mut literal = String::new();
    let mut literal_ends = false;
    let mut chars = glob.chars().peekable();
    while let Some(char) = chars.next() {
        let plain = match char {
            '*' => {
                expression.push_str(".*");
                None
            }
            '?' => {
                expression.push('.');
                None
            }
            '[' => {
                expression.push('[');
                if chars.next_if(|next| matches!(next, '!' | '^')).is_some() {
                    expression.push('^');
                }
                let mut is_first = true;
                loop {
                    let low = match chars.next() {
                        None => return Err(invalid("a [ is not closed")),
                        // A ] right behind the [ is a member.
                        Some(']') if !is_first => break,
                        Some('\\') => chars.next().ok_or_else(|| invalid("it ends with a \\"))?,
                        Some(member) => member,
                    };
                    is_first = false;
                    expression.push_str(&escape(low));
                    // Read with its end: two hyphens in a row would take members away instead.
                    let mut ahead = chars.clone();
                    if ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']') {
                        chars.next();
                        let high = match chars.next() {
                            Some('\\') => {
                                chars.next().ok_or_else(|| invalid("it ends with a \\"))?
                            }
                            Some(member) => member,
                            None => return Err(invalid("a [ is not closed")),
                        };
                        expression.push('-');
                        expression.push_str(&escape(high));
                    }
                }
                expression.push(']');
                None
            }
            '\\' => Some(chars.next().ok_or_else(|| invalid("it ends with a \\"))?),
            other => Some(other),
        };
        match plain {
            Some(plain) => {
                expression.push_str(&escape(plain));
                if !literal_ends {
                    literal.push(plain);
                }
            }
            None => literal_ends = true,
        }
    }
    expression.push_str(")$");
    Ok((expression, literal))
}

/// A character that stands for itself, within brackets too. Escaped angle brackets would be the
/// bounds of words.
fn escape(char: char) -> String {
    if char.is_ascii_punctuation() && !matches!(char, '<' | '>') {
        format!("\\{char}")
    } else {
        char.to_string()
    }
}

#[cfg(test)]
mod tests;
