"""The command as a whole: help, exit codes, errors without a traceback."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def shopstream(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(cwd), "COLUMNS": "200", **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from cli.main import app; "
        "print([name for name in ('feast', 'faust', 'deltalake', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    done = shopstream("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("demo", "doctor", "stack", "produce", "worker", "status", "schema", "features", "events", "config"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["produce", "--rate", "many"],
        ["--set", "no-equals-sign", "config", "show"],
        ["--set", "worker.no_such_setting=1", "config", "show"],
        ["status"],
    ],
)
def test_wrong_use_is_exit_code_2_and_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    done = shopstream(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_a_failure_is_exit_code_1_and_debug_shows_where(tmp_path: Path) -> None:
    arguments = ["--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "kafka.timeout_s=0.5", "status"]
    done = shopstream(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in shopstream("--debug", *arguments, cwd=tmp_path).stderr


def test_a_command_ends_in_order_and_leaves_the_interpreter_as_it_is(tmp_path: Path) -> None:
    script = (
        "import atexit, sys, threading; from cli.main import run_and_end; "
        "atexit.register(print, 'cleaned'); done = threading.Event(); "
        "threading.Thread(target=lambda: (done.wait(30), print('thread'))).start(); "
        "threading.Timer(0.1, done.set).start(); "
        "kept = type('Kept', (), {'__del__': lambda _self: print('taken apart')})(); "
        "run_and_end(['no-such-command'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (2, ["thread", "cleaned"])


def test_defaults_are_in_the_help(tmp_path: Path) -> None:
    assert "[default: now]" in shopstream("features", "get", "--help", cwd=tmp_path).stdout
    assert "[default: .shopstream]" in shopstream("--help", cwd=tmp_path).stdout


def test_config_show_tells_origins_and_masks_secrets(tmp_path: Path) -> None:
    env = {"SHOPSTREAM_REDIS__URL": "redis://user:swordfish@127.0.0.1:1/0"}
    done = shopstream("--set", "worker.flush_rows=9", "config", "show", "--json", cwd=tmp_path, env=env)
    shown = json.loads(done.stdout)
    assert shown["worker.flush_rows"] == {"value": "9", "origin": "flag"}
    assert shown["redis.url"]["origin"] == "environment"
    assert "swordfish" not in done.stdout + done.stderr
