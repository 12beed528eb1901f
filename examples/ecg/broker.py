"""A real MQTT 5 broker on loopback: mosquitto where it is installed, else the embedded iotcore."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

_WAIT_S = 10.0

_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
"""

_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""


def find_mosquitto() -> str | None:
    """The mosquitto program; Debian keeps it in /usr/sbin, which is not on every user's path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class LocalBroker:
    """A broker on a free port of loopback, until `stop`.

    Args:
        folder: for its configuration and log.
        kind: `mosquitto`, `iotcore`, or None for the first of them that is installed.
        rules: more lines for the configuration of mosquitto.
    """

    def __init__(self, folder: Path, kind: str | None = None, rules: str = "") -> None:
        self.kind = kind or ("mosquitto" if find_mosquitto() else "iotcore")
        self.port = free_port()
        self._folder = folder
        self._rules = rules
        self._process: Any = None

    def start(self) -> LocalBroker:
        """Start it and wait until it accepts connections.

        Raises:
            RuntimeError: it does not within ten seconds.
        """
        if self.kind == "mosquitto":
            self._start_mosquitto()
        else:
            self._start_iotcore()
        return self

    def stop(self) -> None:
        """End it; safe to call twice."""
        process, self._process = self._process, None
        if isinstance(process, subprocess.Popen):
            process.terminate()
            process.wait(timeout=_WAIT_S)
        elif process is not None:
            process.stop()

    def kill(self) -> None:
        """End mosquitto at once, as a crash would; `start` brings it back on the same port."""
        process, self._process = self._process, None
        process.kill()
        process.wait(timeout=_WAIT_S)

    def _start_mosquitto(self) -> None:
        program = find_mosquitto()
        if program is None:
            raise RuntimeError("mosquitto is not installed: apt-get install mosquitto")
        config = self._folder / "mosquitto.conf"
        config.write_text(_MOSQUITTO.format(port=self.port) + self._rules)
        with (self._folder / "mosquitto.log").open("wb") as log:
            self._process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + _WAIT_S
        while not _accepts(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"mosquitto does not start: see {self._folder}/mosquitto.log")
            time.sleep(0.05)

    def _start_iotcore(self) -> None:
        from iotcore import Broker

        config = self._folder / "iotcore.toml"
        config.write_text(_IOTCORE.format(port=self.port))
        self._process = Broker(config_path=str(config)).start(timeout=_WAIT_S)


def free_port() -> int:
    """A TCP port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
