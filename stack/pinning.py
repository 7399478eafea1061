"""Writes `artifacts.lock.json` anew: `python -m stack.pinning`, for whoever raises a version."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from stack.artifacts import KAFKA, LOCK_FILE, REGISTRY, sha256_of

KAFKA_VERSION = "4.3.1"
REGISTRY_VERSION = "3.3.3"
_SLF4J_VERSION = "1.7.36"  # of slf4j-api among Kafka's own dependencies; without a binding the broker logs nothing


def main() -> int:
    """Resolve, download and hash everything, and write the lock file."""
    from jgo.maven import Dependency, MavenContext, PythonResolver

    folder = Path(tempfile.mkdtemp(prefix="shopstream-pinning-"))
    try:
        context = MavenContext(resolver=PythonResolver(), repo_cache=folder, timeout=60)
        broker = context.project("org.apache.kafka", "kafka_2.13").at_version(KAFKA_VERSION).artifact()
        inputs, transitive = context.resolver.resolve([Dependency(broker)])
        logging = context.project("org.slf4j", "slf4j-simple").at_version(_SLF4J_VERSION).artifact()
        app = context.project("io.apicurio", "apicurio-registry-app").at_version(REGISTRY_VERSION)
        parts = [(KAFKA, dependency.artifact) for dependency in [*inputs, *transitive]]
        entries = []
        for part, artifact in [*parts, (KAFKA, logging), (REGISTRY, app.artifact("all", "tar.gz"))]:
            path = Path(artifact.resolve())
            group, name, version, classifier, packaging = artifact.key
            entries.append(
                {
                    "part": part,
                    "coordinate": f"{group}:{name}:{version}:{classifier}:{packaging}",
                    "size_bytes": path.stat().st_size,
                    "sha256": sha256_of(path),
                }
            )
        entries.sort(key=lambda entry: (entry["part"], entry["coordinate"]))
        LOCK_FILE.write_text(json.dumps({"artifacts": entries}, indent=1) + "\n")
        sys.stderr.write(f"{len(entries)} files pinned in {LOCK_FILE.name}\n")
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
