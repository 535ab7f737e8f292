"""The public files of the suites, in the authors' formats and with few prompts."""

from __future__ import annotations

import json
from pathlib import Path

from evaluation.chunks import Analyses, Analysis, write_analyses

# As WISE's program builds its messages; nothing of it is run.
JUDGE_PROGRAM = """
def build_evaluation_messages(prompt_data, image_base64):
    return [
        {"role": "system", "content": [{"type": "text", "text": "Be strict."}]},
        {"role": "user", "content": [
            {"type": "text", "text": f'''PROMPT: {prompt_data['Prompt']}
EXPLANATION: {prompt_data['Explanation']}'''},
            {"type": "image_url", "image_url": {"url": f"data:{image_base64}"}},
        ]},
    ]
"""


def wise_files(folder: Path, change: dict[int, object] | None = None) -> Path:
    """The three files of WISE legacy, with ``change`` in place of the rows of some ids."""
    spans = {
        "cultural_common_sense": (1, 400),
        "spatio-temporal_reasoning": (401, 700),
        "natural_science": (701, 1000),
    }
    (folder / "wise_legacy").mkdir(parents=True)
    for name, (first, last) in spans.items():
        rows = [
            {"Prompt": f"prompt {number}", "Explanation": "why", "prompt_id": number}
            for number in range(first, last + 1)
        ]
        for number, row in (change or {}).items():
            if first <= number <= last:
                rows[number - first : number - first + 1] = [] if row is None else [row]
        (folder / "wise_legacy" / f"{name}.json").write_text(json.dumps(rows))
    return folder


def compbench_files(folder: Path) -> Path:
    """Two prompts in each category, a complex one of each kind, and the old color list."""
    objects = "bird - birds\nchair - chairs\nbook - books\n"
    (folder / "t2i_compbench_objects.txt").write_text(objects)
    lists = {
        "color": ["a red book", "a blue chair"],
        "shape": ["a round book", "a square chair"],
        "texture": ["a leather book", "a wooden chair"],
        "non_spatial": ["A bird sings.", "A bird sleeps."],
        "spatial": ["a bird on the left of a chair", "a book on the top of a chair"],
        "numeracy": ["two birds", "three chairs"],
        "complex": ["a red book near a chair", "a red bird sings", "a red bird sings near a book"],
        "complex_val_spatial": ["a red book near a chair"],
        "complex_val_action": ["a red bird sings"],
        "complex_val_spatialaction": ["a red bird sings near a book"],
    }
    (folder / "t2i_compbench").mkdir()
    for name, lines in lists.items():
        file = name if name.startswith("complex_val") else f"{name}_val"
        (folder / "t2i_compbench" / f"{file}.txt").write_text("\n".join(lines))
    old = ["a red book", "a white chair"]
    (folder / "t2i_compbench_2023").mkdir()
    (folder / "t2i_compbench_2023" / "color_val.txt").write_text("\n".join(old))
    texts = {text for lines in [*lists.values(), old] for text in lines}
    prompts = {text: Analysis((text,), _tokens(text)) for text in texts}
    write_analyses(folder / "chunks.json", Analyses("3.8.0", "en_core_web_sm 3.8.0", prompts))
    return folder


def _tokens(text: str) -> tuple[tuple[str, str], ...]:
    nouns = ("bird", "birds", "book", "chair", "chairs")
    parts = dict.fromkeys(nouns, "NOUN") | {"red": "ADJ"}
    return tuple((word, parts.get(word, "X")) for word in text.split())


def geneval_file(folder: Path) -> Path:
    """A prompt of each task."""
    rows = [
        {"tag": "single_object", "include": [{"class": "bird", "count": 1}],
         "prompt": "a photo of a bird"},
        {"tag": "two_object", "include": [{"class": "bird", "count": 1},
                                          {"class": "car", "count": 1}],
         "prompt": "a photo of a bird and a car"},
        {"tag": "counting", "include": [{"class": "car", "count": 2}],
         "exclude": [{"class": "car", "count": 3}], "prompt": "a photo of two cars"},
        {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}],
         "prompt": "a photo of a red car"},
        {"tag": "position", "include": [{"class": "car", "count": 1},
                                        {"class": "bird", "count": 1,
                                         "position": ["left of", 0]}],
         "prompt": "a photo of a bird left of a car"},
        {"tag": "color_attr", "include": [{"class": "car", "count": 1, "color": "red"},
                                          {"class": "bird", "count": 1, "color": "blue"}],
         "prompt": "a photo of a red car and a blue bird"},
    ]  # fmt: skip
    (folder / "geneval").mkdir()
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "geneval" / "evaluation_metadata.jsonl").write_text(lines)
    return folder
