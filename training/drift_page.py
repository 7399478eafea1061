"""The report of drift as one HTML page: pictures as SVG, no script, nothing from elsewhere."""

from pathlib import Path
from typing import Final

from config.words import moment, p_value, percent, span
from training import drift_charts
from training.drift_report import DriftReport, calibration_words

TEMPLATES: Final = Path(__file__).with_name("templates")
TEMPLATE: Final = "drift.html.j2"


def page(report: DriftReport) -> str:
    """Return the page. Values of events, such as categories, are in it: they are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"moment": moment, "percent": percent, "span": span, "p": p_value}
    return templates.get_template(TEMPLATE).render(
        report=report,
        charts=drift_charts,
        calibration=calibration_words(report.reference) if report.reference else "",
        **drift_charts.pictures(report),
    )
