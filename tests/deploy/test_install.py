"""`cmake --install` and find_package(simm): a project outside the tree, as a user's would be."""

import os
import shutil
import subprocess

import pytest

import live
from chart import ROOT

CONSUMER = ROOT / "tests/deploy/consumer"


def run(*command, **more):
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, timeout=300, **more
    )
    return done.returncode, done.stdout + done.stderr


def succeed(*command, **more):
    code, said = run(*command, **more)
    assert code == 0, said[-4000:]
    return said


@pytest.fixture(scope="module")
def prefix(bin_dir, tmp_path_factory):
    """The development files and the library, where no package would put them."""
    folder = tmp_path_factory.mktemp("prefix")
    for component in ("library", "development"):
        succeed(
            "cmake", "--install", bin_dir.parent, "--prefix", folder, "--component", component
        )  # fmt: skip
    return folder


@pytest.fixture
def project(tmp_path, prefix):
    """configure(wanted version, source files beside main.cc): configures a copy of the consumer."""
    source = tmp_path / "consumer"
    shutil.copytree(CONSUMER, source)

    def configure(wanted: str = "", alone: dict[str, str] | None = None):
        lists = source / "CMakeLists.txt"
        lists.write_text(lists.read_text().replace("@WANTED@", wanted))
        for name, text in (alone or {}).items():
            (source / name).write_text(text)
        return run(
            "cmake", "-G", "Ninja", "-S", source, "-B", tmp_path / "build",
            f"-DCMAKE_PREFIX_PATH={prefix}", f"-DHEADERS_ALONE={';'.join(alone or {})}",
        )  # fmt: skip

    return configure


def installed_headers(prefix):
    include = prefix / "include/simm"
    return sorted(str(path.relative_to(include)) for path in include.rglob("*.h"))


def test_a_project_outside_the_tree_builds_and_runs(project, prefix, tmp_path, cluster):
    # Each header that is installed is also compiled alone, as the first line of a file.
    headers = installed_headers(prefix)
    assert "client/client.h" in headers and "client/admin.h" in headers
    alone = {h.replace("/", "_") + ".cc": f'#include "{h}"\n' for h in headers}
    code, said = project("0.1", alone)
    assert code == 0, said
    succeed("cmake", "--build", tmp_path / "build", "-j", "2")
    said = succeed(tmp_path / "build/consumer", cluster.manager)
    assert said == "OK OK from outside the tree\n"


def test_another_version_is_refused(project):
    code, said = project("0.2")
    assert code != 0 and "0.1.0" in said and '"simm"' in said, said


def test_only_what_is_promised_is_installed(prefix):
    files = {str(p.relative_to(prefix)) for p in prefix.rglob("*") if not p.is_dir()}
    wanted = ("include/simm/", "lib/", "share/doc/libsimm")
    outside = {f for f in files if not f.startswith(wanted)}
    assert not outside
    for path in (prefix / "include").rglob("*.h"):
        text = path.read_text()
        assert "grpc" not in "\n".join(x for x in text.splitlines() if "#include" in x), path


def test_the_library_shows_its_own_names_only(prefix):
    """What it holds of other projects must not come between a program and its own copy of them."""
    library = next(prefix.rglob("libsimm.so.0.1"))
    said = succeed("nm", "-D", "--defined-only", "--demangle", library)
    names = [line.split(maxsplit=2)[2] for line in said.splitlines()]
    foreign = [n for n in names if "simm::" not in n]
    assert "simm::Client::Connect(simm::ClientOptions const&)" in names
    assert not foreign, foreign[:10]


def test_the_programs_install(bin_dir, tmp_path):
    for component in ("manager", "dataserver", "tools"):
        succeed(
            "cmake", "--install", bin_dir.parent, "--prefix", "/usr", "--component", component,
            env={**os.environ, "DESTDIR": str(tmp_path)},
        )  # fmt: skip
    with live.Cluster(tmp_path / "usr/bin", tmp_path, servers=1) as installed:
        installed.ctl("put", "greeting", "-", stdin="hello")
        assert installed.ctl("get", "greeting") == "hello"
