#!/usr/bin/env python3
"""Writes the manual pages of the installed programs, made by help2man of what their --help says.

Usage: man_pages.py BIN_DIR VERSION OUT_DIR

OUT_DIR gets PROGRAM.SECTION.gz. simmctl's page has a section for each of its commands.
"""

import gzip
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# program -> (section of the manual, what it is in a line)
PAGES = {
    "simm-manager": (8, "decides who is in a SiMM cluster and who holds which keys"),
    "simm-dataserver": (8, "lends memory to a SiMM cluster and serves it to clients"),
    "simmctl": (1, "looks into a SiMM cluster, mends it, and moves single values"),
    "simm-bench": (1, "measures a SiMM cluster"),
    "simm-size": (1, "how much memory and how many data servers a KV cache needs"),
}
SIZE = Path(__file__).resolve().parents[1] / "size.py"


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    return done.stdout


def commands(help_text: str) -> list[str]:
    """The commands that the help of a program names, the first name of each."""
    _, _, listed = help_text.partition("\nSubcommands:\n")
    return re.findall(r"^  ([a-z-]+)", listed.partition("\n\n")[0], re.M)


def literally(text: str) -> str:
    """As text of a page, line for line."""
    lines = text.strip("\n").replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in lines)


def commands_in_full(program: Path) -> str:
    """A section for help2man: the help of each command of simmctl, nested ones too."""
    out = ["[COMMANDS]"]
    for command in commands(run(program, "--help")):
        for nested in ("", *commands(run(program, command, "--help"))):
            words = [command, *nested.split()]
            help_text = run(program, *words, "--help").partition("\nExamples:")[0]
            help_text = help_text.replace(str(program), program.name)
            out += [f".SS {program.name} {' '.join(words)}", ".nf", literally(help_text), ".fi"]
    return "\n".join(out) + "\n"


def page(program: Path, section: int, about: str, version: str, folder: Path) -> bytes:
    command = [
        "help2man", "--no-info", f"--section={section}", f"--name={about}", "--manual=SiMM",
        f"--version-string={version}", f"--source=SiMM {version}",
    ]  # fmt: skip
    if program.name == "simmctl":
        include = folder / "commands.h2m"
        include.write_text(commands_in_full(program))
        command.append(f"--include={include}")
    return run(*command, program).encode()


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    bin_dir, version, out = Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(SIZE, Path(scratch) / "simm-size")
        for name, (section, about) in PAGES.items():
            program = Path(scratch) / name if name == "simm-size" else bin_dir / name
            if not program.exists():  # simm-bench is not always built
                continue
            text = page(program, section, about, version, Path(scratch))
            (out / f"{name}.{section}.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
