//! A history as a file: first the log, then a line for each request.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use super::Operation;
use super::log::Log;

pub(crate) fn write(path: &Path, history: &[Operation], log: Option<&Log>) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    writeln!(file, "{}", serde_json::to_string(&log).unwrap()).unwrap();
    for operation in history {
        writeln!(file, "{}", serde_json::to_string(operation).unwrap()).unwrap();
    }
    file.flush().unwrap();
}

pub(crate) fn read(path: &Path) -> (Vec<Operation>, Option<Log>) {
    let mut lines = BufReader::new(std::fs::File::open(path).unwrap()).lines();
    let log = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let history = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    (history, log)
}
