"""Look up every locked package for known vulnerabilities: `make audit`.

Exit codes: 0 none is known, 1 one is known and not in `requirements/audit-ignored.toml`, 75 the look-up was not done.
An advisory source that is out of reach, or that knows nothing, must not pass for a clean bill: so one more package is
looked up, whose vulnerabilities are known to everybody, and without an answer about it nothing was audited.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
IGNORED = ROOT / "requirements" / "audit-ignored.toml"
CONTROL, CONTROL_VERSION = "django", "2.0"
DONE, FOUND, NOT_DONE = 0, 1, 75
TIMEOUT_S = 300


class NotDoneError(Exception):
    """The look-up did not take place; the text says why."""


@dataclass(frozen=True)
class Vulnerability:
    """One advisory that applies to a locked package."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def line(self) -> str:
        """Say it in one line."""
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version is known"
        return f"{self.package} {self.version}: {', '.join(self.names)}; {fix}"


def look_up(requirements: Path, service: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return what pip-audit says of each package, the control included.

    Raises:
        NotDoneError: it gave no complete answer.
    """
    with tempfile.TemporaryDirectory(prefix="shopstream-audit-") as folder:
        control, answer = Path(folder) / "control.txt", Path(folder) / "answer.json"
        control.write_text(f"{CONTROL}=={CONTROL_VERSION} --hash=sha256:{'0' * 64}\n")
        command = [
            sys.executable, "-m", "pip_audit", "--strict", "--disable-pip", "--require-hashes", "--progress-spinner",
            "off", "--format", "json", "--output", str(answer), "--cache-dir", folder, *service,
            "-r", str(requirements), "-r", str(control),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise NotDoneError(f"no answer within {TIMEOUT_S} s") from None
        if not answer.is_file():
            lines = done.stderr.strip().splitlines() or [f"pip-audit ended with code {done.returncode}"]
            raise NotDoneError(lines[-1].removeprefix("ERROR:pip_audit._cli:"))
        found: list[Mapping[str, Any]] = json.loads(answer.read_text())["dependencies"]
    skipped = [f"{each['name']} ({each['skip_reason']})" for each in found if "skip_reason" in each]
    if skipped:
        raise NotDoneError(f"not looked up: {', '.join(skipped)}")
    if not any(each["name"] == CONTROL and each["vulns"] for each in found):
        raise NotDoneError(f"the source knows nothing of {CONTROL} {CONTROL_VERSION}, so its silence means nothing")
    return [each for each in found if each["name"] != CONTROL]


def look_up_somewhere(requirements: Path, osv_url: str) -> tuple[list[Mapping[str, Any]], str]:
    """Ask PyPI, and OSV if that fails; return the answer and who gave it.

    Raises:
        NotDoneError: neither answered.
    """
    services = {"PyPI": ["--vulnerability-service", "pypi"], "OSV": ["--vulnerability-service", "osv"]}
    if osv_url:
        services = {osv_url: ["--vulnerability-service", "osv", "--osv-url", osv_url]}
    reasons = []
    for name, service in services.items():
        try:
            return look_up(requirements, service), name
        except NotDoneError as error:
            reasons.append(f"{name}: {error}")
    raise NotDoneError("; ".join(reasons))


def ignored(path: Path) -> dict[str, str]:
    """Read the reviewed exceptions: reason by advisory."""
    entries = tomllib.loads(path.read_text()).get("ignored", [])
    unexplained = [entry for entry in entries if not entry.get("reason", "").strip()]
    if unexplained:
        raise SystemExit(f"audit: {path.name} gives no reason for {unexplained[0].get('id')}")
    return {entry["id"]: entry["reason"] for entry in entries}


def say(line: str) -> None:
    """Print a line of the report."""
    sys.stdout.write(f"audit: {line}\n")


def main() -> int:
    """Look up, report, and return the exit code."""
    parser = argparse.ArgumentParser(description="Look up every locked package for known vulnerabilities.")
    parser.add_argument("--requirements", type=Path, default=REQUIREMENTS)
    parser.add_argument("--ignored", type=Path, default=IGNORED)
    parser.add_argument("--osv-url", default="", help="ask this server, which speaks OSV's API, and no other")
    options = parser.parse_args()
    reasons = ignored(options.ignored)
    try:
        packages, source = look_up_somewhere(options.requirements, options.osv_url)
    except NotDoneError as error:
        say(f"NOT DONE: {error}")
        return NOT_DONE
    known = [
        Vulnerability(each["name"], each["version"], (found["id"], *found["aliases"]), tuple(found["fix_versions"]))
        for each in packages
        for found in each["vulns"]
    ]
    accepted = {name for each in known for name in each.names if name in reasons}
    open_ones = [each for each in known if not accepted & set(each.names)]
    for each in known:
        why = next((reasons[name] for name in each.names if name in reasons), "")
        say(f"{'accepted, ' + why if why else 'VULNERABLE'}: {each.line()}")
    for name in sorted(reasons.keys() - accepted):
        say(f"{name} applies to nothing any more; remove it from {options.ignored.name}")
    say(f"{len(packages)} packages looked up at {source}, {len(open_ones)} known vulnerabilities")
    return FOUND if open_ones else DONE


if __name__ == "__main__":
    sys.exit(main())
