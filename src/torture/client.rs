//! As much of HTTP/1.1 as a client of ekokv needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that does not answer for so long is taken for dead.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Longer answers than this are not asked for.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Longer heads are none of ekokv's.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// One connection.
pub(super) struct Client {
    reader: BufReader<TcpStream>,
    authorization: String,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The number in `ETag`.
    pub(super) version: Option<u64>,
    pub(super) body: String,
}

impl Client {
    /// Connects; `token` is sent along with each request, unless it is empty.
    pub(super) fn new(address: SocketAddr, token: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::new(stream),
            authorization: match token {
                "" => String::new(),
                token => format!("Authorization: Bearer {token}\r\n"),
            },
        })
    }

    /// Sends a request and waits for all of its answer.
    pub(super) fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let authorization = &self.authorization;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Length: {length}\
             \r\n\r\n{body}"
        );
        self.reader.get_mut().write_all(request.as_bytes())?;
        self.receive()
    }

    fn receive(&mut self) -> io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let mut length = None;
        let mut version = None;
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok();
            } else if name.eq_ignore_ascii_case("etag") {
                version = value.trim_matches('"').parse().ok();
            }
        }
        let length = length.filter(|length| *length <= BODY_BYTES_MAX);
        let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        self.reader.read_exact(&mut body)?;
        let body = String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Answer {
            status,
            version,
            body,
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let mut head = (&mut self.reader).take(HEAD_BYTES_MAX);
        if head.read_line(&mut line)? == 0 {
            // The connection was closed without an answer.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
