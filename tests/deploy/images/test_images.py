"""deploy/Dockerfile, really built, and its programs started from the images.

Lane `images` of tests/run.sh. The base is made by debootstrap; buildah builds without an engine and
without namespaces (chroot isolation), so this runs in a container as root too.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/deploy"))

import debian_root  # noqa: E402
import live  # noqa: E402
from debian_root import run  # noqa: E402

IMAGES = ["manager", "dataserver", "tools"]
BASE = "localhost/simm-test-base"


@pytest.fixture(scope="session")
def work() -> Path:
    """Images and base, kept for the next run: SIMM_IMAGES_DIR."""
    path = Path(os.environ.get("SIMM_IMAGES_DIR", ROOT / "build-images")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def buildah(work):
    for program in ("buildah", "debootstrap"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: deploy/install_packages.sh --images")
    storage = ["--storage-driver", "vfs", "--root", work / "storage", "--runroot", work / "run"]
    # A signature policy and a registry are of no use to images that are made here.
    policy = work / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}

    def call(command, *arguments, **more):
        options = ["--signature-policy", policy] if command in ("build", "from", "commit") else []
        return run("buildah", *storage, command, *options, *arguments, env=environment, **more)

    return call


@pytest.fixture(scope="session")
def base(buildah, work):
    if BASE not in buildah("images", "--format", "{{.Name}}"):
        root = work / "base"
        debian_root.make(root)
        container = buildah("from", "scratch").strip()
        buildah("add", container, root, "/")
        buildah("commit", "--rm", container, BASE)
    return BASE


@pytest.fixture(scope="session")
def images(buildah, base, work):
    """What git knows of the tree, and nothing else, is built."""
    context = work / "context"
    shutil.rmtree(context, ignore_errors=True)
    listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    for name in (n for n in listed if (ROOT / n).is_file() and not (ROOT / n).is_symlink()):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, context / name)
    ccache = Path(os.environ.get("SIMM_IMAGES_CCACHE", work / "ccache"))
    ccache.mkdir(parents=True, exist_ok=True)
    for target in IMAGES:
        buildah(
            "build", "--layers", "--build-arg", f"BASE={base}", "--target", target,
            "--volume", f"{ccache}:/ccache", "--pull-never",
            "--ignorefile", context / "deploy/Dockerfile.dockerignore",
            "-f", context / "deploy/Dockerfile", "-t", f"simm-{target}", context,
        )  # fmt: skip
    return {target: f"localhost/simm-{target}" for target in IMAGES}


@pytest.fixture(scope="session")
def roots(buildah, images):
    """target -> (container, its file system)"""
    containers = {t: buildah("from", "--pull-never", image).strip() for t, image in images.items()}
    yield {t: (c, Path(buildah("mount", c).strip())) for t, c in containers.items()}
    for container in containers.values():
        buildah("rm", container)


def config_of(buildah, image):
    inspected = json.loads(buildah("inspect", "--type", "image", image))
    return inspected["OCIv1"]["config"]


def test_images_are_not_root_and_say_what_they_start(buildah, images):
    for target, image in images.items():
        config = config_of(buildah, image)
        assert config["User"] == "10001:10001"
        if target != "tools":
            assert config["Entrypoint"] == [f"/usr/bin/simm-{target}"]
    exposed = config_of(buildah, images["manager"])["ExposedPorts"]
    assert {port.removesuffix("/tcp") for port in exposed} == {"30001", "30080"}


def test_images_are_small(roots, work):
    def size(path):
        return int(run("du", "-sxm", path).split()[0])

    base = size(work / "base")
    for target, (_, root) in roots.items():
        assert size(root) - base < 80, f"{target} adds {size(root) - base} MiB to the base"
        present = {p.name for p in (root / "usr/bin").iterdir()}
        assert not present & {"g++", "cmake", "ninja", "ccache", "git", "protoc"}


def chroot(root: Path, *command):
    """As the image's user, with the host's /dev and /proc not mounted: only files of the image."""
    return ["chroot", "--userspec=10001:10001", "--groups=10001", root, *command]


def test_programs_start_from_the_images_and_a_value_goes_round(roots, tmp_path):
    ports = live.free_ports(5)
    manager = f"127.0.0.1:{ports[0]}"
    (_, manager_root), (_, server_root), (_, tools_root) = (roots[t] for t in IMAGES)
    with live.Processes(tmp_path) as processes:
        processes.start(
            "manager", *chroot(manager_root, "/usr/bin/simm-manager", "--listen", manager,
                               "--http", f"127.0.0.1:{ports[1]}", "--state", "/var/lib/simm",
                               "--new-cluster"),
        )  # fmt: skip
        processes.start(
            "server", *chroot(server_root, "/usr/bin/simm-dataserver", "--manager", manager,
                              "--memory", "32MiB", "--name", "one", "--advertise", "127.0.0.1",
                              "--listen", f"127.0.0.1:{ports[2]}",
                              "--data-listen", f"127.0.0.1:{ports[3]}",
                              "--http", f"127.0.0.1:{ports[4]}"),
        )  # fmt: skip
        try:
            live.wait_for("the server is ready", lambda: live.fetch(
                f"127.0.0.1:{ports[4]}", "/readyz"))  # fmt: skip
        except AssertionError:
            pytest.fail(processes.log("manager") + processes.log("server"))

        def ctl(*arguments, **more):
            return run(*chroot(tools_root, "/usr/bin/simmctl", "--manager", manager, *arguments),
                       timeout=60, **more)  # fmt: skip

        ctl("put", "greeting", "-", input="hello from an image")
        assert ctl("get", "greeting") == "hello from an image"
        assert "one" in ctl("nodes")
        done = run(
            *chroot(tools_root, "/usr/bin/simm-bench", "--manager", manager, "--seconds", "0.2",
                    "--value-size", "64KiB", "--verify", "--json", "get"),
            timeout=60,
        )  # fmt: skip
        assert json.loads(done.splitlines()[-1])
        # Not root, as Kubernetes would start it.
        status = (processes.proc("server") / "status").read_text()
        assert "Uid:\t10001\t10001" in status


def test_buildah_runs_the_entrypoints(buildah, roots):
    for target in ("manager", "dataserver"):
        container, _ = roots[target]
        said = buildah("run", container, "--", f"/usr/bin/simm-{target}", "--print-config")
        assert "listen: 0.0.0.0" in said
