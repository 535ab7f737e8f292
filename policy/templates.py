"""The registry of prompt templates. Training, `generate` and evaluation all use it.

A template turns a prompt into the two strings that a Janus policy reads: the CoT prompt (phase 1)
and the image prompt (phase 2). The token ids of a phase are BOS and the ids of its string. In
phase 2, ``<begin_of_image>`` follows them.
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
    """How the prompt text of each phase is written.

    Each phase has a message, which is stripped and put into the turn. The text ends where the
    assistant's answer begins. This is the chat format of Janus (janus/utils/conversation.py and
    models/processing_vlm.py of its repository).
    """

    name: str
    turn: str  # {message} stands for the message
    system: str  # the text before the turn of phase 1
    image_message: str  # the message of phase 2; {prompt} and {cot} stand for the two
    default_instruction: str  # the message of phase 1; {} stands for the prompt

    def cot_prompt(self, prompt: str, instruction: str | None = None) -> str:
        """Text of phase 1, up to where the CoT begins.

        ``instruction`` replaces the default one; {} in it stands for the prompt.
        """
        chosen = self.default_instruction if instruction is None else instruction
        message = chosen.replace("{}", prompt)
        return self.system + self.turn.format(message=message.strip())

    def image_prompt(self, prompt: str, cot: str | None) -> str:
        """Text of phase 2, without the ``<begin_of_image>`` that follows it.

        Without a CoT the message is the prompt alone. An empty CoT is not the same: the text that
        ``image_message`` puts between prompt and CoT stays.
        """
        message = prompt if cot is None else self.image_message.format(prompt=prompt, cot=cot)
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
            name="janus-plain",  # role names are plain words, as in the paper's runs
            turn="User: {message}\n\nAssistant:",
            system=_SYSTEM + "\n\n",
            image_message="{prompt}. {cot}",
            default_instruction=_DEFAULT_INSTRUCTION,
        ),
        Template(
            name="janus-special",  # role names are the special tokens that Janus-Pro was tuned with
            turn="<|User|>: {message}\n\n<|Assistant|>:",
            system=_SYSTEM + "\n\n",
            image_message="{prompt}. {cot}",
            default_instruction=_DEFAULT_INSTRUCTION,
        ),
        Template(
            name="shapes",  # spaces around punctuation: its tokenizer splits at spaces only
            turn="<|User|> : {message} <|Assistant|> :",
            system="",
            image_message="{prompt} . {cot}",
            default_instruction='visualize : " {} "',
        ),
    )
}


def template_named(name: str) -> Template:
    """The template of this name. Raises ``UserError`` that lists the known names."""
    if name not in TEMPLATES:
        raise UserError(f"unknown template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
