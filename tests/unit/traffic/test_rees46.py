from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from traffic.errors import SampleFileError
from traffic.rees46 import Oddity, OddRow, Rees46File, price_minor
from traffic.timed import Mark, TimedEvent

HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
SESSION = "72d76fde-8bb3-4e00-8c23-a032dfed738c"
FIRST = f"2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,{SESSION}"
SECOND = f"2019-10-01 00:00:07 UTC,cart,1004833,2053013555631882655,electronics.smartphone,samsung,174.76,1,{SESSION}"
THIRD = (
    f"2019-10-01 00:01:00 UTC,purchase,1004833,2053013555631882655,electronics.smartphone,samsung,174.76,1,{SESSION}"
)
FIRST_MS = int(datetime(2019, 10, 1, tzinfo=UTC).timestamp()) * 1_000


def export(folder: Path, *rows: str | bytes, end: bytes = b"\r\n") -> Path:
    path = folder / "export.csv"
    lines = [row if isinstance(row, bytes) else row.encode() for row in (HEADER, *rows)]
    path.write_bytes(b"\r\n".join(lines) + end)
    return path


def read(path: Path, start_ms: int | None = None) -> tuple[list[TimedEvent], Rees46File]:
    file = Rees46File(path, "USD", start_ms)
    return list(file.events()), file


def odd_rows(folder: Path, row: str | bytes, end: bytes = b"\r\n") -> list[OddRow]:
    """What is said of a row between two good ones; the good ones must come through."""
    rows = (FIRST, row, THIRD) if end else (FIRST, THIRD, row)
    events, file = read(export(folder, *rows, end=end))
    kinds = [t.payload.kind for t in events if isinstance(t.payload, Event)]
    assert kinds[0] == "page_view"
    assert "purchase" in kinds
    assert file.report.row_count == 3 == file.report.sent_count + file.report.left_out_count
    return file.report.odd_rows


def test_each_row_becomes_an_event(tmp_path: Path) -> None:
    removal = SECOND.replace(",cart,", ",remove_from_cart,")
    events, file = read(export(tmp_path, FIRST, SECOND, removal, THIRD))
    assert [(t.topic, t.payload.kind) for t in events if isinstance(t.payload, Event)] == [
        (CLICKS_TOPIC, "page_view"),
        (CARTS_TOPIC, "add"),
        (CARTS_TOPIC, "remove"),
        (CARTS_TOPIC, "purchase"),
    ]
    add = events[1].payload
    assert isinstance(add, Event)
    assert add == Event(
        event_id=add.event_id,
        kind="add",
        user_id="1",
        event_time_ms=FIRST_MS + 7_000,
        session_id=SESSION,
        product_id="1004833",
        category_id="2053013555631882655",
        quantity=1,
        unit_price_minor=17_476,
        currency="USD",
    )
    assert file.report.odd_rows == []


def test_a_view_carries_no_price(tmp_path: Path) -> None:
    view = read(export(tmp_path, FIRST))[0][0].payload
    assert isinstance(view, Event)
    assert (view.quantity, view.unit_price_minor, view.currency) == (None, None, None)


def test_rows_are_sent_with_the_distances_that_they_had(tmp_path: Path) -> None:
    assert [t.send_ms for t in read(export(tmp_path, FIRST, SECOND, THIRD))[0]] == [0, 7_000, 60_000]


def test_all_times_move_with_the_start(tmp_path: Path) -> None:
    events, _ = read(export(tmp_path, FIRST, SECOND), start_ms=1_700_000_000_000)
    times_ms = [t.payload.event_time_ms for t in events if isinstance(t.payload, Event)]
    assert times_ms == [1_700_000_000_000, 1_700_000_007_000]


def test_an_exact_duplicate_is_a_duplicate_event(tmp_path: Path) -> None:
    events, file = read(export(tmp_path, FIRST, SECOND, SECOND))
    ids = [t.payload.event_id for t in events if isinstance(t.payload, Event)]
    assert ids[1] == ids[2] != ids[0]
    assert [t.mark for t in events] == [Mark.PLAIN, Mark.PLAIN, Mark.DUPLICATE]
    assert [(odd.line, odd.oddity) for odd in file.report.odd_rows] == [(4, Oddity.EXACT_DUPLICATE)]


def test_the_id_is_of_the_row_and_not_of_its_line_end(tmp_path: Path) -> None:
    with_end = read(export(tmp_path, FIRST))[0][0].payload
    without_end = read(export(tmp_path, FIRST, end=b""))[0][0].payload
    assert with_end == without_end


def test_ties_are_counted_and_keep_their_order(tmp_path: Path) -> None:
    other_user = FIRST.replace("541312140", "9")
    other_product = FIRST.replace("44600062", "1")
    events, file = read(export(tmp_path, FIRST, other_user, other_product, SECOND))
    assert [t.payload.product_id for t in events if isinstance(t.payload, Event)][:3] == ["44600062", "44600062", "1"]
    assert file.report.odd_counts == {Oddity.TIE: 2, Oddity.USER_TIE: 1}


def test_a_row_out_of_order_is_sent_at_once(tmp_path: Path) -> None:
    events, file = read(export(tmp_path, SECOND, FIRST, THIRD))
    assert [t.send_ms for t in events] == [0, 0, 53_000]
    assert file.report.odd_counts == {Oddity.OUT_OF_ORDER: 1}


@pytest.mark.parametrize("cut_at", [10, 60, len(SECOND) - len(SESSION) - 1, len(SECOND) - 1])
def test_a_cut_last_line_is_left_out(tmp_path: Path, cut_at: int) -> None:
    [odd] = odd_rows(tmp_path, SECOND[:cut_at], end=b"")
    assert (odd.line, odd.oddity, odd.done) == (4, Oddity.CUT_LINE, "left out")


def test_a_whole_last_line_without_its_end_is_sent(tmp_path: Path) -> None:
    assert odd_rows(tmp_path, SECOND, end=b"") == []


@pytest.mark.parametrize(
    ("row", "oddity", "what"),
    [
        (SECOND + ",more", Oddity.FIELD_COUNT, "10 fields, not 9"),
        (SECOND[:60], Oddity.FIELD_COUNT, "5 fields, not 9"),
        ("", Oddity.FIELD_COUNT, "1 fields, not 9"),
        (SECOND.replace("samsung", '"samsung'), Oddity.FIELD_COUNT, "6 fields, not 9"),
        (SECOND.encode().replace(b"samsung", b"\xff"), Oddity.NOT_UTF8, "byte 80 is not UTF-8"),
        (SECOND.replace("2019-10-01", "yesterday"), Oddity.BAD_TIME, "'yesterday 00:00:07 UTC'"),
        (SECOND.replace("2019-10-01", "1970-01-01"), Oddity.RULE, "before the year 2000"),
        (SECOND.replace("2019-10-01 00:00:07 UTC", ""), Oddity.EMPTY_FIELD, "event_time ''"),
        (SECOND.replace(",cart,", ",like,"), Oddity.UNKNOWN_TYPE, "'like'"),
        (SECOND.replace(",cart,", ",,"), Oddity.EMPTY_FIELD, "event_type ''"),
        (SECOND.replace(",1004833,", ",,"), Oddity.EMPTY_FIELD, "product_id is empty"),
        (SECOND.replace(",1,", ",,"), Oddity.EMPTY_FIELD, "user_id is empty"),
        (SECOND.replace("1004833", "9" * 65), Oddity.RULE, "product_id has 65 bytes"),
        (SECOND.replace("174.76", ""), Oddity.EMPTY_FIELD, "price ''"),
        (SECOND.replace("174.76", "free"), Oddity.BAD_PRICE, "is not an amount"),
        (SECOND.replace("174.76", "-1.00"), Oddity.BAD_PRICE, "is not an amount"),
        (SECOND.replace("174.76", "NaN"), Oddity.BAD_PRICE, "is not an amount"),
        (SECOND.replace("174.76", "1.005"), Oddity.BAD_PRICE, "more decimals than USD"),
        (SECOND.replace("174.76", "1e999999"), Oddity.BAD_PRICE, "is not an amount"),
        (SECOND.replace("174.76", "99999999999"), Oddity.RULE, "unit_price_minor"),
    ],
)
def test_a_row_that_cannot_be_an_event_is_left_out_and_said(
    tmp_path: Path, row: str | bytes, oddity: Oddity, what: str
) -> None:
    [odd] = odd_rows(tmp_path, row)
    assert (odd.line, odd.oddity, odd.done) == (3, oddity, "left out")
    assert what in odd.what


@pytest.mark.parametrize(
    ("row", "what", "done"),
    [
        (SECOND.replace("2053013555631882655", ""), "category_id is empty", "sent without it"),
        (SECOND.replace(SESSION, ""), "user_session is empty", "sent without it"),
        (FIRST.replace("44600062", ""), "product_id is empty", "sent without it"),
        (
            FIRST.replace("35.79", "35.799"),
            "price '35.799' has more decimals than USD has",
            "sent: a view carries no price",
        ),
    ],
)
def test_a_row_that_lacks_what_an_event_can_do_without_is_sent(tmp_path: Path, row: str, what: str, done: str) -> None:
    [odd] = odd_rows(tmp_path, row)
    assert (odd.line, odd.what, odd.done) == (3, what, done)


def test_empty_columns_that_no_event_carries_are_counted(tmp_path: Path) -> None:
    _, file = read(export(tmp_path, FIRST, SECOND, FIRST.replace("shiseido", "")))
    assert file.report.unused_empty_counts == {"category_code": 2, "brand": 1}


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("\ufeffprice,user_id,event_time,product_id,event_type\n1.50,u,2019-10-01 00:00:00 UTC,p,purchase\n")
    [timed], _ = read(path)
    assert isinstance(timed.payload, Event)
    assert (timed.payload.user_id, timed.payload.unit_price_minor, timed.payload.session_id) == ("u", 150, None)


def test_the_first_thousand_odd_rows_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    _, file = read(export(tmp_path, *(["odd"] * 1_200)))
    assert (len(file.report.odd_rows), file.report.odd_counts) == (1_000, {Oddity.FIELD_COUNT: 1_200})


@pytest.mark.parametrize("content", [b"", b"a,b,c\n1,2,3\n", b"\x00\xff" * 50_000])
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(SampleFileError, match="is no REES46 export"):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleFileError, match="No such file"):
        read(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("price", "currency", "minor"),
    [("35.79", "USD", 3_579), ("0.00", "EUR", 0), ("8.1", "EUR", 810), ("120", "JPY", 120), ("1.234", "KWD", 1_234)],
)
def test_prices_are_converted_exactly(price: str, currency: str, minor: int) -> None:
    assert price_minor(price, currency) == minor


def test_no_price_is_rounded_as_a_float_would_be() -> None:
    """19.99 * 100 and its like are not whole numbers in binary."""
    assert [price_minor(f"{cents / 100:.2f}", "USD") for cents in range(100_000)] == list(range(100_000))


def test_the_sample_comes_through_with_each_odd_row_named(rees46_file: Path) -> None:
    events, file = read(rees46_file)
    kinds = Counter(t.payload.kind for t in events if isinstance(t.payload, Event))
    assert kinds == {"page_view": 12_337, "add": 125, "purchase": 159}
    assert len({t.payload.event_id for t in events if isinstance(t.payload, Event)}) == 12_616
    assert (file.report.row_count, file.report.sent_count, file.report.left_out_count) == (12_622, 12_621, 1)
    assert file.report.odd_counts == {
        Oddity.TIE: 9_978,
        Oddity.USER_TIE: 8,
        Oddity.EXACT_DUPLICATE: 5,
        Oddity.CUT_LINE: 1,
    }
    assert [odd.line for odd in file.report.odd_rows] == [2_738, 2_739, 2_740, 6_116, 11_212, 12_623]
    assert file.report.unused_empty_counts == {"category_code": 4_105, "brand": 1_798}
