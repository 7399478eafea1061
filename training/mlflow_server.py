"""Questions to MLflow: told apart by what came of them, tried again where that may help, without noise or telemetry."""

import logging
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from training.errors import ModelRegistryError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE: Final = "sqlite:///"
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # it is tried again here
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_PASSING: Final = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
_NO_ALIAS: Final = "alias"  # MLflow calls that an invalid value

_Answer = TypeVar("_Answer")


class _AskedError(Exception):
    """MLflow refused, or did not answer."""

    def __init__(self, code: str, said: str) -> None:
        super().__init__(said)
        self.code = code


class MlflowServer:
    """Asks one tracking server, or a SQLite file. Blocking; nothing is connected to before the first question.

    Args:
        uri: of the server, or `sqlite:///` and the path of a file.
        attempts: tries in a row of one question.
    """

    def __init__(self, uri: str, attempts: int) -> None:
        self._uri = uri
        self._attempts = attempts
        self._client: MlflowClient | None = None

    def ask(self, question: "Callable[[MlflowClient], _Answer]") -> _Answer:
        """Return the answer.

        Args:
            question: may be asked more than once.

        Raises:
            ModelRegistryError: there is none.
        """
        try:
            return self._asked(question)
        except _AskedError as error:
            raise self._explained(error) from error

    def find(self, question: "Callable[[MlflowClient], _Answer]") -> _Answer | None:
        """Return the answer; None where the server does not have what is asked for.

        Raises:
            ModelRegistryError: it does not answer.
        """
        try:
            return self._asked(question)
        except _AskedError as error:
            if error.code == _MISSING or (error.code == "INVALID_PARAMETER_VALUE" and _NO_ALIAS in str(error)):
                return None
            raise self._explained(error) from error

    def ensure(self, question: "Callable[[MlflowClient], Any]") -> None:
        """Have something created, if it is not there.

        Raises:
            ModelRegistryError: the server does not answer.
        """
        try:
            self._asked(question)
        except _AskedError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise self._explained(error) from error

    def _asked(self, question: "Callable[[MlflowClient], _Answer]") -> _Answer:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, _AskedError) and error.code in _PASSING),
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential(multiplier=0.2, max=2.0),
            reraise=True,
        )
        answer: _Answer = retrying(self._once, question)
        return answer

    def _once(self, question: "Callable[[MlflowClient], _Answer]") -> _Answer:
        if self._client is None:
            self._client = self._connected()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return question(self._client)
        except MlflowException as error:
            raise _AskedError(error.error_code, error.message) from error
        except (OSError, SQLAlchemyError) as error:
            raise _AskedError("INTERNAL_ERROR", str(error)) from error

    def _connected(self) -> "MlflowClient":
        os.environ.update(_ENVIRONMENT)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is told by the error
        if self._uri.startswith(_SQLITE):
            _check_writable(Path(self._uri.removeprefix(_SQLITE)))
        with _without_warnings():
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
            from sqlalchemy.exc import SQLAlchemyError

            try:
                return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            except MlflowException as error:
                raise _AskedError(error.error_code, error.message) from error
            except (OSError, SQLAlchemyError) as error:
                raise _AskedError("INTERNAL_ERROR", str(error)) from error

    def _explained(self, error: _AskedError) -> ModelRegistryError:
        said = (str(error).splitlines() or [error.code])[0]
        secret, at, _ = urlsplit(self._uri).netloc.rpartition("@")
        return ModelRegistryError(
            f"The registry of models at {self._shown()} does not do what it was asked for: "
            f"{said.replace(secret + at, '') if at else said}.",
            hint="Check that the server runs and that training.tracking_uri is right; a SQLite file needs a disk with "
            "room, and this user must be allowed to write there.",
        )

    def _shown(self) -> str:
        """Return the address without what may be secret in it."""
        if self._uri.startswith(_SQLITE):
            return self._uri
        parts = urlsplit(self._uri)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")


def _check_writable(path: Path) -> None:
    """Look whether SQLite can use a file: MLflow would go on trying for minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as found:
            found.execute("PRAGMA user_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise _AskedError("BAD_REQUEST", f"{path} cannot be opened: {error}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of the libraries below it
        yield
