"""The ekokv binary as a process of its own.

- A server that is handed out has said that it is ready.
- Its log is read to the end, so that it never waits for a reader.
- It is ended by its handle, and waited for, also when the tests are interrupted.
"""

import atexit
import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path

# A test fails rather than hang.
WAIT_SECONDS_MAX = 60
# Settings that start fast.
SETTINGS = ["--segment-bytes=4MiB", "--max-value-bytes=1MiB", "--max-body-bytes=2MiB",
            "--max-inflight-bytes=64MiB", "--max-memory=256MiB", "--durability=always"]


class Server:
    """A server with a data dir of its own, which goes with it."""

    def __init__(self, binary):
        self._binary = binary
        self._directory = tempfile.TemporaryDirectory(prefix="ekokv-python-sdk-")
        self.data_dir = Path(self._directory.name, "data")
        self.log = []
        self._process = None
        self._address = "127.0.0.1:0"
        self.start()

    @property
    def url(self):
        return f"http://{self._address}"

    @property
    def admin_key(self):
        """The key that the first start made."""
        return (self.data_dir / "admin-key").read_text().strip()

    def start(self):
        """Starts it, on the port that it had before if it had one."""
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("EKOKV_")}
        command = [self._binary, "--listen", self._address, "--data-dir", self.data_dir, *SETTINGS]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        atexit.register(self._process.kill)
        lines = queue.Queue()
        threading.Thread(target=_pass_on, args=(self._process.stderr, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=WAIT_SECONDS_MAX)
            except queue.Empty:
                raise AssertionError(self._told("no word from the server")) from None
            if line is None:
                raise AssertionError(self._told("the server ended before it was ready"))
            self.log.append(line)
            fields = _fields(line)
            if fields.get("message") == "ready":
                self._address = fields["address"]
                return

    def kill(self):
        """SIGKILL: nothing is drained, sealed or synced."""
        self._process.kill()
        self._gone()

    def stop(self):
        """Ends it as a supervisor does."""
        self._process.terminate()
        status = self._gone()
        if status != 0:
            raise AssertionError(self._told(f"a clean stop exits with 0, not with {status}"))

    def close(self):
        """Ends it if it still runs, and removes its data."""
        if self._process is not None:
            self.kill()
        self._directory.cleanup()

    def _gone(self):
        process, self._process = self._process, None
        atexit.unregister(process.kill)
        return process.wait(timeout=WAIT_SECONDS_MAX)

    def _told(self, what):
        return "\n".join([what, *self.log])


def _pass_on(stream, lines):
    with stream:
        for line in stream:
            lines.put(line.rstrip("\n"))
    lines.put(None)


def _fields(line):
    """The fields of an event; what is not JSON is the welcome of a first start."""
    try:
        return json.loads(line)["fields"]
    except ValueError:
        return {}
