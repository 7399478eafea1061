import pytest

from stack.embedded import Endpoints


@pytest.mark.stack
def test_it_answers(stack: Endpoints) -> None:
    assert stack.kafka
