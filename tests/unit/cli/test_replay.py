"""What `shopstream replay` refuses before it connects to anything."""

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--into"),
        (("--into", "lake"), "lake"),
        (("--into", "online", "--all"), "needs --topic"),
        (("--into", "online", "--topic", "shop.tea"), "shop.tea"),
        (("--into", "online", "--from", "-2h"), "--from"),
        (("--into", "online", "--resume"), "--resume"),
        (("--into", "history", "--all", "--topic", "shop.clicks.v1"), "--all"),
        (("--into", "history", "--from-epoch", "x:4"), "--from-epoch"),
        (("--into", "topic"), "--to-topic"),
        (("--into", "nothing", "--to-topic", "x"), "--to-topic"),
        (("--into", "nothing", "--resume", "--restart"), "--resume"),
        (("--into", "nothing", "--source", "kafka", "--lake-time", "-2h"), "--lake-time"),
    ],
)
def test_wrong_use_is_2(arguments: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 2
    assert named in result.output
