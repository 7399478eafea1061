"""What `shopstream replay` refuses before it connects to anything."""

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--into"),
        (("--into", "lake"), "lake"),
        (("--into", "online", "--all"), "--all needs --topic"),
        (("--into", "online", "--topic", "shop.tea"), "shop.tea"),
    ],
)
def test_wrong_use_is_2(arguments: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 2
    assert named in result.output
