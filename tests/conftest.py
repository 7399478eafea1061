"""Fixtures of all tests: a real stack, settings of one's own on it, empty topics, the sample of real traffic."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import hypothesis
import pytest

from config.settings import Settings, load_settings
from stack.embedded import EmbeddedStack, Endpoints
from stack.errors import StackInterruptedError
from tests.containers import container_stack, engine_problem, wanted
from tests.fresh_topics import recreate_topics

ROOT = Path(__file__).resolve().parent.parent
REES46_FILE = ROOT.parent / "shared" / "data" / "rees46-2019-10-01-sample.csv"
_NOT_SETTINGS = {"SHOPSTREAM_REQUIRE", "SHOPSTREAM_TEST_STACK", "SHOPSTREAM_CACHE_DIR"}
hypothesis.settings.register_profile("without deadlines", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("without deadlines")

_SECONDS_BY_FOLDER = pytest.StashKey[dict[str, float]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the time that each folder of tests takes."""
    config.stash[_SECONDS_BY_FOLDER] = {}


class _Times:
    """Adds up the time of each test; the files themselves run in other processes when there are several."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        folder = "/".join(report.nodeid.split("/")[:2])
        self._seconds[folder] = self._seconds.get(folder, 0.0) + report.duration


def pytest_sessionstart(session: pytest.Session) -> None:
    """Watch the tests."""
    session.config.pluginmanager.register(_Times(session.config.stash[_SECONDS_BY_FOLDER]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the time of each folder."""
    seconds = config.stash[_SECONDS_BY_FOLDER]
    if len(seconds) > 1:
        terminalreporter.section("time by folder")
        for folder, spent in sorted(seconds.items(), key=itemgetter(1), reverse=True):
            terminalreporter.write_line(f"{spent:8.1f} s  {folder}")


@contextmanager
def embedded_stack(home: Path, cache_dir: Path) -> Iterator[Endpoints]:
    """Run a stack that ends with this block, and also when this process is killed."""
    home.mkdir(parents=True, exist_ok=True)
    guard = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "stack_guard.py"), str(home), str(cache_dir)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must not end the guard before it has done its work
    )
    try:
        yield EmbeddedStack(home, cache_dir).up(progress=lambda line: print(line, file=sys.stderr))  # noqa: T201
    except StackInterruptedError as error:  # it has stopped what it started; now the run itself must end
        raise KeyboardInterrupt from error
    finally:
        EmbeddedStack(home, cache_dir).down()
        shutil.rmtree(home, ignore_errors=True)
        guard.communicate()


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Folder of the downloaded files, shared with the stacks of daily use."""
    configured = os.environ.get("SHOPSTREAM_CACHE_DIR")
    default: Path = Settings.model_fields["cache_dir"].default
    return (Path(configured) if configured else default).expanduser()


@pytest.fixture(scope="session")
def stack(cache_dir: Path) -> Iterator[Endpoints]:
    """Real Kafka, schema registry and Redis for the whole run: embedded, or containers where that is asked for."""
    if wanted():
        problem = engine_problem()
        if problem:
            pytest.skip(problem)
        with container_stack() as endpoints:
            yield endpoints
        return
    with embedded_stack(Path(tempfile.mkdtemp(prefix="shopstream-test-")), cache_dir) as endpoints:
        yield endpoints


@pytest.fixture
def settings(stack: Endpoints, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings on the test's stack, with a home, a Feast project and a consumer group of the test's own."""
    for name in [name for name in os.environ if name.startswith("SHOPSTREAM_") and name not in _NOT_SETTINGS]:
        monkeypatch.delenv(name)
    own = uuid.uuid4().hex[:12]
    overrides: Mapping[str, object] = {
        "home": tmp_path / "home",
        "cache_dir": cache_dir,
        "kafka": {"bootstrap_servers": stack.kafka},
        "registry": {"url": stack.registry},
        "redis": {"url": stack.redis},
        "feast": {"project": f"test_{own}"},
        "worker": {"group_id": f"test-{own}"},
        "gates": {"freshness_policy": "off"},  # many tests send events of the past
    }
    return load_settings(overrides)


@pytest.fixture
def topics(settings: Settings) -> tuple[str, ...]:
    """The event topics and the topic of dead letters, empty, with a log epoch of this test's own."""
    return recreate_topics(settings)


@pytest.fixture(scope="session")
def rees46_file() -> Path:
    """The sample of real shop traffic; it is not part of the repository."""
    if not REES46_FILE.is_file():
        pytest.skip(f"the sample {REES46_FILE.name} is not beside this clone (../shared/data)")
    return REES46_FILE
