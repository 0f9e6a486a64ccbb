//! As much of an HTTP/1.1 answer as it takes to count it: its status and where it ends.

/// An answer at the front of what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Of head and body.
    pub(crate) bytes: usize,
}

/// Why what was received is no answer that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It does not begin with a status line of HTTP/1.1.
    StatusLine,
    /// Its body has no declared length.
    Length,
    /// Its head does not end, or its body would not fit into memory.
    TooLong,
}

/// No server that is measured sends more than a fraction of these.
const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 16 << 20;

/// The answer that `received` begins with, once its head is there; its body may be on its way.
pub(crate) fn parse(received: &[u8]) -> Result<Option<Answer>, Malformed> {
    let mut status = None;
    let mut length = None;
    let mut at = 0;
    loop {
        let rest = received.get(at..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return if received.len() > HEAD_BYTES_MAX {
                Err(Malformed::TooLong)
            } else {
                Ok(None)
            };
        };
        let (line, _) = rest.split_at(end);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        at += end + 1;
        let Some(status) = status else {
            status = Some(status_of(line).ok_or(Malformed::StatusLine)?);
            continue;
        };
        if line.is_empty() {
            let length = match status {
                204 | 304 => 0,
                _ => length.ok_or(Malformed::Length)?,
            };
            if length > BODY_BYTES_MAX {
                return Err(Malformed::TooLong);
            }
            return Ok(Some(Answer {
                status,
                bytes: at + length,
            }));
        }
        if let Some(value) = header(line, b"content-length:") {
            length = Some(number(value).ok_or(Malformed::Length)?);
        }
    }
}

fn status_of(line: &[u8]) -> Option<u16> {
    let code = line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    number(code)?.try_into().ok()
}

/// The value of a header line, if it is the one with this name (and colon).
fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (head, value) = line.split_at_checked(name.len())?;
    head.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0usize, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 5\r\n\
        date: now\r\n\r\n\"abc\"";

    #[test]
    fn an_answer_ends_where_its_length_says_whatever_follows() {
        let answer = Answer {
            status: 200,
            bytes: SET.len(),
        };
        assert_eq!(parse(SET), Ok(Some(answer)));
        assert_eq!(parse(&[SET, SET].concat()), Ok(Some(answer)));
    }

    #[test]
    fn however_much_has_come_it_is_the_same_answer_or_not_there_yet() {
        let head = SET.len() - 5;
        for received in 0..SET.len() {
            let told = parse(&SET[..received]).unwrap().map(|answer| answer.bytes);
            assert_eq!(told, (received >= head).then_some(SET.len()), "{received}");
        }
    }

    #[test]
    fn statuses_are_told_and_some_have_no_body() {
        for (text, status) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n", 404),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", 304),
            ("HTTP/1.1 204\r\n\r\n", 204),
        ] {
            let bytes = text.len();
            assert_eq!(parse(text.as_bytes()), Ok(Some(Answer { status, bytes })));
        }
    }

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        for (text, malformed) in [
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                Malformed::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1x\r\n\r\n",
                Malformed::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
                Malformed::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
                Malformed::TooLong,
            ),
            ("HTTP/1.0 200 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1 2\r\n\r\n", Malformed::StatusLine),
            ("\r\n\r\n", Malformed::StatusLine),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(malformed), "{text}");
        }
        let endless = [
            b"HTTP/1.1 200 OK\r\nx: ".as_slice(),
            &[b'x'; HEAD_BYTES_MAX],
        ]
        .concat();
        assert_eq!(parse(&endless), Err(Malformed::TooLong));
    }
}
