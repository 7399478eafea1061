"""What exists in a simulated shop, as files that `shopstream lake reference load` reads."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from traffic.errors import ReferenceFolderError
from traffic.simulator import SimulatorConfig


def write_reference_files(config: SimulatorConfig, folder: Path) -> dict[str, Path]:
    """Write `products.csv`, `categories.csv` and `users.csv`, in the place of older ones; return them by their name.

    They name every id that the traffic of this configuration can hold. Equal configurations give equal files.

    Raises:
        ReferenceFolderError: the folder cannot be written.
    """
    shop = config.catalogue()
    tables: dict[str, tuple[Sequence[str], Iterable[Sequence[str]]]] = {
        "products": (("product_id", "category_id"), zip(shop.product_ids, shop.category_ids, strict=True)),
        "categories": (("category_id",), ((category,) for category in shop.ranked_categories)),
        "users": (("user_id",), ((f"u{user}",) for user in range(config.user_count))),
    }
    written = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (header, rows) in tables.items():
            written[name] = folder / f"{name}.csv"
            with written[name].open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(header)
                writer.writerows(rows)
    except OSError as error:
        raise ReferenceFolderError(
            f"The reference tables cannot be written to {folder}: {error.strerror or error}.",
            hint="Name a folder that can be written with --reference-tables.",
        ) from error
    return written
