"""The events as the people who publish them write them: checked when made, by the same rules as in the worker."""

from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final, Literal, Self
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.rules import value_problem

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class _PublishedEvent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    topic: ClassVar[str]

    user_id: str
    event_time: AwareDatetime
    event_id: str = Field(default_factory=lambda: uuid4().hex)
    session_id: str | None = None
    device: str | None = None
    category_id: str | None = None

    @model_validator(mode="after")
    def _keeps_the_rules(self) -> Self:
        problem = value_problem(self.topic, self.to_event())
        if problem is not None:
            raise ValueError(problem.detail)
        return self

    def to_event(self) -> Event:
        """Return it as `EventProducer.send` takes it; the time is cut to whole milliseconds."""
        fields = self.model_dump(exclude={"event_time"})
        return Event(**fields, event_time_ms=(self.event_time - _EPOCH) // _MS)


class ClickEvent(_PublishedEvent):
    """One event for `shop.clicks.v1`.

    Args:
        event_id: give your own if you may publish the same event twice: equal ids count once. A new one if not given.
        event_time: when it happened, with a time zone.

    Raises:
        pydantic.ValidationError: it breaks a rule of docs/reference/events.md.
    """

    topic: ClassVar[str] = CLICKS_TOPIC

    kind: Literal["page_view", "click", "search"]
    product_id: str | None = None
    query: str | None = None
    result_count: int | None = None
    position: int | None = None
    recommendation_id: str | None = None
    page: str | None = None


class CartEvent(_PublishedEvent):
    """One event for `shop.carts.v1`.

    Args:
        event_id: give your own if you may publish the same event twice: equal ids count once. A new one if not given.
        event_time: when it happened, with a time zone.
        unit_price_minor: price of one piece in minor units of the currency (cents), an integer.

    Raises:
        pydantic.ValidationError: it breaks a rule of docs/reference/events.md.
    """

    topic: ClassVar[str] = CARTS_TOPIC

    kind: Literal["add", "remove", "purchase"]
    product_id: str
    quantity: int
    unit_price_minor: int
    currency: str
    order_id: str | None = None
