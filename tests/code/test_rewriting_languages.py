"""Rewriting in each language but Python, whose rules `test_rewriting` has."""

from __future__ import annotations

import pytest

from laguna_agent.code.rewriting import rewriting
from laguna_agent.code.symbols import symbols
from laguna_agent.code.syntax import new_error

JAVASCRIPT = """\
'use strict';
const fs = require('fs');

const LIMIT = 3;

/** Adds. */
export async function add(a, b) {
  return a - b;
}

export const scale = (x) => {
  return x;
};

export default class Stack {
  size = 0;

  push(x) {
    return x;
  }

  pop() {
    return 1;
  }
}

module.exports.last = function (items) {
  return items[0];
};
"""
GO = """\
package stack

import "fmt"

type Stack struct {
\titems []int
}

// Push adds.
func (s *Stack) Push(x int) {
\tfmt.Println(x)
}

func Size(s *Stack) int { return 1 }
"""
RUST = """\
use std::fmt;

#[derive(Debug)]
pub struct Point {
    x: i32,
}

impl Point {
    #[inline]
    pub fn x(&self) -> i32 {
        0
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "1")
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "2")
    }
}
"""
JAVA = """\
package a;

import java.util.List;

public class Calculator {
    private int limit = 3;

    @Override
    public int add(int a) {
        return 1;
    }

    public int add(String a) {
        return 2;
    }
}
"""
CPP = """\
#include <vector>

namespace shapes {
class Circle {
 public:
  double area() const {
    return 1;
  }
};

template <class T>
T twice(T a) {
  return a;
}

double Circle::far() {
  return 2;
}
}  // namespace shapes
"""
RUBY = """\
module Shapes
  class Circle
    def area(scale)
      1
    end

    def name; end
  end
end
"""
TYPESCRIPT = """\
import { a } from './a';

export interface Options {
\tdepth: number;
}

export function parse(text: string): string;
export function parse(text: string | number): string {
\treturn '';
}

@Injectable()
export class Service {
\tconstructor(private a: string) {}

\t@Input()
\tpublic async load(): Promise<void> {
\t\treturn;
\t}
}
"""

# What is written, by (file, code), as (old, new) pairs of its text.
CASES = {
    "js function, not exported": (
        ("a.js", JAVASCRIPT, "async function add(a, b) {\n  return a + b;\n}\nconsole.log(add(1, 2));\n"),
        [("return a - b", "return a + b")],
    ),
    "js function as arrow": (
        ("a.js", JAVASCRIPT, "const scale = (x) => {\n  return 2 * x;\n};\n"),
        [("return x;\n};", "return 2 * x;\n};")],
    ),
    "js bare method": (
        ("a.js", JAVASCRIPT, "push(x) {\n    return [x];\n}\n"),
        [("push(x) {\n    return x", "push(x) {\n    return [x]")],
    ),
    "js method written as a function": (
        ("a.js", JAVASCRIPT, "function pop() {\n  return 2;\n}\n"),
        [("return 1", "return 2")],
    ),
    "js exported by assignment": (
        ("a.js", JAVASCRIPT, "function last(items) {\n  return items[1];\n}\n"),
        [("function (items) {\n  return items[0]", "function last(items) {\n  return items[1]")],
    ),
    "js class in part, with a new field and method": (
        ("a.js", JAVASCRIPT, "class Stack {\n  depth = 1;\n\n  pop() {\n    return 2;\n  }\n\n  peek() {}\n}\n"),
        [("return 1;\n  }", "return 2;\n  }\n\n  peek() {}"), ("size = 0;", "size = 0;\n  depth = 1;")],
    ),
    "js imports and constants": (
        (
            "a.js",
            JAVASCRIPT,
            "const { join, sep } = require('path');\nconst LIMIT = 4;\nconst fs = require('fs');\n"
            "async function add(a, b) {\n  return join(a, b, LIMIT);\n}\n",
        ),
        [
            ("return a - b", "return join(a, b, LIMIT)"),
            ("LIMIT = 3", "LIMIT = 4"),
            ("require('fs');", "require('fs');\nconst { join } = require('path');"),
        ],
    ),
    "ts overload and imports": (
        (
            "service.ts",
            TYPESCRIPT,
            "import { a, b } from './a';\nimport type { C } from './c';\n"
            "function parse(text: string | number): string {\n  return b(text as C);\n}\n",
        ),
        [
            ("return ''", "return b(text as C)"),
            ("from './a';", "from './a';\nimport { b } from './a';\nimport type { C } from './c';"),
        ],
    ),
    "ts class in part keeps decorators": (
        ("service.ts", TYPESCRIPT, "class Service {\n  public async load(): Promise<void> {\n    await f();\n  }\n}\n"),
        [("return;", "await f();")],
    ),
    "ts interface": (
        ("service.ts", TYPESCRIPT, "interface Options {\n  depth: string;\n}\n"),
        [("depth: number", "depth: string")],
    ),
    "go method, with an import, without main": (
        (
            "stack.go",
            GO,
            'package main\n\nimport (\n    "fmt"\n    "strings"\n    "os"\n)\n\n'
            'func (s *Stack) Push(x int) {\n    fmt.Println(strings.Repeat("x", x))\n}\n'
            "\nfunc main() {\n    os.Exit(1)\n}\n",
        ),
        [("fmt.Println(x)", 'fmt.Println(strings.Repeat("x", x))'), ('import "fmt"', 'import "fmt"\nimport "strings"')],
    ),
    "go import in a list": (
        (
            "stack.go",
            GO.replace('import "fmt"', 'import (\n\t"fmt"\n)'),
            'package a\n\nimport "strings"\n\nfunc Size(s *Stack) int { return strings.Count("a", "a") }\n',
        ),
        [("{ return 1 }", '{ return strings.Count("a", "a") }'), ('\t"fmt"', '\t"fmt"\n\t"strings"')],
    ),
    "go struct": (
        ("stack.go", GO, "package a\n\ntype Stack struct {\n    items []string\n}\n"),
        [("[]int", "[]string")],
    ),
    "rust method keeps pub and attributes": (
        ("a.rs", RUST, "impl Point {\n    fn x(&self) -> i32 {\n        self.x\n    }\n}\nfn main() {}\n"),
        [("        0\n", "        self.x\n")],
    ),
    "rust traits are told apart": (
        (
            "a.rs",
            RUST,
            "impl fmt::Display for Point {\n    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {\n"
            '        write!(f, "3")\n    }\n}\n',
        ),
        [('"1"', '"3"')],
    ),
    "rust imports": (
        (
            "a.rs",
            RUST,
            "use std::collections::{HashMap, HashSet};\nuse std::fmt;\n"
            "impl Point {\n    fn x(&self) -> i32 {\n        HashMap::new()\n    }\n}\n",
        ),
        [("        0\n", "        HashMap::new()\n"), ("fmt;", "fmt;\nuse std::collections::{ HashMap };")],
    ),
    "java bare overload keeps its twin": (
        ("Calculator.java", JAVA, "public int add(String a) {\n    return limit;\n}\n"),
        [("return 2", "return limit")],
    ),
    "java class in part": (
        (
            "Calculator.java",
            JAVA,
            "import java.util.Map;\nimport java.util.List;\npublic class Calculator {\n    private int limit = 4;\n"
            "    public int add(int a) {\n        Map b;\n    }\n\n    private void help() {}\n}\n",
        ),
        [
            ("return 1;", "Map b;"),
            ("limit = 3", "limit = 4"),
            ("return 2;\n    }", "return 2;\n    }\n\n    private void help() {}"),
            ("List;", "List;\nimport java.util.Map;"),
        ],
    ),
    "cpp method in its class": (
        ("a.cpp", CPP, "#include <cmath>\nclass Circle {\n  double area() const {\n    return M_PI;\n  }\n};\n"),
        [("return 1", "return M_PI"), ("<vector>", "<vector>\n#include <cmath>")],
    ),
    "cpp function outside of its namespace": (
        ("a.cpp", CPP, "double Circle::far() {\n  return 3;\n}\n\nint main() {\n  return 0;\n}\n"),
        [("return 2", "return 3")],
    ),
    "cpp template": (
        ("a.cpp", CPP, "template <class T>\nT twice(T a) {\n  return a + a;\n}\n"),
        [("return a;", "return a + a;")],
    ),
    "c helper before the function that needs it": (
        (
            "a.c",
            "#include <a.h>\n\nstatic int f(int a) {\n  return a;\n}\n",
            "#define STEP 2\nint help(int a) { return a; }\n\nstatic int f(int a) {\n  return help(a) + STEP;\n}\n",
        ),
        [
            ("return a;", "return help(a) + STEP;"),
            ("static int f", "int help(int a) { return a; }\n\nstatic int f"),
            ("<a.h>\n", "<a.h>\n\n#define STEP 2\n"),
        ],
    ),
    "ruby bare method with a new one": (
        ("a.rb", RUBY, "require 'set'\ndef area(scale)\n  scale * 2\nend\n\ndef help\nend\n"),
        [
            ("      1\n", "      scale * 2\n"),
            ("def name; end", "def name; end\n\n    def help\n    end"),
            ("module Shapes", "require 'set'\n\nmodule Shapes"),
        ],
    ),
    "bash": (("a.sh", "#!/bin/bash\nf() {\n  echo 1\n}\n\nf\n", "f() {\n  echo 2\n}\nf\n"), [("echo 1", "echo 2")]),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_the_code_defines_changes(case: str) -> None:
    (path, text, block), replaced = CASES[case]
    expected = text
    for old, new in replaced:
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    result = rewriting(path, text, block).apply(text)
    assert result == expected
    assert new_error(path, text, result) is None
    assert {each.name for each in symbols(path, text)} <= {each.name for each in symbols(path, result)}
