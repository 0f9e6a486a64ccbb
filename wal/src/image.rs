//! A segment's bytes in memory, with the places that the disk would not hand over.
//!
//! What always holds: a read error is never an end of file; the cell it hit is known by number.

use std::collections::BTreeMap;
use std::io;

use crate::cell::CELL_BYTES;
use crate::disk::{File, read_full};
use crate::error::Error;
use crate::planted::planted;

/// Bytes that are read in one call.
const READ_BYTES: usize = 1 << 20;

/// What the system said of a cell.
#[derive(Debug, Clone, Copy)]
struct Said {
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl Said {
    fn of(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            code: error.raw_os_error(),
        }
    }

    fn error(self) -> io::Error {
        self.code
            .map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }
}

/// The first part of a segment, or all of it.
#[derive(Debug, Default)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    /// Cells that could not be read, with what the system said.
    unreadable: BTreeMap<usize, Said>,
}

impl Image {
    /// Reads `length` bytes from the start of `file`; the caller has made sure that `length` is what
    /// header and file agree on, so no damaged or sparse file decides how much is allocated.
    pub(crate) fn load(file: &dyn File, path: &str, length: u64) -> Result<Self, Error> {
        let length = usize::try_from(length).map_err(|_| Error::Io {
            operation: "read",
            path: path.to_owned(),
            source: io::ErrorKind::FileTooLarge.into(),
        })?;
        let mut image = Self {
            bytes: vec![0; length],
            unreadable: BTreeMap::new(),
        };
        for (chunk_index, chunk) in image.bytes.chunks_mut(READ_BYTES).enumerate() {
            let chunk_at = chunk_index * READ_BYTES;
            if read_full(file, chunk_at as u64, chunk).is_ok() {
                continue;
            }
            // Somewhere in here the disk fails: find out which cells it is.
            for (index, cell) in chunk.chunks_mut(CELL_BYTES).enumerate() {
                let at = chunk_at + index * CELL_BYTES;
                if let Err(error) = read_full(file, at as u64, cell)
                    && !planted("read-error-is-an-end")
                {
                    image.unreadable.insert(at / CELL_BYTES, Said::of(&error));
                }
            }
        }
        Ok(image)
    }

    /// An image of bytes that are already in memory.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            unreadable: BTreeMap::new(),
        }
    }

    /// Whole cells in the image.
    pub(crate) fn cells(&self) -> usize {
        self.bytes.len() / CELL_BYTES
    }

    /// A cell's bytes; `None` beyond the end and where the disk failed.
    pub(crate) fn cell(&self, position: usize) -> Option<&[u8]> {
        if self.unreadable.contains_key(&position) {
            return None;
        }
        let start = position.checked_mul(CELL_BYTES)?;
        self.bytes.get(start..start.checked_add(CELL_BYTES)?)
    }

    /// The header block's bytes, empty if the image is shorter or the disk failed on both copies.
    pub(crate) fn head(&self, bytes: usize) -> &[u8] {
        self.bytes.get(..bytes).unwrap_or_default()
    }

    /// Whether a cell lies in the image and is all zeros; quick, for long tails.
    pub(crate) fn is_zero(&self, position: usize) -> bool {
        self.cell(position).is_some_and(|cell| {
            // In words and without an early exit: a tail is tens of megabytes long, nearly all zero.
            cell.chunks_exact(16)
                .fold(true, |all, word| all & (word == [0; 16]))
        })
    }

    /// The first cell in `cells` that could not be read.
    pub(crate) fn first_unreadable(
        &self,
        cells: std::ops::Range<usize>,
    ) -> Option<(usize, io::Error)> {
        if cells.is_empty() {
            return None;
        }
        self.unreadable
            .range(cells)
            .next()
            .map(|(cell, said)| (*cell, said.error()))
    }
}
