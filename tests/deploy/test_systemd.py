"""deploy/systemd: what systemd itself says of the units, and the programs of the options."""

import re
import shutil
import subprocess

import pytest

from chart import ROOT

SYSTEMD = ROOT / "deploy/systemd"
SERVICES = ["simm-manager", "simm-dataserver"]


def run(*command, **more):
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, timeout=60, **more
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def units(bin_dir, tmp_path):
    """The units with the built programs instead of installed ones."""
    for path in [*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.mount")]:
        text = path.read_text().replace("/usr/bin/simm", f"{bin_dir}/simm")
        (tmp_path / path.name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_to_complain_about(units):
    code, said = run("systemd-analyze", "verify", *sorted(units.iterdir()))
    # Other units of this machine may be at fault: only ours count.
    ours = [line for line in said.splitlines() if "simm" in line]
    assert code == 0 and not ours, said


def test_an_unknown_setting_is_found(units):
    path = units / "simm-manager.service"
    path.write_text(path.read_text().replace("[Service]", "[Service]\nProtectKernel=yes"))
    _, said = run("systemd-analyze", "verify", path)
    assert "ProtectKernel" in said


@pytest.mark.parametrize("name, most", [("simm-manager", 15), ("simm-dataserver", 20)])
def test_services_are_hardened(units, name, most):
    """Exposure on systemd's scale, 100 being none."""
    code, said = run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager",
        units / f"{name}.service",
    )  # fmt: skip
    assert code == 0, said[-500:]


@pytest.mark.parametrize("name", SERVICES)
def test_programs_take_the_unit_files_and_environment(name, bin_dir, tmp_path):
    part = name.removeprefix("simm-")
    unit = (SYSTEMD / f"{name}.service").read_text()
    command = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].split()
    assert command == [f"/usr/bin/{name}", "--config", f"/etc/simm/{part}.yaml"]
    assert f"EnvironmentFile=-/etc/simm/{part}.env" in unit
    environment = {}
    for line in (SYSTEMD / f"{part}.env").read_text().splitlines():
        if match := re.fullmatch(r"#?(SIMM_[A-Z_]+)=(.*)", line):
            environment[match[1]] = match[2]
    assert environment
    config = tmp_path / f"{part}.yaml"
    shutil.copy(ROOT / f"deploy/config/{part}.yaml", config)
    code, said = run(bin_dir / name, "--config", config, "--print-config", env=environment)
    assert code == 0, said
    for key, value in environment.items():
        option = key.removeprefix("SIMM_").lower().replace("_", "-")
        assert re.search(rf"^{option}: {re.escape(value)} +# env {key}$", said, re.M), said


def test_users_and_folders_are_made(tmp_path):
    (tmp_path / "etc").mkdir()
    code, said = run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "simm.sysusers")
    assert code == 0, said
    user = re.search(r"^simm:x:(\d+):", (tmp_path / "etc/passwd").read_text(), re.M)
    # An ordinary user's files in /dev/shm go when it logs out.
    assert user and int(user[1]) < 1000
    tmpfiles = SYSTEMD / "simm.tmpfiles"
    code, said = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", tmpfiles)
    assert code == 0, said
    assert (tmp_path / "dev/shm/simm").stat().st_uid == int(user[1])
