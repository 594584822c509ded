"""The Debian packages that cpack makes: installed by apt in a root of debootstrap, and started.

Lane `package` of tests/run.sh, which sets SIMM_BIN_DIR. Needs root, debootstrap and the mirror.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/deploy"))

import debian_root  # noqa: E402
import live  # noqa: E402
from debian_root import run  # noqa: E402

PACKAGES = {
    "simm-common", "simm-manager", "simm-dataserver", "simm-tools", "libsimm0.1", "libsimm-dev",
}  # fmt: skip
CONFFILES = {
    "simm-manager": {"/etc/simm/manager.yaml", "/etc/simm/manager.env"},
    "simm-dataserver": {"/etc/simm/dataserver.yaml", "/etc/simm/dataserver.env"},
}


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> dict[str, Path]:
    """name -> the file that cpack has made."""
    build = Path(os.environ.get("SIMM_BIN_DIR", ROOT / "build/bin")).resolve().parent
    folder = tmp_path_factory.mktemp("packages")
    run("cpack", "-G", "DEB", "-B", folder, cwd=build)
    return {path.name.split("_")[0]: path for path in folder.glob("*.deb")}


@pytest.fixture(scope="session")
def base() -> Path:
    """Kept for the next run: SIMM_PACKAGE_DIR."""
    if os.geteuid() != 0:
        pytest.fail("packages are installed in a root of their own: run this as root")
    if shutil.which("debootstrap") is None:
        pytest.fail("debootstrap is missing: deploy/install_packages.sh --package")
    folder = Path(os.environ.get("SIMM_PACKAGE_DIR", ROOT / "build-package")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    debian_root.make(folder / "base")
    return folder / "base"


def in_root(root: Path, *command, **more) -> str:
    environment = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    inside = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    return run("unshare", "--mount", "sh", "-c", inside, root, *command, env=environment, **more)


def apt(root: Path, *arguments) -> str:
    return in_root(root, "apt-get", "-qq", "-y", "--no-install-recommends", *arguments)


@pytest.fixture(scope="session")
def installed(base, packages, tmp_path_factory) -> Path:
    """A fresh root in which apt has installed all of them, with what they depend on."""
    root = base.parent / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("cp", "-a", base, root)
    for path in packages.values():
        shutil.copy(path, root / "tmp")
    apt(root, "update")
    apt(root, "install", *(f"/tmp/{path.name}" for path in packages.values()))
    return root


def field(package: Path, name: str) -> str:
    return run("dpkg-deb", "--field", package, name).strip()


def test_packages_say_what_they_are(packages):
    assert set(packages) == PACKAGES
    for name, path in packages.items():
        assert field(path, "Version") == "0.1.0"
        assert len(field(path, "Description").splitlines()) >= 2, name
        files = run("dpkg-deb", "--contents", path)
        assert all("root/root" in line for line in files.splitlines())
        # Nobody but root changes a file, and none runs as another user.
        assert not re.search(r"^-(......ws|.....w|........w|..s|.....s)", files, re.M), files


def test_what_the_programs_link_is_in_the_depends(packages):
    for name in ("simm-manager", "simm-dataserver", "simm-tools", "libsimm0.1"):
        depends = field(packages[name], "Depends")
        assert re.search(r"libgrpc\+\+1\.51 ", depends), depends
        assert "libc6 (>= 2." in depends
    assert "libibverbs1" in field(packages["simm-dataserver"], "Depends")
    assert "simm-common (>= 0.1.0)" in field(packages["simm-dataserver"], "Depends")
    assert field(packages["libsimm-dev"], "Depends") == "libsimm0.1 (= 0.1.0)"
    shlibs = run("dpkg-deb", "--info", packages["libsimm0.1"], "shlibs")
    assert shlibs == "libsimm 0.1 libsimm0.1 (>= 0.1.0)\n"
    assert "ldconfig" in run("dpkg-deb", "--info", packages["libsimm0.1"], "triggers")
    for name, wanted in CONFFILES.items():
        control = run("dpkg-deb", "--info", packages[name], "conffiles")
        assert set(control.split()) == wanted


# What Debian would not take and this project leaves: tag -> why.
ACCEPTED = {
    "bogus-mail-host": "the project has no address yet",
    "bogus-mail-host-in-debian-changelog": "the same",
    "maintainer-script-calls-systemctl": "there is no debhelper here; the scripts stop, no more",
    "maintscript-calls-ldconfig": "CPack adds it to what the trigger does",
}


def test_lintian_finds_no_more_than_is_accepted(packages):
    if shutil.which("lintian") is None:
        pytest.fail("lintian is missing: deploy/install_packages.sh --package")
    run_lintian = ["lintian", "--fail-on", "none", "--allow-root", *packages.values()]
    found = re.findall(r"^[EW]: (\S+): (\S+)", run(*run_lintian), re.M)
    assert found, "lintian has not looked"
    assert {tag for _, tag in found} <= ACCEPTED.keys(), found


MANUALS = {
    "simm-manager": "usr/share/man/man8/simm-manager.8.gz",
    "simm-dataserver": "usr/share/man/man8/simm-dataserver.8.gz",
    "simmctl": "usr/share/man/man1/simmctl.1.gz",
    "simm-bench": "usr/share/man/man1/simm-bench.1.gz",
    "simm-size": "usr/share/man/man1/simm-size.1.gz",
}


@pytest.mark.parametrize("program", MANUALS)
def test_each_program_has_a_manual_page_that_says_what_its_help_says(installed, program):
    page = subprocess.run(
        ["man", "--warnings", "--local-file", installed / MANUALS[program]],
        env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert page.stderr == ""
    said = " ".join(re.sub(".\b", "", page.stdout).replace("\u2010", "-").split())
    assert f"{program} - " in said
    # The root has no python3, which is recommended only.
    size = program == "simm-size"
    helped = run(installed / "usr/bin/simm-size", "--help") if size else (
        in_root(installed, program, "--help")
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", helped))
    assert len(options) >= 5, helped
    assert {option for option in options if option not in said} == set()
    if program == "simmctl":
        assert "Gives its shards to others until undrain" in said, "commands of commands too"


def test_each_package_has_its_changelog_and_copyright(packages):
    for name, path in packages.items():
        files = run("dpkg-deb", "--contents", path)
        for file in ("changelog.gz", "copyright"):
            assert f"./usr/share/doc/{name}/{file}\n" in files, name
        changelog = subprocess.run(
            f"dpkg-deb --fsys-tarfile {path} | tar -xO ./usr/share/doc/{name}/changelog.gz"
            " | gunzip", shell=True, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert changelog.startswith(f"simm ({field(path, 'Version')}) "), changelog


def test_the_user_is_made_and_nothing_is_started(installed):
    assert "libsimm.so.0.1 " in in_root(installed, "ldconfig", "-p")
    passwd = (installed / "etc/passwd").read_text()
    assert re.search(r"^simm:x:\d+:\d+:SiMM cache:/var/lib/simm:", passwd, re.M)
    enabled = (installed / "etc/systemd/system").rglob("simm*")
    assert not list(enabled)
    assert (installed / "dev/shm/simm").is_dir()
    verified = in_root(
        installed, "systemd-analyze", "verify", "simm-manager.service", "simm-dataserver.service",
        "dev-shm-simm.mount",
    )  # fmt: skip
    assert "simm" not in verified


def unit_command(root: Path, name: str) -> list[str]:
    unit = (root / f"usr/lib/systemd/system/{name}.service").read_text()
    return re.search(r"^ExecStart=(.*)$", unit, re.M)[1].split()


def test_what_is_installed_starts_as_its_user(installed, tmp_path):
    """The unit's command, as its user, with the shipped configuration; ports by the environment."""
    ports = live.free_ports(5)
    manager = f"127.0.0.1:{ports[0]}"
    state = installed / "var/lib/simm"
    state.mkdir(exist_ok=True)
    in_root(installed, "chown", "simm:simm", "/var/lib/simm")
    as_simm = [shutil.which("chroot"), "--userspec=simm:simm", installed]
    with live.Processes(tmp_path) as processes:
        processes.start(
            "manager", *as_simm, *unit_command(installed, "simm-manager"),
            env={"SIMM_LISTEN": manager, "SIMM_HTTP": f"127.0.0.1:{ports[1]}",
                 "SIMM_NEW_CLUSTER": "true"},
        )  # fmt: skip
        processes.start(
            "server", *as_simm, *unit_command(installed, "simm-dataserver"),
            env={"SIMM_MANAGER": manager, "SIMM_NAME": "one", "SIMM_MEMORY": "32MiB",
                 "SIMM_ADVERTISE": "127.0.0.1", "SIMM_LISTEN": f"127.0.0.1:{ports[2]}",
                 "SIMM_DATA_LISTEN": f"127.0.0.1:{ports[3]}",
                 "SIMM_HTTP": f"127.0.0.1:{ports[4]}"},
        )  # fmt: skip
        try:
            live.wait_for(
                "the server is ready", lambda: live.fetch(f"127.0.0.1:{ports[4]}", "/readyz")
            )
        except AssertionError:
            pytest.fail(processes.log("manager") + processes.log("server"))
        user = (state / "manager").stat().st_uid
        assert f"Uid:\t{user}\t" in (processes.proc("server") / "status").read_text() and user != 0

        def ctl(*arguments, **more):
            return run("chroot", installed, "simmctl", "--manager", manager, *arguments, **more)

        assert "one" in ctl("nodes")
        assert ctl("status")
        ctl("put", "greeting", "-", input="hello from a package")
        assert ctl("get", "greeting") == "hello from a package"


def test_the_size_calculator_is_there(installed):
    said = run(
        installed / "usr/bin/simm-size", "--model", "llama-3-70b", "--tp", "8", "--memory", "2TiB"
    )
    assert "tokens" in said


def test_edited_configuration_outlives_upgrade_and_removal(installed, packages):
    """dpkg keeps what the operator has written; the manager's state stays even when purged."""
    config = installed / "etc/simm/dataserver.yaml"
    config.write_text(config.read_text() + "# edited here\n")
    (installed / "var/lib/simm/manager").mkdir(parents=True, exist_ok=True)
    apt(installed, "install", "--reinstall", "-o", "Dpkg::Options::=--force-confold",
        f"/tmp/{packages['simm-dataserver'].name}")  # fmt: skip
    assert config.read_text().endswith("# edited here\n")
    apt(installed, "remove", "simm-dataserver", "simm-manager")
    assert config.read_text().endswith("# edited here\n")
    assert not (installed / "usr/bin/simm-dataserver").exists()
    apt(installed, "purge", "simm-dataserver", "simm-manager", "simm-common")
    assert not config.exists()
    assert (installed / "var/lib/simm/manager").is_dir()
