"""Do other programs read the gate's messages as the gate means them?

Reads one JSON document from stdin:
    {"requests":  [{"id", "raw", "method", "target", "body"}],     raw and body in hexadecimal
     "responses": [{"id", "raw", "method", "status", "body", "closes"}]}
Each request is given to h11, llhttp, nginx, HAProxy and Node, followed at once by a canary: each of them must find two
requests, the first with this method, target and body. Each response is given to h11, llhttp, curl and Node, followed by
a canary on the same connection unless it says that the connection closes.
Prints a line for each that is read otherwise, and at last how many readings there were. Nothing here outlives it.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

DEADLINE = 20
CANARY = b"POST /canary HTTP/1.1\r\nHost: canary\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend"
CANARY_READ = ("POST", "/canary", b"end")
CANARY_ANSWER = b"HTTP/1.1 203 Canary\r\nContent-Length: 3\r\n\r\nend"


def by_h11(raw):
    import h11

    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    found, body = [], b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            method, target, body = event.method.decode(), event.target.decode("latin-1"), b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.append((method, target, body))
            if connection.their_state is h11.MUST_CLOSE:
                return found
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            return found


def by_llhttp(raw):
    import llhttp

    found, part = [], {}

    class Reader(llhttp.Request):
        def on_message_begin(self):
            part.update(target=b"", body=b"")

        def on_url(self, data):
            part["target"] += bytes(data)

        def on_body(self, data):
            part["body"] += bytes(data)

        def on_message_complete(self):
            method = self.method.decode() if isinstance(self.method, bytes) else str(self.method)
            found.append((method, part["target"].decode("latin-1"), part["body"]))

    reader = Reader()
    reader.execute(raw)
    return found


class Backend:
    """Records what a proxy passes on, read with no leniency at all."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        self.found = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        # A proxy may drop a connection that it has no more use for.
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as file:
            while line := file.readline():
                method, target, _ = line.decode("latin-1").split(" ")
                fields = {}
                while (line := file.readline()) != b"\r\n":
                    name, value = line.decode("latin-1").rstrip("\r\n").split(":", 1)
                    fields[name.lower()] = value.strip()
                body = b""
                if "transfer-encoding" in fields:
                    while (size := int(file.readline(), 16)) > 0:
                        body += file.read(size)
                        file.readline()
                    while file.readline() != b"\r\n":
                        pass
                else:
                    body = file.read(int(fields.get("content-length", "0")))
                self.found.append((method, target, body))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def program(command, port):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} does not start")
        yield
    finally:
        process.terminate()
        process.wait()


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log /dev/null;
events {{ worker_connections 64; }}
http {{
    access_log off; merge_slashes off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    large_client_header_buffers 8 64k; client_header_buffer_size 64k; ignore_invalid_headers off;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1; }}
    }}
}}
"""

HAPROXY = """
global
    tune.bufsize 131072
    tune.maxrewrite 1024
    tune.http.maxhdr 512
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen gate
    bind 127.0.0.1:{port}
    server backend 127.0.0.1:{backend}
"""

NODE_SERVER = """
const http = require('http');
const found = [];
const server = http.createServer({maxHeaderSize: 131072}, (request, response) => {
    const body = [];
    request.on('data', piece => body.push(piece));
    request.on('end', () => {
        const one = [request.method, request.url, Buffer.concat(body).toString('hex')];
        response.end(JSON.stringify(one));
    });
});
server.on('checkExpectation', (request, response) => response.end('[]'));
server.listen(PORT, '127.0.0.1');
"""

NODE_CLIENT = """
const http = require('http');
const {port, methods} = JSON.parse(require('fs').readFileSync(0));
const agent = new http.Agent({keepAlive: true, maxSockets: 1});
const ask = (path, method) => new Promise(done => {
    const request = http.request({port, host: '127.0.0.1', path, method, agent, maxHeaderSize: 131072}, response => {
        const body = [];
        response.on('data', piece => body.push(piece));
        response.on('aborted', () => done(['cut', '']));
        response.on('error', () => done(['cut', '']));
        response.on('end', () => done([response.complete ? response.statusCode : 'cut', Buffer.concat(body).toString('hex')]));
    });
    request.on('error', error => done(['error ' + error.code, '']));
    request.end();
});
(async () => {
    const found = [];
    for (const [index, method] of methods.entries()) {
        found.push([await ask('/' + index, method), await ask('/canary', 'GET')]);
    }
    console.log(JSON.stringify(found));
    process.exit(0);
})();
"""


def exchange(port, raw):
    """Sends bytes and reads all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
        connection.sendall(raw)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def through(backend, port):
    def read(raw):
        backend.found.clear()
        exchange(port, raw)
        return list(backend.found)

    return read


def by_node(port):
    def read(raw):
        answer, found = exchange(port, raw), []
        for method, target, body in map(json.loads, re.findall(rb'\["[A-Z-]+",".*?","[0-9a-f]*"\]', answer)):
            found.append((method, target, bytes.fromhex(body)))
        return found

    return read


def check_requests(cases):
    failed = readings = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o755)
        backend, readers = Backend(), {"h11": by_h11, "llhttp": by_llhttp}
        for name, text, suffix in [("nginx", NGINX, ".conf"), ("haproxy", HAPROXY, ".cfg"), ("node", NODE_SERVER, ".js")]:
            port, path = free_port(), os.path.join(folder, name + suffix)
            with open(path, "w") as file:
                if name == "node":
                    file.write(text.replace("PORT", str(port)))
                else:
                    file.write(text.format(folder=folder, port=port, backend=backend.port))
            command = {"nginx": ["nginx", "-e", "/dev/null", "-p", folder, "-c", path],
                       "haproxy": ["haproxy", "-q", "-f", path], "node": ["node", path]}[name]
            stack.enter_context(program(command, port))
            readers[name] = by_node(port) if name == "node" else through(backend, port)
        for case in cases:
            meant = (case["method"], case["target"], bytes.fromhex(case["body"]))
            for name, read in readers.items():
                readings += 1
                try:
                    found = read(bytes.fromhex(case["raw"]) + CANARY)
                except Exception as error:
                    found = repr(error)
                # What an answer to HEAD says of its body is not in Node's answer.
                wanted = [CANARY_READ] if name == "node" and meant[0] == "HEAD" else [meant, CANARY_READ]
                if found != wanted:
                    failed += 1
                    print(f"{case['id']} is read otherwise by {name}: {found} instead of {wanted}")
    return failed, readings


def response_by_h11(raw, method):
    import h11

    connection = h11.Connection(h11.CLIENT)

    def ask(method):
        connection.send(h11.Request(method=method, target="/", headers=[("host", "t")]))
        connection.send(h11.EndOfMessage())

    found = []
    ask(method)
    connection.receive_data(raw)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(b"")
        elif isinstance(event, h11.Response):
            status, body = event.status_code, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found.append((status, body))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return found
            connection.start_next_cycle()
            if not connection.trailing_data[0]:
                return found
            ask("GET")


def response_by_llhttp(raw, method):
    import llhttp

    found, part = [], {}

    class Reader(llhttp.Response):
        def on_message_begin(self):
            part.update(body=b"")

        def on_body(self, data):
            part["body"] += bytes(data)

        def on_message_complete(self):
            if self.status >= 200:
                found.append((self.status, part["body"]))

    reader = Reader()
    reader.execute(raw)
    reader.finish()
    return found


class Replay:
    """Answers `/N` with the bytes of response N, and `/canary` with the canary's."""

    def __init__(self, cases):
        self.cases = cases
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rb") as file:
            while line := file.readline():
                path = line.split(b" ")[1].decode()[1:]
                while file.readline() not in (b"\r\n", b""):
                    pass
                case = None if path == "canary" else self.cases[int(path)]
                try:
                    connection.sendall(bytes.fromhex(case["raw"]) if case else CANARY_ANSWER)
                except OSError:
                    return
                if case and case["closes"]:
                    return


def by_curl(port, index, method):
    how = ["-I"] if method == "HEAD" else ["-X", method] if method != "GET" else []
    with tempfile.NamedTemporaryFile() as body:
        where = [] if method == "HEAD" else ["-o", body.name]
        command = ["curl", "-sS", "-w", "\n%{http_code} ", *how, *where, f"http://127.0.0.1:{port}/{index}",
                   "--next", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/canary"]
        run = subprocess.run(command, capture_output=True, timeout=DEADLINE)
        if run.returncode != 0:
            return f"curl says {run.returncode}: {run.stderr.decode()}"
        status, canary = run.stdout.decode("latin-1").rsplit("\n", 1)[1].split(" ")
        return (int(status), b"" if method == "HEAD" else open(body.name, "rb").read()), int(canary)


def check_responses(cases):
    failed = readings = 0
    replay = Replay(cases)

    def check(name, case, found, wanted):
        nonlocal failed, readings
        readings += 1
        if found != wanted:
            failed += 1
            print(f"{case['id']} is read otherwise by {name}: {found} instead of {wanted}")

    for index, case in enumerate(cases):
        raw, meant = bytes.fromhex(case["raw"]), (case["status"], bytes.fromhex(case["body"]))
        canary = [] if case["closes"] else [(203, b"end")]
        for name, read in [("h11", response_by_h11), ("llhttp", response_by_llhttp)]:
            if name == "llhttp" and case["method"] == "HEAD":
                # Its Python binding has no way to say what was asked for.
                continue
            try:
                found = read(raw + (CANARY_ANSWER if canary else b""), case["method"])
            except Exception as error:
                found = repr(error)
            check(name, case, found, [meant, *canary])
        check("curl", case, by_curl(replay.port, index, case["method"]), (meant, 203))
    document = json.dumps({"port": replay.port, "methods": [case["method"] for case in cases]})
    node = subprocess.run(["node", "-e", NODE_CLIENT], input=document.encode(), capture_output=True, timeout=4 * DEADLINE)
    for case, (found, canary) in zip(cases, json.loads(node.stdout)):
        meant = [case["status"], case["body"]]
        check("node", case, [found, canary], [meant, [203, b"end".hex()]])
    return failed, readings


def main():
    missing = [name for name in ("nginx", "haproxy", "node", "curl") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"not installed: {missing}")
    document = json.load(sys.stdin)
    failed = readings = 0
    for check, cases in [(check_requests, document["requests"]), (check_responses, document["responses"])]:
        more = check(cases) if cases else (0, 0)
        failed, readings = failed + more[0], readings + more[1]
    print(f"{readings} readings, {failed} otherwise")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
