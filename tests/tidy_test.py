#!/usr/bin/env python3
"""Keeps the house in order: the rules that a machine can check, and tests that each rule bites.

Run it alone: python3 tests/tidy_test.py
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tidy.functions import cpp_functions, python_functions  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# Files and functions that are longer than the aim (500 and 70 lines), with the most lines that
# they may have. The list only shrinks: an entry that is no longer needed, or larger than needed,
# fails.
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}  # "path:name"
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100

TOP_LEVEL = {
    "CMakeLists.txt",
    "README.md",
    "bench",
    "client",
    "common",
    "dataserver",
    "deploy",
    "manager",
    "proto",
    "tests",
}

# Who may include whom, besides itself: the longest matching beginning of a path decides on both
# sides.
ANYTHING = {""}
COMMON = {
    "common/base",
    "common/config",
    "common/metrics",
    "common/routing",
    "common/transport",
    "common/protocol",
    "common/rpc",
}
ARROWS = {
    "proto": set(),
    "common/base": set(),
    "common/config": {"common/base"},
    "common/metrics": {"common/base"},
    "common/routing": {"common/base"},
    "common/transport": {"common/base"},
    # The key's hash, with which both sides find shard and bucket, lies in routing.
    "common/protocol": {"common/base", "common/transport", "common/routing"},
    "common/rpc": {"proto", "common/base", "common/routing"},
    "manager": COMMON,
    "dataserver": COMMON,
    "client": COMMON,
    "client/cli": {"client", "common/base"},
    "client/python": {"client", "common/base"},
    "tests": ANYTHING,
    "bench": ANYTHING,
}
ROOMS_WITH_README = set(ARROWS) | {"deploy"}
ONLY_FROM_THEMSELVES = {"tests", "bench"}
PUBLIC_HEADERS = ("client/client.h", "client/options.h", "client/admin.h")

CPP = {".h", ".cc"}
CODE = CPP | {".py", ".sh", ".proto", ".cmake", ".yaml", ".yml"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
HEAVY = re.compile(r"^(grpc|grpcpp|google/protobuf|absl)/|\.pb\.h$")
GENERATED = re.compile(r"^(grpc|grpcpp|google/protobuf)/|\.pb\.h$")
BANNED_NAMES = {"util", "utils", "helper", "helpers", "misc", "impl"}
BANNED_WORDS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
MACHINE_PATHS = re.compile(r"(?<![\w.$}])/(?:work|root|home)/")


class Tree:
    """The text files under a root: those that git would add, or all where there is no git."""

    def __init__(self, root: Path):
        self.root = root
        self.paths = sorted(self._list())
        self._text: dict[str, str] = {}

    def _list(self):
        listed = subprocess.run(
            ["git", "-C", str(self.root), "ls-files", "-co", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode == 0 and (self.root / ".git").exists():
            return [p for p in listed.stdout.splitlines() if (self.root / p).is_file()]
        return [
            str(p.relative_to(self.root))
            for p in self.root.rglob("*")
            if p.is_file() and not str(p.relative_to(self.root)).startswith(("build", ".git/"))
        ]

    def text(self, path: str) -> str:
        if path not in self._text:
            self._text[path] = (self.root / path).read_text(encoding="utf-8", errors="replace")
        return self._text[path]

    def with_suffix(self, suffixes):
        return [
            p
            for p in self.paths
            if Path(p).suffix in suffixes or (".cmake" in suffixes and p.endswith("CMakeLists.txt"))
        ]


def room_of(path: str) -> str:
    fitting = [room for room in ARROWS if path == room or path.startswith(room + "/")]
    return max(fitting, key=len, default=path.split("/")[0])


def includes(tree: Tree, path: str):
    """(quoted?, name) of each include of a file."""
    return [(mark == '"', name) for mark, name in INCLUDE.findall(tree.text(path))]


def check_arrows(tree: Tree):
    for path in tree.with_suffix(CPP):
        room = room_of(path)
        allowed = ARROWS.get(room)
        if allowed is None:
            yield f"{path}: no room of HOUSE.md; give it one in tests/tidy_test.py"
            continue
        for quoted, name in includes(tree, path):
            target = room_of(name)
            if target not in ARROWS or target == room or not (quoted or name in tree.paths):
                continue
            if target in ONLY_FROM_THEMSELVES and room not in ONLY_FROM_THEMSELVES:
                yield f"{path}: includes {name}: nothing may include {target}"
            elif allowed is not ANYTHING and target not in allowed:
                yield f"{path}: includes {name}: {room} may include {sorted(allowed) or 'nothing'}"


def check_generated_code(tree: Tree):
    for path in tree.with_suffix(CPP):
        for _, name in includes(tree, path):
            if GENERATED.search(name) and room_of(path) not in {"common/rpc", "tests"}:
                yield f"{path}: includes {name}: generated code is seen only in common/rpc"
            if path.startswith("common/transport/") and HEAVY.search(name):
                yield f"{path}: includes {name}: not in the transport (gRPC, protobuf, abseil)"


def check_public_headers(tree: Tree):
    for public in PUBLIC_HEADERS:
        pending, seen = [(public, public)], set()
        while pending:
            path, way = pending.pop()
            if path in seen or path not in tree.paths:
                continue
            seen.add(path)
            for _, name in includes(tree, path):
                if HEAVY.search(name):
                    yield f"{way} -> {name}: {public} must be free of gRPC, protobuf and abseil"
                pending.append((name, f"{way} -> {name}"))


def check_top_level(tree: Tree):
    entries = {p.split("/")[0] for p in tree.paths if not p.startswith(".")}
    for extra in sorted(entries - TOP_LEVEL):
        yield f"{extra}: the top level is exactly {', '.join(sorted(TOP_LEVEL))} and dot files"
    for missing in sorted(TOP_LEVEL - entries):
        yield f"{missing}: is missing at the top level"


def check_names(tree: Tree):
    for path in tree.paths:
        for part in Path(path).parts:
            for word in BANNED_NAMES & set(re.split(r"[^a-z0-9]+", part.lower())):
                yield f"{path}: '{word}' says nothing; name it by what it does"
    for path in tree.with_suffix(CPP):
        for name in re.findall(r"\b(?:class|struct)\s+(\w+Impl)\b", tree.text(path)):
            yield f"{path}: {name}: an implementation is named by its quality (pimpl aside)"


def check_headers_once(tree: Tree):
    for path in tree.with_suffix({".h"}):
        if "#pragma once" not in tree.text(path).splitlines()[:1]:
            yield f"{path}: begins with #pragma once"


def check_columns(tree: Tree):
    for path in tree.with_suffix(CODE):
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if len(line) > MAX_COLUMNS and "://" not in line:
                yield f"{path}:{number}: {len(line)} columns, {MAX_COLUMNS} are allowed"


def check_words(tree: Tree):
    for path in tree.paths:
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if BANNED_WORDS.search(line):
                yield f"{path}:{number}: finish it or file an issue: {line.strip()[:60]}"
            if MACHINE_PATHS.search(line):
                yield f"{path}:{number}: a path of one machine: {line.strip()[:60]}"


def check_readmes(tree: Tree):
    rooms = {room_of(p) for p in tree.paths} & ROOMS_WITH_README
    for room in sorted(rooms):
        if f"{room}/README.md" not in tree.paths:
            yield f"{room}: has no README.md"


def ratchet(found: dict[str, int], listed: dict[str, int], limit: int, what: str):
    for name, lines in sorted(found.items()):
        if lines > listed.get(name, limit):
            yield f"{name}: {lines} lines; {what} has at most {listed.get(name, limit)}"
    for name, lines in sorted(listed.items()):
        now = found.get(name, 0)
        if now <= limit:
            yield f"{name}: no longer needs its exception; remove it from the list"
        elif now < lines:
            yield f"{name}: shrank to {now} lines; lower its exception from {lines}"


def check_file_lengths(tree: Tree, listed=None):
    found = {p: tree.text(p).count("\n") for p in tree.with_suffix(CODE)}
    yield from ratchet(found, LONG_FILES if listed is None else listed, MAX_FILE_LINES, "a file")


def check_function_lengths(tree: Tree, listed=None):
    found: dict[str, int] = {}
    for path in tree.with_suffix(CPP | {".py"}):
        scan = python_functions if path.endswith(".py") else cpp_functions
        for name, lines in scan(tree.text(path)):
            key = f"{path}:{name}"
            found[key] = max(found.get(key, 0), lines)
    listed = LONG_FUNCTIONS if listed is None else listed
    yield from ratchet(found, listed, MAX_FUNCTION_LINES, "a function")


RULES = (
    check_arrows,
    check_generated_code,
    check_public_headers,
    check_top_level,
    check_names,
    check_headers_once,
    check_columns,
    check_words,
    check_readmes,
    check_file_lengths,
    check_function_lengths,
)


class RepositoryTest(unittest.TestCase):
    """The rules, on this repository."""

    def test_every_rule(self):
        tree = Tree(ROOT)
        self.assertIn("CMakeLists.txt", tree.paths)
        for rule in RULES:
            with self.subTest(rule=rule.__name__):
                found = list(rule(tree))
                if found:
                    self.fail(f"{rule.__name__}: {len(found)} found\n" + "\n".join(found))


class RuleTest(unittest.TestCase):
    """Each rule, on small made-up trees: it must catch what it is there for, and nothing else."""

    def run_rule(self, rule, files: dict[str, str], *arguments) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            for path, text in files.items():
                target = Path(folder, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            return list(rule(Tree(Path(folder)), *arguments))

    def test_arrows(self):
        forbidden = [
            ("common/base/a.h", "common/rpc/b.h"),
            ("common/config/a.h", "common/metrics/b.h"),
            ("common/transport/tcp/a.cc", "common/routing/b.h"),
            ("proto/a.h", "common/base/b.h"),
            ("common/protocol/a.h", "common/rpc/b.h"),
            ("common/rpc/a.h", "common/protocol/b.h"),
            ("manager/a.h", "dataserver/b.h"),
            ("dataserver/a.h", "client/b.h"),
            ("client/a.h", "manager/b.h"),
            ("client/a.h", "client/cli/b.h"),
            ("client/cli/a.h", "common/rpc/b.h"),
            ("client/a.h", "tests/b.h"),
            ("common/base/a.h", "bench/b.h"),
            ("manager/a.cc", "proto/b.h"),
        ]
        for path, name in forbidden:
            self.assertEqual(
                len(self.run_rule(check_arrows, {path: f'#include "{name}"\n'})),
                1,
                f"{path} -> {name}",
            )
        allowed = [
            ("common/protocol/a.h", "common/routing/key_hash.h"),
            ("client/cli/a.h", "client/b.h"),
            ("common/rpc/a.h", "proto/b.pb.h"),
            ("tests/a.cc", "bench/b.h"),
            ("bench/a.cc", "manager/b.h"),
            ("dataserver/a.h", "common/transport/b.h"),
            ("manager/store/a.h", "manager/b.h"),
        ]
        for path, name in allowed:
            self.assertFalse(
                self.run_rule(check_arrows, {path: f'#include "{name}"\n'}), f"{path} -> {name}"
            )
        self.assertTrue(self.run_rule(check_arrows, {"attic/a.cc": ""}))

    def test_arrows_see_angle_brackets(self):
        files = {"common/base/a.h": "#include <common/rpc/b.h>\n", "common/rpc/b.h": ""}
        self.assertEqual(len(self.run_rule(check_arrows, files)), 1)

    def test_generated_code(self):
        for name in ("grpcpp/grpcpp.h", "proto/manager.pb.h", "google/protobuf/message.h"):
            for path in ("manager/a.cc", "client/a.h", "common/transport/a.h"):
                self.assertTrue(
                    self.run_rule(check_generated_code, {path: f"#include <{name}>\n"}), path
                )
            self.assertFalse(
                self.run_rule(check_generated_code, {"common/rpc/a.cc": f"#include <{name}>\n"})
            )
        absl = "#include <absl/container/flat_hash_map.h>\n"
        self.assertTrue(self.run_rule(check_generated_code, {"common/transport/tcp/a.cc": absl}))
        self.assertFalse(self.run_rule(check_generated_code, {"dataserver/a.cc": absl}))

    def test_public_headers(self):
        files = {
            "client/client.h": '#include "client/a.h"\n',
            "client/a.h": '#include "common/base/b.h"\n',
            "common/base/b.h": "#include <absl/strings/string_view.h>\n",
        }
        found = self.run_rule(check_public_headers, files)
        self.assertEqual(len(found), 1)
        self.assertIn("client/client.h -> client/a.h -> common/base/b.h", found[0])
        files["common/base/b.h"] = "#include <string>\n"
        self.assertFalse(self.run_rule(check_public_headers, files))

    def test_top_level(self):
        good = {name if "." in name else f"{name}/a.h": "" for name in TOP_LEVEL} | {".ci/run": ""}
        self.assertFalse(self.run_rule(check_top_level, good))
        self.assertEqual(len(self.run_rule(check_top_level, good | {"docs/a.md": ""})), 1)
        del good["README.md"]
        self.assertEqual(len(self.run_rule(check_top_level, good)), 1)

    def test_names(self):
        for path in (
            "common/base/string_util.h",
            "common/helpers/a.h",
            "manager/misc.cc",
            "client/router_impl.h",
        ):
            self.assertTrue(self.run_rule(check_names, {path: ""}), path)
        self.assertTrue(self.run_rule(check_names, {"client/a.h": "class RouterImpl {};\n"}))
        for text in ("class Impl;\n", "class Implement {};\n"):
            self.assertFalse(self.run_rule(check_names, {"client/simple.h": text}))

    def test_headers_once(self):
        self.assertTrue(self.run_rule(check_headers_once, {"client/a.h": "int a;\n"}))
        self.assertFalse(self.run_rule(check_headers_once, {"client/a.h": "#pragma once\n"}))

    def test_columns(self):
        self.assertFalse(self.run_rule(check_columns, {"client/a.cc": "x" * 100 + "\n"}))
        for path in ("client/a.cc", "client/CMakeLists.txt", "tests/run.sh", "proto/a.proto"):
            self.assertTrue(self.run_rule(check_columns, {path: "x" * 101 + "\n"}), path)

    def test_words(self):
        for word in (
            "TO" + "DO: later",
            "FIX" + "ME",
            "X" + "XX",
            "see /wo" + "rk/main",
            "/ro" + "ot/a",
        ):
            self.assertTrue(self.run_rule(check_words, {"deploy/a.md": f"# {word}\n"}), word)
        for word in ("mkdtemp simm-XXXXXX", "https://host/work/a", "${HOME}/home/a", "net/work/b"):
            self.assertFalse(self.run_rule(check_words, {"deploy/a.md": f"{word}\n"}), word)

    def test_readmes(self):
        self.assertEqual(
            len(self.run_rule(check_readmes, {"common/base/a.h": "", "tests/x/a.cc": ""})), 2
        )
        self.assertFalse(
            self.run_rule(check_readmes, {"common/base/a.h": "", "common/base/README.md": ""})
        )

    def test_file_lengths_are_a_ratchet(self):
        files = {"client/a.cc": "\n" * 510}
        self.assertTrue(self.run_rule(check_file_lengths, files, {}))
        self.assertFalse(self.run_rule(check_file_lengths, files, {"client/a.cc": 510}))
        self.assertTrue(self.run_rule(check_file_lengths, files, {"client/a.cc": 509}))
        self.assertIn("lower", self.run_rule(check_file_lengths, files, {"client/a.cc": 511})[0])
        self.assertIn(
            "remove",
            self.run_rule(check_file_lengths, {"client/a.cc": "\n"}, {"client/a.cc": 510})[0],
        )
        self.assertIn("remove", self.run_rule(check_file_lengths, {}, {"client/gone.cc": 510})[0])

    def test_function_lengths(self):
        body = "  int a = 0;  // }\n" * 69
        for head, name in (
            ("void F(int a) {", "F"),
            ("Client::Client(int a)\n    : a_{a}, b_(a) {", "Client"),
            ("TEST(Suite, Case) {", "TEST(Suite,Case){"),
            ("namespace simm {\nclass A {\n  int b() const {", "b"),
            ("template <typename T>\n  requires(true)\nauto G(T t) -> int {", "G"),
        ):
            found = self.run_rule(
                check_function_lengths, {"client/a.cc": f"{head}\n{body}}}\n"}, {}
            )
            self.assertEqual(len(found), 1, f"{head}: {found}")
        short = "void F() {\n" + "  a();\n" * 68 + "}\n"
        table = "constexpr int kTable[] = {\n" + "  1,\n" * 200 + "};\n"
        text = "namespace simm {\n" + table + short * 5 + "}\n"
        self.assertFalse(self.run_rule(check_function_lengths, {"client/a.cc": text}, {}))
        python = "def f():\n" + "    pass\n" * 70
        self.assertTrue(self.run_rule(check_function_lengths, {"bench/a.py": python}, {}))

    def test_functions_are_found(self):
        text = (
            "#define A(x) \\\n  { x }\nconst char* s = R\"({{{)\"; char c = '{';\n"
            "int F() { auto l = [] "
            "{ return 1; };\n  return l();\n}\nstruct S { int a = 1;\n  S() : a{1} {\n  }\n};\n"
        )
        self.assertEqual(
            [(n.split("::")[-1], c) for n, c in cpp_functions(text)], [("F", 3), ("S", 2)]
        )


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main()
