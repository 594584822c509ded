"""Finds functions and their lengths, well enough to keep them short: a scanner, not a parser."""

import ast
import re

CONTAINER = re.compile(
    r"^\s*(template\s*<.*>\s*)?(inline\s+)?(namespace|class|struct|union|enum"
    r'|extern\s*"")(\s|$)',
    re.S,
)


def blank(text: str) -> str:
    """C++ with comments, strings and character literals emptied and preprocessor lines removed."""

    def gone(match):
        return (
            '""' + "\n" * match.group(0).count("\n")
            if match.group(0)[0] in "\"'R"
            else "\n" * match.group(0).count("\n")
        )

    text = re.sub(
        r'//[^\n]*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'",
        gone,
        text,
        flags=re.S,
    )
    return re.sub(
        r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group(0).count("\n"), text, flags=re.M
    )


def cpp_functions(text: str):
    """(name, lines) of each function with a body; a lambda belongs to the function around it."""
    line, head, head_line, stack = 1, "", 1, []
    for char in blank(text):
        inside = any(kind == "function" for kind, _, _ in stack)
        if char == "\n":
            line += 1
        if inside or (stack and stack[-1][0] == "other"):
            if char == "{":
                stack.append(("block", "", line))
            elif char == "}":
                kind, name, start = stack.pop()
                if kind == "function":
                    yield name, line - start + 1
                    head = ""
            continue
        if char == "{":
            names = re.findall(r"([~\w:]+|operator[^\s(]*)\s*\(", head)
            member_init = re.search(r"\)\s*(noexcept\s*)?:[^:].*[\w>]\s*$", head, re.S)
            if CONTAINER.match(head):
                stack.append(("container", "", line))
                head = ""
            elif names and not member_init:
                first = next(
                    (n for n in names if n not in {"requires", "decltype", "noexcept"}), "?"
                )
                if re.fullmatch(r"(TYPED_)?TEST(_[FP])?", first):
                    first = re.sub(r"\s+", "", head.strip().split("\n")[0])
                stack.append(("function", first, head_line))
            else:
                stack.append(("other", "", line))
                head += "{}"
        elif char == "}":
            if stack:
                stack.pop()
            head = ""
        elif char == ";":
            head = ""
        else:
            if not head.strip():
                head, head_line = "", line
            head += char


def python_functions(text: str):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1
