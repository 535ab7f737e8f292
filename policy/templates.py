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
    """How a message becomes the text of a turn, and what the message of each phase is.

    The messages are stripped and the texts end where the assistant begins, as in the chat format
    of Janus (janus/utils/conversation.py and models/processing_vlm.py of its repository).
    """

    name: str
    turn: str  # {message}
    system: str  # goes before the turn of phase 1
    image_message: str  # {prompt} and {cot}
    default_instruction: str  # {} stands for the prompt

    def cot_prompt(self, prompt: str, instruction: str | None = None) -> str:
        """Text of phase 1, up to where the CoT begins; an instruction is used as it is written."""
        chosen = self.default_instruction if instruction is None else instruction
        message = chosen.replace("{}", prompt)
        return self.system + self.turn.format(message=message.strip())

    def image_prompt(self, prompt: str, cot: str) -> str:
        """Text of phase 2, up to where ``<begin_of_image>`` follows."""
        message = self.image_message.format(prompt=prompt, cot=cot)
        return self.turn.format(message=message.strip())


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
            turn="User: {message}\n\nAssistant:",
            system=_SYSTEM + "\n\n",
            image_message="{prompt}. {cot}",
            default_instruction=_DEFAULT_INSTRUCTION,
        ),
        Template(
            name="janus-special",  # the role tokens Janus-Pro was tuned with
            turn="<|User|>: {message}\n\n<|Assistant|>:",
            system=_SYSTEM + "\n\n",
            image_message="{prompt}. {cot}",
            default_instruction=_DEFAULT_INSTRUCTION,
        ),
        Template(
            name="shapes",  # words and punctuation apart, as its word-level tokenizer wants them
            turn="<|User|> : {message} <|Assistant|> :",
            system="",
            image_message="{prompt} . {cot}",
            default_instruction='visualize : " {} "',
        ),
    )
}


def template_named(name: str) -> Template:
    """Look a template up; raises ``UserError`` that lists the known names."""
    if name not in TEMPLATES:
        raise UserError(f"unknown template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
