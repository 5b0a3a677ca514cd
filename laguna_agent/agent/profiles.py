"""What is known of a model: data, in one table.

The edit format is a property of the model. Measured with Qwen2.5-Coder 1.5B: asked for the corrected function in a code
block it fixed 4 of 6 small bugs, asked to call an edit tool or to write SEARCH/REPLACE blocks none. Models from about
9B parameters on, and everything served by the big providers, follow tool calls.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from laguna_agent.config import Settings

Format = Literal["replace", "symbol", "whole"]

# Below this many billions of parameters a model of unknown name is given the small-model dialect.
SMALL_BELOW = 9.0


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to drive a model.

    `edit_format`: "replace" uses tool calls; "symbol" and "whole" ask for code blocks that the program applies.
    `prompt_budget` is how many tokens of files may be put in front of a small model; `max_output_tokens` bounds an
    answer where the server names no limit.
    """

    edit_format: Format = "replace"
    temperature: float | None = None
    top_k: int | None = None
    prompt_budget: int = 3_000
    max_output_tokens: int | None = None


# First match wins; patterns are searched in the lower-cased model id.
TABLE: tuple[tuple[str, Profile], ...] = (
    # poolside publishes all its agent results with these two values.
    (r"laguna", Profile(temperature=1.0, top_k=20)),
    (
        r"qwen2\.5-coder.*\b(0\.5|1\.5|3)b",
        Profile(edit_format="symbol", temperature=0.0, prompt_budget=2_000, max_output_tokens=1_024),
    ),
)


def parameters_in_billions(model: str) -> float | None:
    """The size that a model's name tells (`qwen2.5-coder:7b` is 7.0, `30b-a3b` is 30.0), None where it tells none."""
    sizes = re.findall(r"(?<![\d.a-z])(\d+(?:\.\d+)?)b(?![a-z0-9])", model.lower())
    return max(map(float, sizes)) if sizes else None


def profile_for(model: str) -> Profile:
    """The table's row for a model id, else one that follows from the size in its name."""
    name = model.lower()
    for pattern, profile in TABLE:
        if re.search(pattern, name):
            return profile
    size = parameters_in_billions(name)
    if size is not None and size < SMALL_BELOW:
        return Profile(edit_format="symbol", temperature=0.0, prompt_budget=2_500, max_output_tokens=2_048)
    return Profile()


def choose_profile(model: str, settings: Settings) -> Profile:
    """The profile with the person's own choice of edit format on top."""
    profile = profile_for(model)
    if settings.edit_format != "auto":
        profile = msgspec.structs.replace(profile, edit_format=settings.edit_format)
    return profile
