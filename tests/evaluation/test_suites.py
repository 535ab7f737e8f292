"""The suites' prompts, names and columns, on small files of the authors' formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.suites.compbench import COMPBENCH
from evaluation.suites.geneval import GENEVAL
from evaluation.suites.images import measure_diversity
from evaluation.suites.registry import SUITES, suite_named
from evaluation.suites.shapes import SHAPES
from evaluation.suites.suite import Column, Item, columns_of, image_means
from evaluation.suites.wise import WISE, WISE_VERIFIED
from orchestrator.commands.flags.evaluation import SUITES as HELPED
from policy.errors import UserError
from policy.types import Prompt, Score
from tests.suite_files import compbench_files, wise_files

PROMPT = Prompt("p:1", "a red circle", "color")


def test_the_help_names_every_suite() -> None:
    """The flags repeat the names and the sentences, because the suites take long to import."""
    assert {name: suite.about for name, suite in SUITES.items()} == HELPED


def test_an_unknown_suite_is_named() -> None:
    """The error lists the suites there are."""
    with pytest.raises(UserError, match="no suite is called 'gen'; known: compbench, geneval"):
        suite_named("gen")


def test_an_image_with_several_scorers_counts_their_mean() -> None:
    """The 3-in-1 score: (0.5 + 0.3) / 2 and (1.0 + 0.0) / 2; the prompt has the mean, 0.45."""
    item = Item(PROMPT, "complex", ("a", "b"), also=("other",))
    scores = {"a": [Score(0.5), Score(1.0)], "b": [Score(0.3), Score(0.0)]}
    assert image_means(item, scores) == pytest.approx({"complex": 0.45, "other": 0.45})


def test_a_column_is_a_weighted_sum_of_means_and_not_a_mean_of_all() -> None:
    """Two strata of different sizes count the same: (0.5 + 1.0) / 2, and not 3 / 5."""
    column = Column("overall", {"few": 0.5, "many": 0.5}, scale=1.0)
    values = {"few": {"a": 1.0}, "many": {"b": 0.5, "c": 0.5, "d": 0.5, "e": 0.5}}
    assert columns_of([column], values) == {"overall": 0.75}


def test_a_column_of_a_stratum_that_was_not_measured_has_no_value() -> None:
    """A sum over the others would be a number of another meaning."""
    column = Column("overall", {"few": 0.5, "many": 0.5})
    assert columns_of([column], {"few": {"a": 1.0}}) == {"overall": None}


def test_the_overall_score_of_geneval_is_the_mean_of_its_six_tasks() -> None:
    """Tasks have 80 to 100 prompts, and each counts one sixth."""
    tasks = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    values = {task: {"p": float(place)} for place, task in enumerate(tasks)}
    assert columns_of(GENEVAL.columns, values)["overall"] == pytest.approx(250.0)


def test_the_paper_rounds_the_parts_of_wise_before_it_takes_their_mean() -> None:
    """Time 0.554 is printed as 0.55 and space 0.556 as 0.56: 55.5, and not 55.50 of 55.4, 55.6.

    Biology, physics and chemistry of 0.434, 0.444 and 0.454 are printed as .43, .44 and .45.
    """
    values = {
        "culture": {"a": 0.494},
        "time": {"b": 0.5549},
        "space": {"c": 0.5649},
        "biology": {"d": 0.434},
        "physics": {"e": 0.444},
        "chemistry": {"f": 0.454},
    }
    columns = columns_of(WISE.columns, values)
    assert columns["Culture"] == pytest.approx(49.0)
    assert columns["Spatio-temporal"] == pytest.approx(55.5)
    assert columns["Science"] == pytest.approx(44.0)
    legacy = 0.4 * 49.4 + 0.167 * 55.49 + 0.133 * 56.49 + 0.1 * (43.4 + 44.4 + 45.4)
    verified = 0.4 * 49.4 + 0.12 * (55.49 + 56.49 + 43.4 + 44.4 + 45.4)
    assert columns["overall"] == pytest.approx(legacy)
    assert columns_of(WISE_VERIFIED.columns, values)["overall"] == pytest.approx(verified)


def test_an_id_of_wise_decides_the_category(tmp_path: Path) -> None:
    """400 culture, 401 to 567 time, 568 to 700 space, then hundreds of the sciences."""
    items = WISE.load(wise_files(tmp_path))
    sizes = {
        stratum: sum(i.stratum == stratum for i in items) for stratum in WISE.columns[-1].weights
    }
    assert sizes == {
        "culture": 400, "time": 167, "space": 133, "biology": 100, "physics": 100, "chemistry": 100,
    }  # fmt: skip
    assert [items[n - 1].stratum for n in (400, 401, 567, 568, 700, 701)] == [
        "culture", "time", "time", "space", "space", "biology",
    ]  # fmt: skip
    assert WISE.official_name is not None
    assert WISE.official_name(items[41], 0, 1) == "42.png"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({5: None}, "1 prompts are missing, such as prompt_id 5"),
        ({5: {"Prompt": "p", "Explanation": "e", "prompt_id": 6}}, "prompt_id 6 is there twice"),
        ({5: {"Prompt": "p", "Explanation": "e", "prompt_id": True}}, "must be a whole number"),
        ({5: {"Prompt": "p", "Explanation": "e", "prompt_id": 1001}}, "1001 is not in 1 to 1000"),
        ({5: {"Prompt": "p", "prompt_id": 5}}, "Explanation must be text"),
        ({5: "no object"}, "must be a whole number"),
    ],
)
def test_a_prompt_of_wise_that_is_missing_or_malformed_is_an_error(
    tmp_path: Path, change: dict[int, object], problem: str
) -> None:
    """The authors' programs go on without it, and print a mean over the others."""
    folder = wise_files(tmp_path, change)
    with pytest.raises(UserError, match=problem):
        WISE.load(folder)


def test_geneval_reads_the_authors_file_and_names(tmp_path: Path) -> None:
    """A prompt carries its whole row; images are called <line>/samples/<index>.png."""
    row = {"tag": "counting", "include": [{"class": "bus", "count": 2}], "prompt": "two buses"}
    file = tmp_path / "geneval" / "evaluation_metadata.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "tag": "colors"}) + "\n")
    first, second = GENEVAL.load(tmp_path)
    assert first.prompt.evaluation == row
    assert (first.stratum, second.stratum) == ("counting", "colors")
    assert GENEVAL.official_name is not None
    assert GENEVAL.official_name(second, 3, 4) == "00001/samples/00003.png"
    file.write_text(json.dumps({**row, "tag": "count"}) + "\n")
    with pytest.raises(UserError, match=r":1: tag 'count' is none of single_object"):
        GENEVAL.load(tmp_path)


def test_the_embedded_suite_weighs_rewards_as_training_does() -> None:
    """0.4 x 0.5 + 0.4 x 1.0 + 0.2 x 0.0 = 0.6."""
    item = SHAPES.load(Path("nowhere"))[0]
    scores = {"attributes": [Score(0.5)], "structure": [Score(1.0)], "cleanliness": [Score(0.0)]}
    assert SHAPES.measure(item, scores)["seen/total"] == pytest.approx(0.6)


def test_diversity_reads_features_by_number() -> None:
    """Eleven features: f10 comes after f9. Two orthogonal images make a Vendi score of 2."""
    one = {f"f{place}": float(place == 10) for place in range(11)}
    other = {f"f{place}": float(place == 2) for place in range(11)}
    item = Item(PROMPT, "complex", ("features",))
    found = measure_diversity(item, {"features": [Score(1.0, one), Score(1.0, other)]})
    assert found == pytest.approx({"vendi": 2.0})


def test_quality_keeps_the_measures_and_the_cosines_of_each_image() -> None:
    """Two images at right angles, and a third like the first: three measures each, and cosines
    0 and 1. The Vendi score of thirds 2/3 and 1/3 is exp(0.6365) = 1.8899."""
    directions = [(1.0, 0.0), (0.0, 2.0), (3.0, 0.0)]
    scores = {
        "blip2_itm": [Score(0.1), Score(0.2), Score(0.3)],
        "laion": [Score(5.0), Score(6.0), Score(7.0)],
        "pickscore": [Score(20.0), Score(21.0), Score(22.0)],
        "features": [Score(1.0, {"f0": x, "f1": y}) for x, y in directions],
    }
    item = Item(PROMPT, "complex", tuple(scores))
    suite = SUITES["quality"]
    assert suite.measure(item, scores) == pytest.approx(
        {"blip2_itm": 0.2, "laion": 6.0, "pickscore": 21.0, "vendi": 1.889882}
    )
    assert suite.per_image is not None
    assert suite.per_image(item, scores) == {
        "quality": [[0.1, 5.0, 20.0], [0.2, 6.0, 21.0], [0.3, 7.0, 22.0]],
        "cosines": [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]],
    }


def test_compbench_gives_each_prompt_what_its_scorers_need(tmp_path: Path) -> None:
    """Chunks, objects, numbers, and the text without adjectives; complex prompts by their list."""
    items = {item.prompt.id: item for item in COMPBENCH.load(compbench_files(tmp_path))}
    assert items["color_val:1"].prompt.evaluation == {"chunks": ["a red book"]}
    assert items["non_spatial_val:1"].scorers == ("clip_score",)
    asked = items["numeracy_val:1"].prompt.evaluation
    assert asked is not None
    assert asked["counts"] == [["bird", 2]]
    assert [items[f"complex_val:{n}"].scorers for n in (1, 2, 3)] == [
        ("blip_vqa", "spatial"),
        ("blip_vqa", "clip_score"),
        ("blip_vqa", "spatial", "clip_score"),
    ]
    action = items["complex_val:2"].prompt.evaluation
    assert action is not None
    assert action["clip_text"] == "a bird sings"
    assert COMPBENCH.analysed_by is not None
    versions = {"spacy": "3.8.0", "model": "en_core_web_sm 3.8.0"}
    assert COMPBENCH.analysed_by(tmp_path) == versions


def test_a_prompt_of_both_color_lists_is_drawn_once(tmp_path: Path) -> None:
    """The lists share a line: three prompts, of which one counts in both columns."""
    items = [i for i in COMPBENCH.load(compbench_files(tmp_path)) if i.prompt.task_type == "color"]
    assert [(item.prompt.text, item.stratum, item.also) for item in items] == [
        ("a red book", "color", ("color_2023",)),
        ("a blue chair", "color", ()),
        ("a white chair", "color_2023", ()),
    ]
    assert image_means(items[0], {"blip_vqa": [Score(0.5)]}) == {"color": 0.5, "color_2023": 0.5}


def test_the_official_names_number_the_images_of_a_category(tmp_path: Path) -> None:
    """Image 3 of the second prompt is 000013 of its category: the 3-in-1 score counts so."""
    item = COMPBENCH.load(compbench_files(tmp_path))[1]
    assert COMPBENCH.official_name is not None
    assert COMPBENCH.official_name(item, 3, 10) == "color/a blue chair_000013.png"


def test_a_prompt_without_an_analysis_is_an_error(tmp_path: Path) -> None:
    """It would have no noun chunk, and a prompt without one scores 1."""
    folder = compbench_files(tmp_path)
    (folder / "t2i_compbench" / "shape_val.txt").write_text("an oval pond")
    with pytest.raises(UserError, match="no noun chunks of the prompt 'an oval pond'"):
        COMPBENCH.load(folder)
