"""Imports that rewriting brings along."""

from __future__ import annotations

import pytest

from laguna_agent.code.syntax import new_error
from tests.code.test_rewriting import STACK, rewritten


def test_imports_are_added_by_name_and_only_once() -> None:
    text = "from typing import List\n\n\ndef f(a):\n    return a\n"
    block = "from typing import Dict, List, Any\nimport math as m\n\ndef f(a: Dict) -> List:\n    return m.sqrt(a)\n"
    result = rewritten(text, block)
    assert result.startswith("from typing import List\nfrom typing import Dict\nimport math as m\n\n\ndef f(a: Dict)")
    text = "from typing import List, \\\n    Dict\n\n\ndef f(a: Dict):\n    return a\n"
    assert rewritten(text, text.replace("return a", "return 1")) == text.replace("return a", "return 1")


def test_a_name_that_the_file_binds_is_not_bound_anew() -> None:
    text = "import datetime\n\n\ndef f():\n    return datetime.datetime.now()\n"
    block = "from datetime import datetime\n\ndef f():\n    return datetime.utcnow()\n"
    assert "from datetime" not in rewritten(text, block)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "import math\n\n\ndef f"),
        ("#!/usr/bin/env python\n", "#!/usr/bin/env python\n\nimport math\n\ndef f"),
        ('"""Doc."""\n\n\n', '"""Doc."""\n\nimport math\n\n\ndef f'),
        ("# Adds.\n", "import math\n\n\n# Adds.\ndef f"),
        ("try:\n    import a\nexcept ImportError:\n    a = None\n\n", "    a = None\nimport math\n\ndef f"),
        ("from a import (\n    b,\n    c,\n)\n\n", ")\nimport math\n\ndef f"),
    ],
)
def test_imports_go_behind_the_file_s_or_its_head(head: str, expected: str) -> None:
    result = rewritten(head + "def f():\n    return 1\n", "import math\ndef f():\n    return math.pi\n")
    assert expected in result
    assert new_error("a.py", None, result) is None


def test_a_future_import_is_the_first_statement() -> None:
    block = "from __future__ import annotations\nimport math\n\ndef push(items, item):\n    return math.pi\n"
    result = rewritten(STACK, block)
    assert '"""A stack."""\nfrom __future__ import annotations\nimport os\nimport math\n' in result
    assert new_error("a.py", None, result) is None
