"""The settings of the lake: where it is, and how long it keeps what."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, SecretStr, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from config.security import contradiction
from config.services import Section

_SCHEME: Final = re.compile(r"^([a-z0-9+.-]+)://?", re.IGNORECASE)
_S3: Final = re.compile(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/?#]+)*$")


def _folder_or_address(value: Any, folder: ValidatorFunctionWrapHandler) -> Path | str:
    if not isinstance(value, str) or not _SCHEME.match(value):
        return Path(folder(value))
    address = value.rstrip("/")
    if not _S3.match(address):
        raise contradiction("lake.path must be a folder or s3://bucket/prefix")
    return address


class LakeSettings(Section):
    """Delta Lake."""

    path: Annotated[Path | str, WrapValidator(_folder_or_address)] = Field(
        Path(), description="folder of the Delta tables, or s3://bucket/prefix; <home>/lake when not set"
    )
    s3_endpoint: str = Field("", description="URL of an S3 server that is not Amazon's; AWS_ENDPOINT_URL if unset")
    s3_region: str = Field("", description="region of the bucket; AWS_REGION if unset")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="S3 key; what AWS_* variables or the machine tell")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="its secret")
    s3_session_token: SecretStr = Field(SecretStr(""), description="token of a temporary S3 key")
    retention_hours: int = Field(168, ge=24, description="files stay for so long after `lake maintain` replaced them")
    history_hours: int = Field(
        1, ge=1, description="a version can be read for so long after the next one; 1,000 commits cost each commit 6 ms"
    )
    feature_log_interval_ms: int = Field(
        0, ge=0, le=86_400_000, description="of a flush, log a user's newest state per so long; 0 for every one"
    )
    feature_log_retention_days: int = Field(
        0, ge=0, description="days of feature_log that `lake maintain` keeps, at least 2; 0 for ever"
    )

    @property
    def s3_address(self) -> str:
        """The lake's address in an object store; empty for a local folder."""
        return self.path if isinstance(self.path, str) else ""

    @property
    def storage_options(self) -> Mapping[str, str]:
        """What delta-rs needs to reach the lake; holds secrets. What is unset here is left to AWS_* variables."""
        if not self.s3_address:
            return {}
        given = {
            "aws_endpoint": self.s3_endpoint,
            "aws_region": self.s3_region,
            "aws_access_key_id": self.s3_access_key_id.get_secret_value(),
            "aws_secret_access_key": self.s3_secret_access_key.get_secret_value(),
            "aws_session_token": self.s3_session_token.get_secret_value(),
        }
        options = {name: value for name, value in given.items() if value}
        if self.s3_endpoint.startswith("http://"):
            options["aws_allow_http"] = "true"
        # The store itself refuses the second of two commits of one version; a rename that may overwrite never does.
        return options | {"conditional_put": "etag", "aws_s3_allow_unsafe_rename": "false"}

    @model_validator(mode="after")
    def _check(self) -> Self:
        key, secret = self.s3_access_key_id.get_secret_value(), self.s3_secret_access_key.get_secret_value()
        if bool(key) != bool(secret):
            raise contradiction("lake.s3_access_key_id and lake.s3_secret_access_key must be set together")
        if self.feature_log_retention_days == 1:
            raise contradiction("lake.feature_log_retention_days must be 0 or at least 2: windows reach back 24 h")
        if self.s3_session_token.get_secret_value() and not key:
            raise contradiction("lake.s3_session_token is set without lake.s3_access_key_id")
        if self.s3_endpoint and not re.match(r"^https?://[^/@]+$", self.s3_endpoint.rstrip("/")):
            raise contradiction("lake.s3_endpoint must be http://host:port or https://host, without a login")
        return self
