"""An S3 server for tests, in an environment of its own: its packages and ours ask for different ones of a third."""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.environment import locked_python

KEY, SECRET, REGION = "test-key", "test-secret", "us-east-1"
_SIGNED = f"AWS4-HMAC-SHA256 Credential={KEY}/20200101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"

# One request after the other: whether a key is there is looked at, and the key written, as one step.
_SCRIPT = """
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.port, flush=True)
server.serve_forever()
"""


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Run a server; yield its address."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(locked_python("s3")), "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def put(address: str, path: str, body: bytes = b"", **headers: str) -> int:
    """Put an object, or a bucket; return the status."""
    request = urllib.request.Request(
        f"{address}/{path}",
        data=body,
        method="PUT",
        headers={"Authorization": _SIGNED, **{name.replace("_", "-"): value for name, value in headers.items()}},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
