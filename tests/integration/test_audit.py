"""`make audit` against a local server that speaks OSV's API: silence must not pass for a clean bill."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT

AUDIT = ROOT / ".ci" / "audit.py"
REQUIREMENT = f"redis==7.0.0 --hash=sha256:{'1' * 64}\n"
CONTROL = {"django": "PYSEC-0000-1"}


@contextmanager
def advisories(known: Mapping[str, str]) -> Iterator[str]:
    """Answer queries with one advisory for each package named, and with none for the others."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]
            found = []
            if asked["name"] in known:
                ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]
                affected = [{"package": asked, "ranges": ranges}]
                found = [
                    {"id": known[asked["name"]], "summary": "bad", "aliases": ["CVE-0000-1"], "affected": affected}
                ]
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(folder: Path, url: str, ignored: str = "") -> tuple[int, str]:
    requirements, accepted = folder / "requirements.txt", folder / "ignored.toml"
    requirements.write_text(REQUIREMENT)
    accepted.write_text(ignored)
    command = [sys.executable, str(AUDIT), "--osv-url", url]
    command += ["--requirements", str(requirements), "--ignored", str(accepted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_known_vulnerability_fails(tmp_path: Path) -> None:
    with advisories({**CONTROL, "redis": "PYSEC-0000-2"}) as url:
        code, said = audit(tmp_path, url)
    assert code == 1
    assert "VULNERABLE: redis 7.0.0: PYSEC-0000-2, CVE-0000-1; fixed in 99.0" in said


def test_an_accepted_one_is_told_with_its_reason(tmp_path: Path) -> None:
    entry = '[[ignored]]\nid = "CVE-0000-1"\nreason = "not reached"\n[[ignored]]\nid = "CVE-0"\nreason = "old"\n'
    with advisories({**CONTROL, "redis": "PYSEC-0000-2"}) as url:
        code, said = audit(tmp_path, url, entry)
    assert code == 0
    assert said.endswith(f"audit: 1 packages looked up at {url}, 0 known vulnerabilities\n")
    assert "accepted, not reached: redis 7.0.0" in said
    assert "CVE-0 applies to nothing any more" in said


@pytest.mark.parametrize("source", ["out of reach", "silent"])
def test_a_source_that_does_not_answer_is_no_clean_bill(tmp_path: Path, source: str) -> None:
    with advisories({}) as url:
        code, said = audit(tmp_path, url if source == "silent" else "http://127.0.0.1:1/v1/query")
    assert code == 75
    assert said.startswith("audit: NOT DONE: ")
    assert "0 known" not in said


def test_an_exception_needs_a_reason(tmp_path: Path) -> None:
    code, said = audit(tmp_path, "http://127.0.0.1:1/", '[[ignored]]\nid = "CVE-1"\nreason = " "\n')
    assert code == 1
    assert "gives no reason for CVE-1" in said
