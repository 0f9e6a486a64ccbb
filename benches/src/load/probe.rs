//! What the disk and the kernel take for a write and a sync, as the log does them: at the next place
//! of a file whose blocks are written already.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::keys::Draw;
use crate::latency::Latency;
use crate::{cpu_ns, nanoseconds};

/// The zeros are written in pieces of this.
const FILL_BYTES: usize = 1 << 20;

/// Makes the file, writes and syncs `count` times, removes the file.
pub(crate) fn run(dir: &Path, bytes: usize, count: usize) -> io::Result<serde_json::Value> {
    let path = dir.join(format!("probe-{}.tmp", std::process::id()));
    let measured = measure(&path, bytes, count);
    let removed = fs::remove_file(&path);
    let measured = measured?;
    removed?;
    Ok(measured)
}

fn measure(path: &Path, bytes: usize, count: usize) -> io::Result<serde_json::Value> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let zeros = vec![0; FILL_BYTES];
    for _ in 0..(bytes * count).div_ceil(FILL_BYTES) {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    let mut draw = Draw::new(1);
    let mut buffer = vec![0; bytes];
    let mut latency = Latency::new();
    let begin = nanoseconds();
    let cpu = cpu_ns();
    for index in 0..count {
        for piece in buffer.chunks_mut(8) {
            let bits = draw.next().to_le_bytes();
            piece
                .iter_mut()
                .zip(bits)
                .for_each(|(byte, bits)| *byte = bits);
        }
        let start = nanoseconds();
        file.write_all_at(&buffer, (index * bytes) as u64)?;
        file.sync_data()?;
        latency.record(nanoseconds() - start);
    }
    let cpu = (cpu_ns() - cpu) as f64 / count.max(1) as f64;
    let seconds = (nanoseconds() - begin) as f64 / 1e9;
    let at = |share| latency.percentile(share) as f64 / 1e3;
    Ok(serde_json::json!({
        "op": "probe",
        "bytes": bytes,
        "syncs": count,
        "syncs_per_second": count as f64 / seconds,
        "mean_us": latency.mean() as f64 / 1e3,
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "max_us": latency.max() as f64 / 1e3,
        "cpu_us_per_sync": cpu / 1e3,
    }))
}
