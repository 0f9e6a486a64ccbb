//! One connection, with at most one request under way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::response::{self, Answer};

/// What a read takes at most at first; the buffer grows to whatever an answer declares.
const RECEIVED_BYTES: usize = 16 << 10;

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What has come of the answer under way: the first `filled` bytes.
    received: Vec<u8>,
    filled: usize,
    /// What the kernel did not take of a request at once.
    unsent: Vec<u8>,
    /// Since when the request under way has been due.
    due: Option<u64>,
}

impl Connection {
    /// Connects and tells `registry`.
    pub(crate) fn open(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<Self> {
        // In the blocking way: on loopback this is done at once, or refused.
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            received: vec![0; RECEIVED_BYTES],
            filled: 0,
            unsent: Vec::new(),
            due: None,
        })
    }

    /// Sends a request that has been due since `due`.
    pub(crate) fn send(&mut self, request: &[u8], due: u64) -> io::Result<()> {
        self.due = Some(due);
        let written = some(self.stream.write(request))?.unwrap_or(0);
        if let Some(unsent) = request.get(written..)
            && !unsent.is_empty()
        {
            self.unsent.extend_from_slice(unsent);
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what is left of a request, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match some(self.stream.write(&self.unsent))? {
                None => break,
                Some(written) => drop(self.unsent.drain(..written)),
            }
        }
        Ok(())
    }

    /// Reads what has come: the status of the answer and since when it had been due, if it is whole.
    pub(crate) fn receive(&mut self) -> io::Result<Option<(u16, u64)>> {
        loop {
            let place = self.received.get_mut(self.filled..).unwrap_or_default();
            let space = place.len();
            let read = match some(self.stream.read(place))? {
                None => return Ok(None),
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(read) => read,
            };
            self.filled += read;
            let received = self.received.get(..self.filled).unwrap_or_default();
            let answer = response::parse(received)
                .map_err(|malformed| io::Error::other(format!("no answer: {malformed:?}")))?;
            if let Some(Answer { status, bytes }) = answer {
                if bytes > self.received.len() {
                    self.received.resize(bytes, 0);
                }
                if self.filled > bytes {
                    return Err(io::Error::other("more than was asked for"));
                }
                if self.filled == bytes {
                    self.filled = 0;
                    let due = self.due.take();
                    return due
                        .map(|due| Some((status, due)))
                        .ok_or_else(|| io::Error::other("an answer to nothing"));
                }
            }
            // Less than there was room for is all that there is (epoll(7)).
            if read < space {
                return Ok(None);
            }
            if self.filled == self.received.len() {
                self.received.resize(self.filled * 2, 0);
            }
        }
    }
}

/// Bytes that were moved; none if it would block.
fn some(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
