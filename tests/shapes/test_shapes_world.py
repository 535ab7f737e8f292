"""Requests, scenes, prompt files: what is asked for, drawn and described agrees."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.prompts import load_prompts
from shapes.build.codes import add_grain, code_table, draw, looks_of, tokenise
from shapes.build.prompt_files import DATA, FILES, prompt_lines
from shapes.render import render
from shapes.request import holds, parse_request
from shapes.scenes import describe_scene, sample_request, sample_scene, spoil, vocabulary
from shapes.world import HELD_OUT_KINDS, IMAGE_SIZE, SEEN_KINDS, Kind

OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_request_survives_its_row(seed: int) -> None:
    """Parsing the row of a request, in the public file format, gives the request back."""
    request = sample_request(np.random.default_rng(seed), (*SEEN_KINDS, *HELD_OUT_KINDS))
    assert parse_request(request.prompt()) == request


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_scenes_lie_inside_and_apart_and_can_be_said(seed: int) -> None:
    """Items stay in the image, never touch, and the CoT uses known words only."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(sample_request(rng), rng)
    covered = np.zeros((IMAGE_SIZE + 2, IMAGE_SIZE + 2), int)
    for item in scene.items:
        assert 0 <= item.x <= IMAGE_SIZE - item.pixels
        assert 0 <= item.y <= IMAGE_SIZE - item.pixels
        covered[item.y : item.y + item.pixels + 2, item.x : item.x + item.pixels + 2] += 1
    assert covered.max() == 1
    assert {*describe_scene(scene).split(), *scene.request.text.split()} <= set(vocabulary())


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_spoiling_changes_the_picture_and_shows_seen_kinds_only(seed: int) -> None:
    """A spoiled scene looks different and holds no held-out pair."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(sample_request(rng), rng)
    wrong = spoil(scene, rng)
    assert not np.array_equal(render(scene), render(wrong))
    assert {item.kind for item in wrong.items} <= set(SEEN_KINDS)


@given(st.sampled_from(sorted(OPPOSITE)), st.floats(-30, 30), st.floats(-30, 30))
def test_opposite_relations_mirror_each_other(locality: str, dx: float, dy: float) -> None:
    """A is above B exactly when B is below A; a relation and its opposite never both hold."""
    assert holds(locality, dx, dy) == holds(OPPOSITE[locality], -dx, -dy)
    assert not (holds(locality, dx, dy) and holds(OPPOSITE[locality], dx, dy))


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_codes_are_exact(seed: int) -> None:
    """Tokenising what codes draw gives the codes back, grain included; so it is lossless."""
    rng = np.random.default_rng(seed)
    looks = looks_of(sample_scene(sample_request(rng, (*SEEN_KINDS, *HELD_OUT_KINDS)), rng))
    codes = add_grain(looks, rng, band=None)
    assert np.array_equal(tokenise(draw(codes)), codes)
    assert np.array_equal(code_table().look_K[codes], looks)


def test_code_book_is_full() -> None:
    """109 looks (background, 6 colours x 18 patterns) with their shades make 512 codes."""
    table = code_table()
    assert (table.num_codes, len(table.num_shades), table.num_patterns) == (512, 109, 18)


@pytest.mark.parametrize("stem", sorted(FILES))
def test_prompt_files_are_what_the_code_writes(stem: str) -> None:
    """The committed files are regenerated exactly."""
    assert (DATA / f"{stem}.jsonl").read_text().splitlines() == prompt_lines(stem)


@pytest.mark.parametrize("stem", sorted(FILES))
def test_held_out_pairs_are_held_out(stem: str) -> None:
    """No prompt of training or seen evaluation names one, every held-out prompt does."""
    for prompt in load_prompts(DATA / f"{stem}.jsonl"):
        kinds = parse_request(prompt).kinds
        assert any(kind in HELD_OUT_KINDS for kind in kinds) == (stem == "held_out"), json.dumps(
            prompt.text
        )


def test_held_out_pairs_leave_every_colour_and_shape_seen() -> None:
    """Each part of a held-out pair occurs in seen pairs."""
    assert {k.colour for k in HELD_OUT_KINDS} <= {k.colour for k in SEEN_KINDS}
    assert {k.shape for k in HELD_OUT_KINDS} <= {k.shape for k in SEEN_KINDS}
    with pytest.raises(ValueError, match="unknown colour 'pink'"):
        Kind("pink", "circle")
