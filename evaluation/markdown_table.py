"""Writes results of one suite as Markdown: the table, paired differences, the protocol, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation.comparison import (
    DRAWN_BY,
    LOCATIONS,
    RESAMPLES,
    SHOWN,
    Interval,
    column_interval,
    differences_of_protocol,
    other_instruction,
    other_libraries,
    other_servers,
    paired_interval,
    standardised,
)
from evaluation.matched import TOLERANCES, matched_diversity
from evaluation.published import published_rows
from policy.errors import UserError
from policy.types import JsonDict

_QUALITY = ("blip2_itm", "laion", "pickscore")
_PUBLISHED_JUDGE = "gpt-4o-2024-05-13"


def table(names: Sequence[str], results: Sequence[JsonDict]) -> str:
    """The Markdown of these results; the differences are to the first one.

    Raises ``UserError`` when a result is of another suite than the first: no column would be of the
    same thing. Results that differ from the first in prompts, their analysis, images per prompt or
    scorers get a mark, and no difference is computed. Those that were scored with another version
    of a library, or by a server at another address, get a mark of their own, and their difference.
    """
    first = results[0]
    for name, result in zip(names, results, strict=True):
        if result["suite"] != first["suite"]:
            raise UserError(
                f"{name} is a result of {result['suite']}, and {names[0]} of {first['suite']}:"
                " a table is of one suite"
            )
        if result["failures"]:
            raise UserError(f"{name} has failures and no values; run its evaluation again")
    reasons = [differences_of_protocol(first, result) for result in results]
    libraries = [other_libraries(first, r) + other_servers(first, r) for r in results]
    marked = [
        name
        + (" †" if why else "")
        + (" §" if others else "")
        + (" ¶" if other_instruction(first, result) else "")
        for name, result, why, others in zip(names, results, reasons, libraries, strict=True)
    ]
    columns = [column for column in first["columns"] if column["value"] is not None]
    parts = [
        f"# {first['suite']}: {first['prompts']} prompts, {first['images_per_prompt']} images each",
        _values(marked, results, columns),
    ]
    if len(results) > 1:
        parts.append(_differences(names, results, reasons, columns))
    if first["suite"] == "quality":
        parts.append(_quality(names, results, reasons))
        parts += [
            _equal_quality(names[0], name, first, result)
            for name, result, why in zip(names[1:], results[1:], reasons[1:], strict=True)
            if not why
        ]
    parts.append(_protocol(names, results))
    parts.append(_notes(names, results, reasons, libraries, columns))
    return "\n\n".join(parts) + "\n"


def _values(marked: Sequence[str], results: Sequence[JsonDict], columns: Sequence[JsonDict]) -> str:
    rows = [
        [name, *(_cell(column_interval(result, _own(result, column))) for column in columns)]
        for name, result in zip(marked, results, strict=True)
    ]
    for model, figures in published_rows(results[0]["suite"]).items():
        cells = [f"{figures[c['name']]:.2f}" if c["name"] in figures else "" for c in columns]
        if any(cells):
            rows.append([f"{model} (published)", *cells])
    return _markdown(["model", *(_title(column) for column in columns)], rows)


def _differences(
    names: Sequence[str],
    results: Sequence[JsonDict],
    reasons: Sequence[Sequence[str]],
    columns: Sequence[JsonDict],
) -> str:
    rows = []
    for name, result, why in zip(names[1:], results[1:], reasons[1:], strict=True):
        if not why:
            found = (paired_interval(results[0], result, column) for column in columns)
            rows.append([name, *(_cell(interval, sign=True) for interval in found)])
    if not rows:
        return f"No result can be compared with {names[0]}."
    heads = [f"minus {names[0]}", *(_title(column) for column in columns)]
    return f"Paired differences over prompts:\n\n{_markdown(heads, rows)}"


def _quality(
    names: Sequence[str], results: Sequence[JsonDict], reasons: Sequence[Sequence[str]]
) -> str:
    """The z-mean of the three measures, which have no common scale; none where one may not be
    compared."""
    try:
        means = standardised(results, _QUALITY)
    except ValueError as error:
        return f"There is no z-mean of quality: {error}."
    rows = [
        [name, "" if why else _cell(mean, sign=True, digits=3)]
        for name, mean, why in zip(names, means, reasons, strict=True)
    ]
    text = f"Mean z-score of {', '.join(_QUALITY)}, in standard deviations of {names[0]}'s prompts"
    return f"{text}:\n\n{_markdown(['model', 'z-mean'], rows)}"


def _equal_quality(first_name: str, name: str, first: JsonDict, result: JsonDict) -> str:
    """Diversity of two results on images of equal quality, for each tolerance."""
    rows = []
    try:
        for tolerance in TOLERANCES:
            found = matched_diversity(first, result, tolerance)
            if found is None:
                rows.append([f"{tolerance:g}", "0", "0", "", "", "", "", ""])
                continue
            rows.append(
                [
                    f"{tolerance:g}",
                    str(found.prompts),
                    str(found.pairs),
                    *(f"{value:+.3f}" for value in found.quality),
                    *(f"{value:.3f}" for value in found.vendi),
                    _cell(found.difference, sign=True, digits=3),
                ]
            )
    except ValueError as error:
        return f"Diversity cannot be compared at equal quality: {error}."
    sides = (first_name, name)
    heads = ["tolerance", "prompts", "pairs", *(f"quality, {side}" for side in sides)]
    heads += [*(f"Vendi, {side}" for side in sides), "difference"]
    return (
        f"Diversity of {name} and {first_name} at equal quality (the paper's Table 4). Images of a"
        " prompt are paired if their mean z-scores of quality, over the images of both, differ by"
        " at most the tolerance; the Vendi score is of the paired images, a mean over the prompts"
        f" with two pairs or more:\n\n{_markdown(heads, rows)}"
    )


def _protocol(names: Sequence[str], results: Sequence[JsonDict]) -> str:
    """A row for each result. Images that were given may have a note of how they were drawn."""
    rows = []
    for name, result in zip(names, results, strict=True):
        how = {**result.get(DRAWN_BY, {}), **result}
        rows.append(
            [
                name,
                str(how.get("model", f"images of {how.get('images')}")),
                str(how.get("weights", ""))[:12],
                str(how["prompts"]),
                *(str(how.get(key, "unknown")) for key in SHOWN),
            ]
        )
    heads = ["model", "drawn by", "weights", "prompts", *(key.replace("_", " ") for key in SHOWN)]
    return f"How the images were drawn:\n\n{_markdown(heads, rows)}"


def _notes(
    names: Sequence[str],
    results: Sequence[JsonDict],
    reasons: Sequence[Sequence[str]],
    libraries: Sequence[Sequence[str]],
    columns: Sequence[JsonDict],
) -> str:
    first = results[0]
    notes = [
        "Brackets hold 95 % intervals: percentiles of a bootstrap over prompts with"
        f" {RESAMPLES} resamples, each stratum by itself. They do not cover another seed or judge.",
        *(
            f"† {name} cannot be compared with {names[0]}: another {', another '.join(why)}."
            for name, why in zip(names, reasons, strict=True)
            if why
        ),
        *(
            f"§ {name} was scored with {', '.join(others)}: a part of its difference may be theirs."
            for name, others in zip(names, libraries, strict=True)
            if others
        ),
        *(
            f"¶ {name} was asked for its CoT with another instruction than {names[0]}: a part of"
            " its difference may be the instruction's."
            for name, result in zip(names, results, strict=True)
            if other_instruction(first, result)
        ),
        *(
            f"‡ {column['name']}: {column['not_comparable']}."
            for column in columns
            if column["not_comparable"]
        ),
        *(
            f"Scorer {scorer['name']} is not that of the suite's authors:"
            f" {scorer['not_comparable']}."
            for scorer in first["scorers"]
            if scorer["not_comparable"]
        ),
    ]
    places = first.get(LOCATIONS, {})
    models = {
        scorer["name"]: (scorer["options"] | places.get(scorer["name"], {})).get("model")
        for scorer in first["scorers"]
    }
    notes += [f"Scorer {name}: {model}." for name, model in models.items() if model]
    if published_rows(first["suite"]):
        notes.append(
            "Published rows are the EG-GRPO paper's, of one seed and without intervals. Its"
            " Janus-Pro has no CoT."
        )
        if "judge" in models and models["judge"] != _PUBLISHED_JUDGE:
            notes.append(
                f"They cannot be compared: WISE's judge is {_PUBLISHED_JUDGE}, and other versions"
                " of it give other scores."
            )
        if not first["whole"]:
            notes.append("They cannot be compared: these results are of a part of the suite.")
    rounded = [column["name"] for column in columns if column.get("decimals") is not None]
    if rounded:
        notes.append(
            f"{', '.join(rounded)}: of means that were rounded to two decimals, as the paper's are."
            " Intervals and differences are of the means before rounding."
        )
    if analysed_by := first.get("analysed_by"):
        notes.append(
            f"Noun chunks: spaCy {analysed_by['spacy']} with {analysed_by['model']}; the published"
            " program pins spaCy 3.5.3 with model 3.5.0."
        )
    if first["suite"] == "quality":
        notes.append(
            "Table 4 of the paper has a Vendi score of 2.593 for EG-GRPO and 2.592 for T2I-R1, at a"
            " quality of 13.86 and 13.85. It names neither the features, nor the tolerance, nor the"
            " number of images, nor the weights of the measures: they cannot be compared."
        )
    lists = ", ".join(f"{key}: {text}" for key, text in first["lists"].items())
    notes.append(f"Prompt lists: {lists or 'those of the package'}.")
    return "\n".join(f"- {note}" for note in notes)


def _own(result: JsonDict, column: JsonDict) -> JsonDict:
    """The column of this name in another result."""
    named = (own for own in result["columns"] if own["name"] == column["name"])
    found: JsonDict = next(named, {**column, "value": None})
    return found


def _title(column: JsonDict) -> str:
    return f"{column['name']} ‡" if column["not_comparable"] else str(column["name"])


def _cell(interval: Interval | None, sign: bool = False, digits: int = 2) -> str:
    if interval is None:
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    if math.isnan(interval.low):
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
