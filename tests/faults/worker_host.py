"""Workers that start in a second: a process that has imported everything forks one for each request.

`python -m tests.faults.worker_host` reads requests from its standard input, a JSON object per line, and answers each
with one. When its input ends it kills its workers and ends; a worker is killed, too, when its host is (on Linux).

It must have no thread of its own when it forks, so nothing here opens a client or a pool.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_MODULES: Final = (  # also what is imported only on the way
    "confluent_kafka.admin",
    "confluent_kafka.schema_registry",
    "deltalake",
    "faust.app.router",
    "faust.assignor.partition_assignor",
    "faust.stores.memory",
    "faust.tables.manager",
    "faust.worker",
    "feast.infra.compute_engines.local.compute",
    "feast.infra.offline_stores.dask",
    "feast.infra.passthrough_provider",
    "feast.infra.registry.sql",
    "feast.repo_operations",
    "feast.transformation.udf_rehydrate",
    "feature_repo.definitions",
    "feature_repo.online_store",
    "feature_repo.registry_store",
    "mode.debug",
    "streams.worker",
    "tests.faults.crash_plan",
)


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever runs the scenarios
    _import_everything()
    if threading.active_count() > 1:
        sys.stderr.write(f"an import has started a thread: {threading.enumerate()}\n")
        return 1
    gc.collect()
    gc.freeze()  # so that the workers share these pages
    random.seed()
    _say({"ready": os.getpid()})
    running: set[int] = set()
    ended: dict[int, int] = {}
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "start":
                pid = _fork(request)
                ended.pop(pid, None)  # the system uses numbers again
                running.add(pid)
                _say({"pid": pid})
            else:
                _reap(running, ended, wait=False)
                _say({"ended": {str(pid): code for pid, code in ended.items()}})
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        _reap(running, ended, wait=True)
    return 0


def _import_everything() -> None:
    from feature_repo import load_feast

    load_feast()
    for name in _MODULES:
        importlib.import_module(name)


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _reap(running: set[int], ended: dict[int, int], *, wait: bool) -> None:
    for pid in sorted(running):
        found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
        if found:
            running.discard(pid)
            ended[pid] = os.waitstatus_to_exitcode(status)


def _fork(request: Mapping[str, Any]) -> int:
    host = os.getpid()
    pid = os.fork()
    if not pid:
        _work_and_leave(request, host)
    return pid


def _work_and_leave(request: Mapping[str, Any], host: int) -> NoReturn:
    try:
        code = _be_a_worker(request, host)
    except BaseException:  # noqa: BLE001 - whatever it is, the host's code must not run in the child
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _be_a_worker(request: Mapping[str, Any], host: int) -> int:
    os.setsid()
    _die_with(host)
    _redirect(Path(request["log"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    for name in [name for name in os.environ if name.startswith("SHOPSTREAM_")]:
        del os.environ[name]
    os.environ.update(request["environment"])
    if request["file_bytes_max"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond it then fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes_max"],) * 2)

    from config.settings import load_settings

    settings = load_settings()
    _plan_crash(request["crash"])
    if request["is_planted"]:
        _plant_records()

    from config.errors import ShopstreamError
    from streams.worker import run_worker

    try:
        result = run_worker(settings)
    except ShopstreamError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(result.sentence() + "\n")
    Path(request["log"]).with_suffix(".json").write_text(json.dumps(result.records))
    return result.exit_code


def _die_with(host: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != host:  # it was killed before we asked
            os._exit(1)


def _redirect(log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the host's requests are not the worker's
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(nothing)


def _plan_crash(planned: Mapping[str, Any] | None) -> None:
    """Have this process's worker built with points around its effects."""
    if planned is None:
        return
    import streams.worker
    from tests.faults.crash_plan import Crash, CrashPlan, through, watch_commits

    crash = Crash(CrashPlan(**planned))
    build = streams.worker.build_app

    def build_watched(settings: Any, **options: Any) -> Any:
        app = build(settings, **options, through=through(settings, crash.reached))
        crash.watch(app.ownership.loop)
        watch_commits(app, crash.reached)
        return app

    streams.worker.build_app = build_watched


def _plant_records() -> None:
    """Have this process's decoder, and that of its probing process, die of certain records."""
    import streams.worker
    from tests import planted_records

    planted_records.plant()
    build = streams.worker.build_app

    def build_planted(settings: Any, **options: Any) -> Any:
        return build(settings, **options, probing=planted_records.COMMAND)

    streams.worker.build_app = build_planted


if __name__ == "__main__":
    sys.exit(main())
