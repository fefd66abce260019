"""Whether every peer does what is compared: checks each request's key, takes it out, streams uploads, keeps connections."""

import socket
import threading


class Recorder:
    """An upstream that notes what reaches it. Answers each request with 200 after its whole body."""

    def __init__(self, port):
        self.begin()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    def begin(self):
        self.heads, self.connections, self.body_bytes = [], 0, 0
        self.body_came = threading.Event()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            self.connections += 1
            threading.Thread(target=self.answer, args=[connection], daemon=True).start()

    def answer(self, connection):
        read = b""
        while True:
            while b"\r\n\r\n" not in read:
                piece = connection.recv(65536)
                if not piece:
                    return
                read += piece
            head, _, read = read.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
            self.heads.append(fields)
            self.read_body(connection, fields, read)
            read = b""
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndone\n")

    def read_body(self, connection, fields, read):
        if fields.get("transfer-encoding") == "chunked":
            while not read.endswith(b"0\r\n\r\n"):
                self.note(len(read))
                read += connection.recv(65536)
            return
        left = int(fields.get("content-length", 0)) - len(read)
        self.note(len(read))
        while left > 0:
            piece = connection.recv(65536)
            if not piece:
                return
            left -= len(piece)
            self.note(len(piece))

    def note(self, count):
        self.body_bytes += count
        if self.body_bytes:
            self.body_came.set()


class Client:
    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), 10)

    def send(self, line, credential, more=""):
        self.connection.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: {credential}\r\n{more}\r\n".encode())

    def status(self):
        read = b""
        while b"\r\n\r\n" not in read:
            read += self.connection.recv(4096)
        head, _, body = read.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
        if fields.get("transfer-encoding") == "chunked":
            while not body.endswith(b"0\r\n\r\n"):
                body += self.connection.recv(4096)
        while len(body) < int(fields.get("content-length", 0)):
            body += self.connection.recv(4096)
        return int(head[9:12])


def check(peer, recorder):
    """What `peer` does not do."""
    recorder.begin()
    process = peer.start()
    try:
        return [fault for fault in findings(peer, recorder) if fault]
    finally:
        process.end()


def findings(peer, recorder):
    known, unknown = peer.credential(peer.keys[-1]), peer.credential(peer.unknown())
    client = Client(peer.http)
    if peer.refuses:
        statuses = []
        for credential in [known, unknown, known]:
            client.send("GET /small", credential)
            statuses.append(client.status())
            if statuses[-1] == 401:
                # Some end the connection after a refusal.
                client = Client(peer.http)
        yield statuses != [200, 401, 200] and f"a known, an unknown and a known key are answered with {statuses}"
        yield any("authorization" in head for head in recorder.heads) and "passes the key on"
    else:
        client.send("GET /small", known)
        client.status()
    before = len(recorder.heads)
    for _ in range(10):
        client.send("GET /small", known)
        client.status()
    yield recorder.connections > 2 and f"opens {recorder.connections} connections to the upstream for requests in turn"
    yield len(recorder.heads) - before != 10 and "answers itself"
    client.send("POST /upload", known, "Content-Length: 65536\r\n")
    client.connection.sendall(b"x" * 32_768)
    yield not recorder.body_came.wait(2) and "holds uploads back until they are whole"
    client.connection.sendall(b"x" * 32_768)
    yield client.status() != 200 and "refuses an upload"
