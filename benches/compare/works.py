"""The kinds of load, and what is measured under each."""

import http.client
import json
import re
import resource
import socket
import ssl
import subprocess
import sys
import time

from peers import Portcullis, basic, bench_program

# Whose requests are measured in passing: as many as fill its files and make its connections.
WARM_SECONDS = 1
OPEN_LOOP_CONNECTIONS = 64
IDLE_CONNECTIONS = 1_000
BUSY_CONNECTIONS = 500


class Work:
    """One kind of closed-loop load. `weight`: those that matter are asked of more peers."""

    def __init__(
        self, name, status=200, path="/small", connections=64, body=None, tls=False, tool="wrk", key="one", close=False, weight=0,
    ):
        self.name, self.status, self.path, self.connections, self.body = name, status, path, connections, body
        self.tls, self.tool, self.key, self.close, self.weight = tls, tool, key, close, weight

    def for_peer(self, peer):
        """This work as this peer can do it, if it can. Nobody else has scopes and rates: their 401 stands in."""
        if (self.tls and not peer.tls) or (self.status >= 400 and not peer.refuses) or self.weight < peer.from_weight:
            return None
        if self.key in ("narrow", "slow") and not isinstance(peer, Portcullis):
            return Work(self.name, status=401, key="unknown", connections=self.connections)
        return self

    def keys(self, peer):
        special = {"unknown": peer.unknown, "narrow": lambda: peer.narrow, "slow": lambda: peer.slow}
        keys = {"one": peer.keys[:1], "random": peer.keys}.get(self.key) or [special[self.key]()]
        return [peer.credential(key) for key in keys]

    def verify(self, peer):
        """Ends the comparison if an answer is not what it should be."""
        port, credential = (peer.https if self.tls else peer.http), self.keys(peer)[-1]
        if self.tls:
            client = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=ssl._create_unverified_context())
        else:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        sent = (peer.stage.folder / f"body.{self.body}").read_bytes() if self.body else None
        for attempt in range(20):
            client.request("POST" if sent else "GET", self.path, sent, {"Authorization": credential})
            answer = client.getresponse()
            body = answer.read()
            # A limit is met only when it has been used up.
            if self.status != 429 or answer.status == 429:
                break
        file = peer.stage.folder / "www" / self.path.strip("/")
        expected = file.read_bytes() if file.exists() else b"done\n"
        if answer.status != self.status or (self.status == 200 and body != expected):
            sys.exit(f"{self.name}: {peer.name} answers {answer.status} with {len(body)} bytes: {body[:200]!r}")
        client.close()

    def load(self, peer, seconds):
        """How many requests were answered as expected."""
        port = peer.https if self.tls else peer.http
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{port}{self.path}"
        if self.tool == "h2load":
            command = ["h2load", "-c", "8", "-m", "32", "-D", seconds, "-H", f"authorization: {self.keys(peer)[0]}", url]
        else:
            script = peer.stage.folder / "load.lua"
            script.write_text(self.script(self.keys(peer), peer.stage.folder))
            command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "-s", script, url]
        told = run(["taskset", "-c", peer.stage.other_cores, *command])
        return self.parse(told, peer)

    def script(self, keys, folder):
        lists = ",".join(json.dumps(key) for key in keys)
        body = f'local file = io.open("{folder}/body.{self.body}", "rb"); body = file:read("*a")' if self.body else "body = nil"
        method = "POST" if self.body else "GET"
        connection = '["Connection"] = "close"' if self.close else ""
        return f"""
local keys = {{{lists}}}
{body}
local requests, at = {{}}, 0
function init()
    for number, key in ipairs(keys) do
        requests[number] = wrk.format("{method}", "{self.path}", {{["Authorization"] = key, {connection}}}, body)
    end
end
function request()
    at = (at * 7919 + 12347) % #requests
    return requests[at + 1]
end
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("requests=%d errors=%d\\n", summary.requests, errors.connect + errors.read + errors.write + errors.timeout))
end
"""

    def parse(self, told, peer):
        if self.tool == "h2load":
            total = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", told)
            statuses = re.search(r"status codes: (\d+) 2xx", told)
            if int(total[2]) or int(total[3]) or int(statuses[1]) == 0:
                sys.exit(f"{self.name}: {peer.name}: {told}")
            return int(total[1])
        figures = dict(re.findall(r"(\w+)=(\d+)", told))
        unexpected = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
        refused, requests = int(unexpected[1]) if unexpected else 0, int(figures["requests"])
        # What a limit of one request a second lets through is too little to count.
        as_expected = refused == 0 if self.status < 400 else requests - refused <= 20
        if not as_expected or requests == 0 or (int(figures["errors"]) and not self.close):
            sys.exit(f"{self.name}: {peer.name}: {told}")
        return requests


WORKS = [
    Work("GET, 1 connection", connections=1),
    Work("GET, 64", weight=2),
    Work("GET, 1,024", connections=1024, weight=1),
    Work("GET, 64, all keys", key="random"),
    Work("unknown key, 64", status=401, key="unknown", weight=1),
    Work("missing scope, 64", status=403, key="narrow"),
    Work("over the rate, 64", status=429, path="/slow", key="slow"),
    Work("64 KiB response, 64", path="/64k", weight=1),
    Work("1 MiB response, 16", path="/1m", connections=16, weight=1),
    Work("64 KiB upload, 64", path="/upload", body="64k", weight=1),
    Work("1 MiB upload, 16", path="/upload", body="1m", connections=16),
    Work("TLS 1.3 GET, 32", connections=32, tls=True),
    Work("TLS 1.3 handshake and GET, 16", connections=16, tls=True, close=True),
    Work("HTTP/2 over TLS, 8 x 32", tls=True, tool="h2load"),
]
SMALL_GET = WORKS[1]


def run(command):
    told = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if told.returncode != 0:
        sys.exit(f"{command[3]} failed: {told.stdout[-1000:]} {told.stderr[-1000:]}")
    return told.stdout


def measure(peer, work, seconds):
    """CPU microseconds for each request, and requests a second."""
    process = peer.start_tls() if work.tls else peer.start()
    try:
        work.verify(peer)
        work.load(peer, WARM_SECONDS)
        before = process.cpu()
        count = work.load(peer, seconds)
        return (process.cpu() - before) * 1e6 / count, count / seconds
    finally:
        process.end()


def latency(peer, rate, seconds, changes=0):
    """Percentiles in microseconds at a rate that does not wait, and CPU of the worker for each request."""
    process = peer.start()
    try:
        command = [bench_program("open_loop"), f"127.0.0.1:{peer.http}", "/small", peer.credential(peer.keys[0])]
        command = ["taskset", "-c", peer.stage.other_cores, *command, f"{rate:.0f}"]
        run([*command, WARM_SECONDS, OPEN_LOOP_CONNECTIONS])
        cpu = lambda: process.cpu_of_thread("worker-0") or process.cpu()
        before = cpu()
        told = run([*command, seconds, OPEN_LOOP_CONNECTIONS, *([changes, basic(peer.root)] if changes else [])])
        figures = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", told)}
        if figures["errors"]:
            sys.exit(f"latency: {peer.name}: {told}")
        return figures | {"cpu": (cpu() - before) * 1e6 / figures["requests"]}
    finally:
        process.end()


def two_workers(peer, seconds, cores):
    """CPU microseconds of a request and requests a second, with one worker and with two."""
    found = []
    for start in [peer.start, peer.start_two_workers]:
        process = start(cores)
        try:
            SMALL_GET.load(peer, WARM_SECONDS)
            before = process.cpu()
            count = SMALL_GET.load(peer, seconds)
            found.append(((process.cpu() - before) * 1e6 / count, count / seconds))
        finally:
            process.end()
    return found


def memory(peer, idle_seconds):
    """MiB when started, KiB an idle and a busy connection, wake-ups a second and CPU share when nothing happens."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: {peer.credential(peer.keys[0])}\r\n"
    get = f"GET /small {head}\r\n".encode()
    trickle = f"GET /trickle {head}\r\n".encode()
    upload = f"POST /upload {head}Content-Length: 65536\r\n\r\n".encode() + b"x" * 32_768
    process = peer.start()
    try:
        started = process.pss_kib()
        sockets = held(peer, IDLE_CONNECTIONS, get)
        idle = (process.pss_kib() - started) / IDLE_CONNECTIONS
        close(sockets)
        wake_ups, cpu = process.wake_ups(), process.cpu()
        time.sleep(idle_seconds)
        quiet = [(process.wake_ups() - wake_ups) / idle_seconds, (process.cpu() - cpu) * 100 / idle_seconds]
    finally:
        process.end()
    return [started / 1024, idle, *[busy(peer, request) for request in [trickle, upload]], *quiet]


def busy(peer, request):
    """KiB of a connection whose request is under way, of a process that has served nobody before."""
    process = peer.start()
    try:
        before = process.pss_kib()
        # The first byte of a slow response takes its time too.
        sockets = held(peer, BUSY_CONNECTIONS, request, answered=False)
        time.sleep(2)
        each = (process.pss_kib() - before) / BUSY_CONNECTIONS
        if request.startswith(b"GET"):
            expect_answer(peer, sockets[-1])
        close(sockets)
        return each
    finally:
        process.end()


def held(peer, count, request, answered=True):
    sockets = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", peer.http))
        connection.sendall(request)
        if answered:
            expect_answer(peer, connection)
        sockets.append(connection)
    return sockets


def expect_answer(peer, connection):
    connection.settimeout(20)
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        sys.exit(f"memory: {peer.name} does not answer as it should")


def close(sockets):
    for connection in sockets:
        connection.close()
    time.sleep(2)
