"""`shopstream recommend`: what a user is recommended right now, and which model says so."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.context import JsonFlag, emit, invocation

if TYPE_CHECKING:
    from serving.recommender import Recommendations


def recommend(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="User id, as events carry it; it may be a new one.")],
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="How many products.")] = 10,
    as_of: Annotated[
        int | None, typer.Option(min=0, metavar="MS", help="Milliseconds UTC to answer for \\[default: now].")
    ] = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Recommend products to a user, from its fresh features; popular ones to a user whom nobody knows.

    The answer is kept in the lake's table recommendations; clicks that carry its id count for the model.
    """
    settings = invocation(ctx).settings()
    from serving.recommender import Recommender

    with Recommender.from_settings(settings) as recommender:
        found = recommender.recommend(user, k, as_of)
    emit({"user_id": user, **asdict(found)}, as_json=as_json, text=lambda console: _print(console, user, found))


def _print(console: Console, user: str, found: "Recommendations") -> None:
    table = Table("", "product", box=None)
    for rank, product in enumerate(found.product_ids, start=1):
        table.add_row(str(rank), Text(product))
    console.print(table, highlight=False)
    console.print(
        f"for {user}, by model {found.model} ({found.role}) in {1_000 * found.seconds:.1f} ms; "
        f"a click on one of them carries recommendation_id {found.recommendation_id}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
