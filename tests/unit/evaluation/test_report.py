"""The JSON document and the tables made from it."""

import io
import json
import math
import re

import pytest
from rich.console import Console, RenderableType

from megaxlm.evaluation.perplexity import LanguagePerplexity
from megaxlm.evaluation.report import (
    evaluation_to_json,
    perplexity_table,
    render_comparison,
    retrieval_table,
)
from megaxlm.evaluation.retrieval import PairAccuracy, RetrievalReport


def _rows(renderable: RenderableType) -> list[list[str]]:
    """Returns the cells of every line as it stands on the terminal."""
    console = Console(file=io.StringIO(), width=100)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]


def _perplexity(bits: float) -> dict[str, LanguagePerplexity]:
    return {
        "en": LanguagePerplexity(math.log(32), bits, 12_345),
        "sw": LanguagePerplexity(math.log(16), 2 * bits, 678),
    }


def _retrieval(accuracy: float) -> RetrievalReport:
    pairs = (
        PairAccuracy("en-sw", "en", "sw", 200, accuracy, accuracy / 2),
        PairAccuracy("en-zh-Hant", "en", "zh-Hant", 200, accuracy, accuracy),
    )
    return RetrievalReport(pairs, -1, "margin")


def test_document_survives_json() -> None:
    document = evaluation_to_json("run", _perplexity(1.25), _retrieval(0.5))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["perplexity"]["sw"]["bits_per_byte"] == 2.5
    assert document["retrieval"]["pairs"]["en-sw"]["source_to_target"] == 0.5
    assert document["retrieval"]["mean"] == pytest.approx((0.375 + 0.5) / 2)
    assert set(evaluation_to_json("run", _perplexity(1.0))) == {"model", "perplexity"}


def test_perplexity_table() -> None:
    rows = _rows(perplexity_table(_perplexity(1.2)))
    assert ["en", "1.200", "32.0", "3.466", "12,345"] in rows
    assert ["sw", "2.400", "16.0", "2.773", "678"] in rows
    assert ["mean", "1.800", "", "", ""] in rows


def test_retrieval_table() -> None:
    rows = _rows(retrieval_table(_retrieval(0.4)))
    assert ["en-sw", "200", "40.0%", "20.0%", "30.0%"] in rows
    assert ["mean", "", "", "", "35.0%"] in rows
    assert ["chance", "", "", "", "0.5%"] in rows


def test_comparison_shows_both_sides_of_everything() -> None:
    before = evaluation_to_json("a", _perplexity(3.0), _retrieval(0.01))
    after = evaluation_to_json("b", _perplexity(1.5), _retrieval(0.6))
    rows = _rows(render_comparison(before, json.loads(json.dumps(after))))
    assert ["en", "3.000", "1.500"] in rows and ["sw", "6.000", "3.000"] in rows
    assert ["mean", "4.500", "2.250"] in rows
    assert ["en-sw", "0.8%", "45.0%"] in rows and ["en-zh-Hant", "1.0%", "60.0%"] in rows
    assert ["mean", "0.9%", "52.5%"] in rows
    assert ["chance", "0.5%", "0.5%"] in rows


def test_what_one_side_lacks_is_a_dash() -> None:
    before = evaluation_to_json("a", {"en": LanguagePerplexity(math.nan, math.nan, 3)})
    after = evaluation_to_json("b", _perplexity(1.5), _retrieval(0.6))
    rows = _rows(render_comparison(before, after))
    assert ["en", "-", "1.500"] in rows and ["sw", "-", "3.000"] in rows
    assert ["mean", "-", "2.250"] in rows
    assert ["en-sw", "-", "45.0%"] in rows and ["chance", "-", "0.5%"] in rows
