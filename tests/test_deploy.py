"""The unit file is one that systemd accepts, and the image's recipe names what is there."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import ROOT

UNIT = ROOT / "deploy" / "anomaly.service"


def test_systemd_accepts_the_unit(tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine; apt-get install systemd")
    unit = tmp_path / "anomaly.service"
    unit.write_text(UNIT.read_text().replace("/opt/anomaly/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    about_ours = [line for line in (done.stdout + done.stderr).splitlines() if "anomaly.service" in line]
    assert about_ours == []
    assert done.returncode == 0, done.stderr


def test_the_unit_notifies_is_watched_and_keeps_no_password():
    text = UNIT.read_text()
    parser = configparser.RawConfigParser(strict=False, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    service = parser["Service"]
    assert (service["Type"], service["Restart"], service["KillMode"]) == ("notify", "always", "mixed")
    assert int(service["WatchdogSec"]) > 0
    # Cameras 10 s, page 10, messages 5, clips 5, retention 30, pictures 10: killed earlier it loses what it holds.
    assert int(service["TimeoutStopSec"]) > 70
    # The first start scores the evidence of every model (1,300 frames each) and builds engines: killed at it, it would
    # begin anew for ever.
    assert int(service["TimeoutStartSec"]) >= 1800
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["LimitCORE"]) == (
        "yes",
        "strict",
        "0",
    )
    address = re.search(r"--source '([^']*)'", service["ExecStart"])
    assert address is not None
    from anomaly.edge.address import parse_address

    # As the program gets it: systemd has taken one dollar away and put the folder in.
    given = address[1].replace("$$", "$").replace("%d", "/run/credentials/anomaly.service")
    parsed = parse_address(given)
    assert parsed.shown == "rtsp://camera.local/stream"
    assert "LoadCredential=camera:" in text


def test_the_image_copies_only_what_is_there_and_runs_as_nobody_in_particular():
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    assert "[edge]" in text
    assert "/healthz" in text


def test_a_container_has_as_long_to_stop_as_the_service_and_its_log_an_end():
    docs = (ROOT / "docs" / "edge.md").read_text()
    line = docs.partition("docker run")[2].partition("anomaly run")[0]
    stop_s = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    given = re.search(r"--stop-timeout (\d+)", line)
    assert stop_s is not None
    # Docker's own ten seconds are less than the last segments, pictures and messages take.
    assert given is not None
    assert int(given[1]) >= int(stop_s[1])
    # Docker keeps all that was ever written to standard error, on the disk of the events.
    assert "max-size=" in line
