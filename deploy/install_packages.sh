#!/usr/bin/env bash
# Installs the Debian 12 packages that are named below and missing; with --clang also those of the
# clang lanes, with --rdma those of the virtual machine in which RDMA is tested, with --python those
# of the Python package and its tests, with --etcd that of the tests with several managers, with
# --deploy those of the tests of deploy/, with --images those that build the container images in a
# test, with --package those that make the Debian packages and install them in a test, with
# --survive those of the tests with hosts of network namespaces, with --browser the status page's.
set -euo pipefail

usage="Usage: $0 [--clang] [--rdma] [--python] [--etcd] [--deploy] [--images] [--package]
  [--survive] [--browser]"
packages=(
  g++ cmake ninja-build pkg-config ccache mold git python3
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  libyaml-cpp-dev nlohmann-json3-dev prometheus-cpp-dev libxxhash-dev libspdlog-dev
  libcli11-dev libcpp-httplib-dev libgtest-dev libgmock-dev
  libibverbs-dev
)
for flag in "$@"; do
  case "$flag" in
    --python) packages+=(python3-dev python3-venv python3-numpy python3-torch) ;;
    --etcd) packages+=(etcd-server) ;;
    --clang) packages+=(clang libclang-rt-14-dev) ;;
    --deploy) packages+=(prometheus python3-venv systemd) ;;
    --browser) packages+=(chromium fonts-dejavu-core python3-venv) ;;
    --images) packages+=(buildah debootstrap python3-venv) ;;
    --package) packages+=(debootstrap dpkg-dev file help2man lintian man-db python3-venv) ;;
    --survive)
      packages+=(iproute2 nftables util-linux mount librsvg2-bin fonts-dejavu-core python3-venv)
      ;;
    --rdma)
      packages+=(ibverbs-providers qemu-system-x86 busybox-static kmod cpio xz-utils iproute2
        binutils perftest)
      ;;
    *)
      echo "$usage" >&2
      exit 2
      ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  echo "No dpkg here: this is untested. Install what these Debian packages hold: ${packages[*]}"
  exit 0
fi
missing=()
for package in "${packages[@]}"; do
  if [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != "installed" ]]; then
    missing+=("$package")
  fi
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "These packages are missing, and there is neither root nor sudo to install them:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
if ! grep -qs 'VERSION_ID="12"' /etc/os-release || ! grep -qs '^ID=debian' /etc/os-release; then
  echo "This is not Debian 12: untested; going on."
fi
echo "Installing ${#missing[@]} missing packages: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
