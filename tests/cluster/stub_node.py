"""Stands in for a node in tests of the runner: listens, says that it is ready, echoes lines with its own name first."""

from __future__ import annotations

import json
import signal
import socketserver
import sys
import threading
from pathlib import Path

from node.config import load


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(NAME + b" " + line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


config = load(sys.argv[sys.argv.index("--home") + 1])
NAME = Path(config.home).name.encode()
if (config.home / "fail").exists():
    sys.exit(2)
with Server(("127.0.0.1", config.p2p.port), Echo) as server:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(json.dumps({"ready": True, "pid": NAME.decode()}), flush=True)
    server.serve_forever(poll_interval=0.02)
