"""Real traffic: rows of the REES46 "eCommerce behavior data" export as events, with a report of each odd row.

Nothing in a row stops the import: a row that cannot be an event is left out, and the report says so.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Final

from schemas import rules
from schemas.dead_letter import Reason
from schemas.event import CART_KINDS, CARTS_TOPIC, CLICKS_TOPIC, Event
from traffic.errors import SampleFileError
from traffic.timed import Mark, TimedEvent

KINDS: Final = {"view": "page_view", "cart": "add", "remove_from_cart": "remove", "purchase": "purchase"}

_REQUIRED: Final = ("event_time", "event_type", "product_id", "price", "user_id")
_OPTIONAL: Final = ("category_id", "category_code", "brand", "user_session")
_UNUSED: Final = ("category_code", "brand")
_SESSION_CHARS: Final = 36  # a UUID: the last column, so a shorter one at the end of the file was cut
_HEADER_BYTES_MAX: Final = 65_536
_ROWS_LISTED_MAX: Final = 1_000
_REMEMBERED_ROWS: Final = 100_000
_PRICE: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,8})?")  # few enough digits for Decimal to be exact
_MINOR_DIGITS: Final = {
    **dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}


class Oddity(StrEnum):
    """What can be odd about a row."""

    TIE = "same_second_as_the_row_before"
    USER_TIE = "same_user_and_second"
    OUT_OF_ORDER = "earlier_than_the_row_before"
    EXACT_DUPLICATE = "exact_duplicate"
    CUT_LINE = "cut_last_line"
    FIELD_COUNT = "wrong_number_of_fields"
    NOT_UTF8 = "not_utf8"
    EMPTY_FIELD = "empty_field"
    BAD_TIME = "bad_time"
    UNKNOWN_TYPE = "unknown_event_type"
    BAD_PRICE = "bad_price"
    RULE = "breaks_a_rule"


_COUNTED_ONLY: Final = (Oddity.TIE, Oddity.USER_TIE, Oddity.OUT_OF_ORDER)
LISTED_ODDITIES: Final = tuple(oddity for oddity in Oddity if oddity not in _COUNTED_ONLY)
_LEFT_OUT: Final = "left out"


@dataclass(frozen=True)
class OddRow:
    """One odd row: its line number (the header is line 1), what is odd, and what was done with it."""

    line: int
    oddity: Oddity
    what: str
    done: str


@dataclass
class ImportReport:
    """What became of the rows.

    Attributes:
        row_count: lines after the header.
        sent_count: rows that became events; the others are each in `left_out_count` once.
        odd_counts: how many rows are odd in each way; a row may be odd in several.
        unused_empty_counts: empty fields of the columns that no event carries.
        odd_rows: the first 1,000 odd rows; ties and rows out of order are counted only.
    """

    row_count: int = 0
    sent_count: int = 0
    left_out_count: int = 0
    odd_counts: Counter[Oddity] = field(default_factory=Counter)
    unused_empty_counts: Counter[str] = field(default_factory=Counter)
    odd_rows: list[OddRow] = field(default_factory=list)

    def note(self, line: int, oddity: Oddity, what: str, done: str) -> None:
        """Count an odd row, and list it while there is room."""
        self.odd_counts[oddity] += 1
        if oddity in LISTED_ODDITIES and len(self.odd_rows) < _ROWS_LISTED_MAX:
            self.odd_rows.append(OddRow(line, oddity, what, done))


class _OddRowError(Exception):
    """This row cannot be an event."""

    def __init__(self, oddity: Oddity, what: str) -> None:
        super().__init__(what)
        self.oddity = oddity
        self.what = what


def price_minor(price: str, currency: str) -> int:
    """Convert a decimal price to minor units of the currency, exactly.

    Raises:
        ValueError: it is no plain amount >= 0, or has more decimals than the currency.
    """
    if not _PRICE.fullmatch(price):
        raise ValueError(f"price {price!r} is not an amount such as 12.34")
    exact = Decimal(price).scaleb(_MINOR_DIGITS.get(currency, 2))
    if exact != exact.to_integral_value():
        raise ValueError(f"price {price!r} has more decimals than {currency} has")
    return int(exact)


class Rees46File:
    """The events of one export.

    Args:
        path: CSV with a header, UTF-8, rows in the order of time.
        currency: of its prices, ISO 4217; the file does not say.
        start_ms: event time that the first row is moved to, all others with it; None leaves the times as they are.
    """

    def __init__(self, path: Path, currency: str, start_ms: int | None = None) -> None:
        self.report = ImportReport()
        self._path = path
        self._currency = currency
        self._start_ms = start_ms
        self._columns: dict[str, int] = {}
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()
        self._second_text, self._second_ms = "", 0
        self._users_this_second: set[str] = set()
        self._first_ms: int | None = None

    def events(self) -> Iterator[TimedEvent]:
        """Yield the rows as events in the file's order; may be called once.

        `send_ms` is the time since the first row, and never falls. The event id is a hash of the row, so an exact
        duplicate is a duplicate event.

        Raises:
            SampleFileError: the file cannot be read, or is no such export.
        """
        try:
            with self._path.open("rb") as file:
                self._columns = self._read_header(file.readline(_HEADER_BYTES_MAX))
                send_ms = 0
                for line, raw in enumerate(file, start=2):
                    self.report.row_count += 1
                    timed = self._row(line, raw, send_ms)
                    if timed is None:
                        self.report.left_out_count += 1
                        continue
                    self.report.sent_count += 1
                    send_ms = timed.send_ms
                    yield timed
        except OSError as error:
            raise SampleFileError(
                f"{self._path} cannot be read: {error.strerror}.", hint="Give the path of a REES46 CSV file."
            ) from error

    def _read_header(self, raw: bytes) -> dict[str, int]:
        names = raw.decode("utf-8-sig", errors="replace").rstrip("\r\n").split(",")
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise SampleFileError(
                f"{self._path} is no REES46 export: its first line lacks {', '.join(missing)}.",
                hint=f"The columns are {', '.join((*_REQUIRED, *_OPTIONAL))}, in any order, with a header.",
            )
        return {name: at for at, name in enumerate(names)}

    def _row(self, line: int, raw: bytes, send_ms_before: int) -> TimedEvent | None:
        content = raw.rstrip(b"\r\n")
        try:
            row = self._fields(content, ended=content != raw)
            time_ms = self._time_ms(row["event_time"])
            event = self._event(line, row, time_ms, content)
        except _OddRowError as odd:
            self.report.note(line, odd.oddity, odd.what, _LEFT_OUT)
            return None
        self._note_time(line, row, time_ms)
        mark = self._note_duplicate(line, content)
        for name in _UNUSED:
            self.report.unused_empty_counts[name] += row.get(name) == ""
        first_ms = self._first_ms or 0
        topic = CARTS_TOPIC if event.kind in CART_KINDS else CLICKS_TOPIC
        return TimedEvent(max(send_ms_before, time_ms - first_ms), topic, event, mark)

    def _fields(self, content: bytes, *, ended: bool) -> dict[str, str]:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise _OddRowError(Oddity.NOT_UTF8, f"byte {error.start} is not UTF-8") from error
        # one line at a time, so that a stray quote costs its own row and not the rest of the file
        values = next(csv.reader([text]), []) if '"' in text else text.split(",")
        expected = len(self._columns)
        session_at = self._columns.get("user_session")
        if not ended:
            cut_session = session_at == expected - 1 == len(values) - 1 and len(values[-1]) < _SESSION_CHARS
            if len(values) < expected or cut_session:
                raise _OddRowError(
                    Oddity.CUT_LINE,
                    f"the file ends inside this line, in field {len(values)} of {expected}: {text[-40:]!r}",
                )
        if len(values) != expected:
            raise _OddRowError(Oddity.FIELD_COUNT, f"{len(values)} fields, not {expected}")
        return {name: values[at] for name, at in self._columns.items()}

    def _time_ms(self, text: str) -> int:
        if text == self._second_text:
            return self._second_ms
        try:
            moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
        except ValueError as error:
            oddity = Oddity.BAD_TIME if text else Oddity.EMPTY_FIELD
            raise _OddRowError(oddity, f"event_time {text!r} is not YYYY-MM-DD HH:MM:SS UTC") from error
        return int(moment.timestamp()) * 1_000

    def _event(self, line: int, row: dict[str, str], time_ms: int, content: bytes) -> Event:
        kind = KINDS.get(row["event_type"])
        if kind is None:
            oddity = Oddity.UNKNOWN_TYPE if row["event_type"] else Oddity.EMPTY_FIELD
            raise _OddRowError(oddity, f"event_type {row['event_type']!r} is none of {', '.join(KINDS)}")
        in_cart = kind in CART_KINDS
        if self._first_ms is None:
            self._first_ms = time_ms
        event = Event(
            event_id=hashlib.blake2b(content, digest_size=16).hexdigest(),
            kind=kind,
            user_id=row["user_id"],
            event_time_ms=time_ms + (0 if self._start_ms is None else self._start_ms - self._first_ms),
            session_id=row.get("user_session") or None,
            product_id=row["product_id"] or None,
            category_id=row.get("category_id") or None,
            quantity=1 if in_cart else None,
            unit_price_minor=self._price_minor(row["price"]) if in_cart else None,
            currency=self._currency if in_cart else None,
        )
        problem = rules.value_problem(CARTS_TOPIC if in_cart else CLICKS_TOPIC, event)
        if problem is not None:
            oddity = Oddity.EMPTY_FIELD if problem.reason == Reason.MISSING_FIELD else Oddity.RULE
            raise _OddRowError(oddity, problem.detail)
        self._note_gaps(line, row, in_cart=in_cart)
        return event

    def _price_minor(self, price: str) -> int:
        try:
            return price_minor(price, self._currency)
        except ValueError as error:
            raise _OddRowError(Oddity.BAD_PRICE if price else Oddity.EMPTY_FIELD, str(error)) from error

    def _note_gaps(self, line: int, row: dict[str, str], *, in_cart: bool) -> None:
        """Note what the event goes without; a view carries no price, so there a bad one changes nothing."""
        for name in ("product_id", "category_id", "user_session"):
            if row.get(name) == "":
                self.report.note(line, Oddity.EMPTY_FIELD, f"{name} is empty", "sent without it")
        if not in_cart:
            try:
                self._price_minor(row["price"])
            except _OddRowError as odd:
                self.report.note(line, odd.oddity, odd.what, "sent: a view carries no price")

    def _note_time(self, line: int, row: dict[str, str], time_ms: int) -> None:
        if row["event_time"] == self._second_text:
            self.report.note(line, Oddity.TIE, "", "")
            if row["user_id"] in self._users_this_second:
                self.report.note(line, Oddity.USER_TIE, "", "")
        else:
            if self._second_text and time_ms < self._second_ms:
                self.report.note(line, Oddity.OUT_OF_ORDER, "", "")
            self._second_text, self._second_ms = row["event_time"], time_ms
            self._users_this_second.clear()
        self._users_this_second.add(row["user_id"])

    def _note_duplicate(self, line: int, content: bytes) -> Mark:
        """Compare with the last 100,000 rows or more: equal rows have equal times, so they stand close together."""
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest in self._recent or digest in self._older:
            self.report.note(
                line, Oddity.EXACT_DUPLICATE, "equal to an earlier row", "sent again, with the same event id"
            )
            return Mark.DUPLICATE
        self._recent.add(digest)
        if len(self._recent) >= _REMEMBERED_ROWS:
            self._older, self._recent = self._recent, set()
        return Mark.PLAIN
