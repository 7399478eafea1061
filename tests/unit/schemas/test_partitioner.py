import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from schemas.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "java"),  # the vectors of Kafka's own UtilsTest, which gives them signed
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(key: bytes, java: int) -> None:
    assert murmur2(key) == java & 0xFFFFFFFF


@given(st.binary(max_size=80), st.integers(1, 200))
def test_partition_is_that_of_aiokafka(key: bytes, partition_count: int) -> None:
    partitions = list(range(partition_count))
    assert partition_of(key, partition_count) == DefaultPartitioner()(key, partitions, partitions)
