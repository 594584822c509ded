"""A minimal Debian 12 in a folder, made by debootstrap; its packages come as this machine's do."""

import shutil
import subprocess
from pathlib import Path


def run(*command, **more) -> str:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, **more
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def debian_mirror() -> str:
    """The one that this machine uses."""
    found = run("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)")
    mirrors = [line.split()[1] for line in found.splitlines() if line.startswith("bookworm ")]
    assert mirrors, "this machine's apt knows no Debian 12 (bookworm)"
    return mirrors[0]


def make(root: Path):
    """Makes it, or keeps the one that is complete."""
    if (root / "complete").exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "bookworm", root, debian_mirror())
    # As this machine gets its packages, so does the root.
    for name in ("sources.list.d/debian.sources", "sources.list", "apt.conf.d", "auth.conf.d"):
        source, target = Path("/etc/apt") / name, root / "etc/apt" / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, target)
    if Path("/etc/apt/sources.list.d/debian.sources").exists():
        (root / "etc/apt/sources.list").write_text("")
    (root / "complete").touch()
