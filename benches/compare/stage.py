"""What the comparison starts and ends: processes on their cores, the folder with everybody's files, the upstream."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TICK = os.sysconf("SC_CLK_TCK")


def built(name, *command):
    """The path of a program that cargo builds, if it is not there as it must be."""
    told = subprocess.run(
        ["cargo", *command, "--locked", "--message-format=json-render-diagnostics"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    )
    units = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    return next(unit["executable"] for unit in units if unit.get("executable") and unit["target"]["name"] == name)


def free_port():
    """Below those that the system gives to connections: a proxy is started on it again and again."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for(port, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.name} ended before it listened: {Path(process.log).read_text()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    sys.exit(f"{process.name} does not listen on {port}")


class Process(subprocess.Popen):
    """A program pinned to cores, in a group of its own: what it starts ends with it, whatever ends the comparison."""

    alive = []

    def __init__(self, cores, command, log, **more):
        self.log, self.name = log, Path(str(command[0])).name
        with open(log, "ab") as output:
            command = ["taskset", "-c", str(cores), *map(str, command)]
            super().__init__(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True, **more
            )
        Process.alive.append(self)

    def end(self):
        for number, patience in [(signal.SIGTERM, 10), (signal.SIGKILL, None)]:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass
            try:
                self.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        # Workers whose master is gone already.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        Process.alive.remove(self)

    @classmethod
    def end_all(cls):
        for process in list(cls.alive):
            process.end()

    def family(self):
        """The process and its children, which may be its workers."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += [int(child) for child in task.read_text().split()]
        return found

    def cpu(self):
        """Seconds of user and system time of them all."""
        return sum(cpu_of(Path(f"/proc/{pid}/stat")) for pid in self.family())

    def cpu_of_thread(self, name):
        threads = [task for task in Path(f"/proc/{self.pid}/task").iterdir() if (task / "comm").read_text().strip() == name]
        return sum(cpu_of(task / "stat") for task in threads)

    def pss_kib(self):
        total = 0
        for pid in self.family():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])
        return total

    def wake_ups(self):
        total = 0
        for pid in self.family():
            for status in Path(f"/proc/{pid}/task").glob("*/status"):
                total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.M)[1])
        return total


def cpu_of(stat):
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Stage:
    """The folder with the files of everybody, and the upstream."""

    def __init__(self, folder, arguments):
        self.folder, self.proxy_cores, self.other_cores = folder, arguments.proxy_cores, arguments.other_cores
        # Made anew and copied: `cargo bench` leaves the program of its own profile in the place of the release build.
        program = arguments.program or built("portcullis", "build", "--release", "--bin", "portcullis")
        self.program, self.keys = shutil.copy2(program, folder / "portcullis"), arguments.keys
        self.upstream_port = free_port()
        (folder / "www").mkdir()
        for name, size in [("small", 129), ("64k", 64 << 10), ("1m", 1 << 20)]:
            (folder / "www" / name).write_bytes(b"x" * size)
            (folder / f"body.{name}").write_bytes(b"x" * size)
        self.certificate()

    def start_upstream(self):
        config = self.render("upstream.nginx", port=self.upstream_port)
        upstream = Process(self.other_cores, ["nginx", "-e", "stderr", "-c", config], self.folder / "upstream.log")
        wait_for(self.upstream_port, upstream)
        return upstream

    def certificate(self):
        pair = ["-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem"]
        request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split()
        subject = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*request, *subject, *pair], check=True, capture_output=True)
        both = (self.folder / "cert.pem").read_text() + (self.folder / "key.pem").read_text()
        (self.folder / "both.pem").write_text(both)

    def render(self, name, **values):
        """A peer's configuration, with what it has between @ signs filled in."""
        text = (HERE / "peers" / name).read_text()
        values |= {
            "folder": self.folder,
            "upstream": f"127.0.0.1:{self.upstream_port}",
            "upstream_port": self.upstream_port,
        }
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.folder / name
        path.write_text(text)
        return path
