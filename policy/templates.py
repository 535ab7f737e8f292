"""The one registry of prompt templates, for training, `generate` and evaluation alike.

A template turns a prompt into the two strings a Janus policy reads: the CoT prompt (phase 1) and
the image prompt (phase 2). Token ids are BOS + the string's ids, and for phase 2
``<begin_of_image>`` behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.errors import UserError

_SYSTEM = (
    "You are a helpful assistant that receives an image prompt and generate a visualization of "
    "the prompt."
)


@dataclass(frozen=True)
class Template:
    """Two format strings; ``{instruction}`` is the CoT instruction filled with the prompt."""

    name: str
    cot_format: str
    image_format: str
    default_instruction: str

    def cot_prompt(self, prompt: str, instruction: str | None = None) -> str:
        """Text of phase 1, up to where the CoT begins."""
        filled = (instruction or self.default_instruction).replace("{}", prompt).strip()
        return self.cot_format.format(instruction=filled)

    def image_prompt(self, prompt: str, cot: str) -> str:
        """Text of phase 2, up to where ``<begin_of_image>`` follows."""
        return self.image_format.format(prompt=prompt, cot=cot)


_DEFAULT_INSTRUCTION = """\
Describe, in at most 50 words, the picture that this prompt asks for: "{}"
Name every object with its number, colour, shape and material where the prompt gives them, and say
where the objects are in relation to each other. Add nothing that the prompt does not ask for.
Write the description only:"""

TEMPLATES = {
    template.name: template
    for template in (
        Template(
            name="janus-plain",  # role names as plain words, as in the paper's runs
            cot_format=_SYSTEM + "\n\nUser: {instruction}\n\nAssistant:",
            image_format="User: {prompt}. {cot}\n\nAssistant:",
            default_instruction=_DEFAULT_INSTRUCTION,
        ),
        Template(
            name="janus-special",  # the role tokens Janus-Pro was tuned with
            cot_format=_SYSTEM + "\n\n<|User|>: {instruction}\n\n<|Assistant|>:",
            image_format="<|User|>: {prompt}. {cot}\n\n<|Assistant|>:",
            default_instruction=_DEFAULT_INSTRUCTION,
        ),
        Template(
            name="shapes",  # words and punctuation apart, as its word-level tokenizer wants them
            cot_format="<|User|> : {instruction} <|Assistant|> :",
            image_format="<|User|> : {prompt} . {cot} <|Assistant|> :",
            default_instruction='visualize : " {} "',
        ),
    )
}


def template_named(name: str) -> Template:
    """Look a template up; raises ``UserError`` that lists the known names."""
    if name not in TEMPLATES:
        raise UserError(f"unknown template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
