#!/usr/bin/env bash
# Runs a command in a small virtual machine that has an RDMA device made of software (Soft-RoCE).
#
# Neither InfiniBand modules nor KVM are asked of the host: qemu emulates a processor, on which
# Debian's own kernel boots in some seconds. The guest sees the host's files read-only under a layer
# of memory, so a program that was built here runs there as it is: same paths, same directory, same
# environment. What it writes is lost. It has no network but the two ends of its own RDMA link.
#
# In the guest, as root: device rxe0 (192.168.77.1, interface rdma0) and rxe1 (192.168.77.2, rdma1).
set -euo pipefail

usage() {
  cat <<TEXT
Usage: tests/rdma/vm.sh [--timeout SECONDS] [--memory SIZE] [--cpus N] [--kernel-log] COMMAND...
       tests/rdma/vm.sh --prepare     fetches and unpacks the kernel, no more

Ends with the exit code of COMMAND; 124 when it ran out of time (default 300 s); 125 when there is
no machine to run it in. Packages: deploy/install_packages.sh --rdma.
The kernel is kept in \${XDG_CACHE_HOME:-~/.cache}/simm-rdma-vm (45 MB; SIMM_VM_CACHE elsewhere).
TEXT
}

cache="${SIMM_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/simm-rdma-vm}"
seconds=300 memory=3G kernel_log=no prepare_only=no
processors="$(nproc)"
if ((processors > 4)); then processors=4; fi
export PATH="$PATH:/usr/sbin:/sbin"

no_machine() {
  echo "vm.sh: NO VIRTUAL MACHINE: $*" >&2
  exit 125
}

while (($# > 0)); do
  case "$1" in
    --timeout) seconds="$2" && shift 2 ;;
    --memory) memory="$2" && shift 2 ;;
    --cpus) processors="$2" && shift 2 ;;
    --kernel-log) kernel_log=yes && shift ;;
    --prepare) prepare_only=yes && shift ;;
    --help | -h) usage && exit 0 ;;
    -*) usage >&2 && exit 125 ;;
    *) break ;;
  esac
done
if (($# == 0)) && [[ "$prepare_only" == no ]]; then
  usage >&2
  exit 125
fi

# ---- preparing: kernel and first file system, once per version of this script ----

# Soft-RoCE asks the kernel's crypto API for crc32, which its module does not name as a need.
wanted_modules=(virtio_pci 9p 9pnet_virtio overlay veth crc32_generic crc32-pclmul rdma_rxe
  ib_uverbs)

# The guest's first program. Busybox is all there is until the host's files are mounted.
write_init() {
  cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
give_up() { echo "vm.sh: $*" >/dev/console; poweroff -f; }
mount -t devtmpfs none /dev || give_up "no /dev"
for module in /modules/*.ko; do insmod "$module" || echo "vm.sh: not loaded: $module"; done

share=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "$share,ro,cache=loose" host /host || give_up "no files of the host"
mount -t tmpfs -o size=60% none /layer
mkdir /layer/new /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/new,workdir=/layer/work none /guest ||
  give_up "no overlay"
for kind in proc sysfs devtmpfs; do
  place=${kind%fs}
  [ "$kind" = devtmpfs ] && place=dev
  mount -t "$kind" none "/guest/$place"
done
mkdir -p /guest/dev/shm /guest/dev/pts
mount -t tmpfs none /guest/dev/shm
mount -t devpts none /guest/dev/pts
mount -t tmpfs none /guest/run
ln -s /proc/self/fd /guest/dev/fd
mkdir /guest/run/order
mount -t 9p -o "$share,cache=none" order /guest/run/order || give_up "no order"

# Both ends of the link lie in one network namespace (Soft-RoCE knows no other), so each must take
# packets that come from an address of its own machine.
chroot /guest /bin/sh -e <<'LINK' || echo "vm.sh: no RDMA link"
PATH=/usr/sbin:/usr/bin:/sbin:/bin
ip link set dev lo up
ip link add name rdma0 mtu 4200 type veth peer name rdma1 mtu 4200
for end in 0 1; do
  ip address add "192.168.77.$((end + 1))/24" dev "rdma$end"
  echo 1 >"/proc/sys/net/ipv4/conf/rdma$end/accept_local"
  echo 0 >"/proc/sys/net/ipv4/conf/rdma$end/rp_filter"
done
ip link set dev rdma0 up
ip link set dev rdma1 up
rdma link add rxe0 type rxe netdev rdma0
rdma link add rxe1 type rxe netdev rdma1
LINK

ulimit -l unlimited
chroot /guest /bin/bash /run/order/command </dev/null >/guest/run/order/stdout \
  2>/guest/run/order/stderr
code=$?
dmesg >/guest/run/order/kernel_log
echo "$code" >/guest/run/order/exit_code
sync
poweroff -f
INIT
}

check_tools() {
  local tool
  for tool in qemu-system-x86_64 dpkg-deb modprobe depmod cpio xz strip ip rdma; do
    if ! command -v "$tool" >/dev/null; then
      no_machine "$tool is missing: deploy/install_packages.sh --rdma"
    fi
  done
  if [[ ! -x /bin/busybox ]] || ldd /bin/busybox >/dev/null 2>&1; then
    no_machine "busybox-static is missing: deploy/install_packages.sh --rdma"
  fi
}

fetch_kernel() {
  local folder="$1" package
  package="$(apt-cache depends linux-image-amd64 2>/dev/null |
    awk '/Depends: linux-image-[0-9]/ {print $2; exit}')"
  if [[ -z "$package" ]]; then no_machine "apt knows no linux-image-amd64; apt-get update?"; fi
  echo "vm.sh: fetching $package, once (70 MB)" >&2
  (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) ||
    no_machine "$package cannot be downloaded; apt-get update?"
  dpkg-deb --fsys-tarfile "$folder/$package"_*.deb | tar -x -C "$folder" ./boot ./lib/modules
}

# Emulated, the kernel takes seconds to unpack itself; qemu starts an unpacked one as well. The boot
# protocol says where it lies: sectors of setup code at 0x1f1 (one more is not counted), offset and
# length of the packed part at 0x248 and 0x24c; its last 4 bytes are no part of the xz stream.
unpack_kernel() {
  local image="$1" setup offset length
  setup="$(od -An -tu1 -j 497 -N 1 "$image")"
  read -r offset length < <(od -An -tu4 -j 584 -N 8 "$image")
  dd if="$image" bs=64K iflag=skip_bytes,count_bytes skip="$(((setup + 1) * 512 + offset))" \
    count="$((length - 4))" status=none | xz -dc
}

collect_modules() {
  local folder="$1" release="$2" target="$3" file order=100
  depmod -b "$folder" "$release"
  modprobe -d "$folder" -S "$release" --show-depends --all "${wanted_modules[@]}" |
    awk '$1 == "insmod" && !($2 in seen) {seen[$2]; print $2}' |
    while read -r file; do
      order="$((order + 1))"
      strip --strip-debug -o "$target/$order-${file##*/}" "$file"
    done
}

prepare() {
  local folder release
  mkdir -p "$cache"
  folder="$(mktemp -d "$cache/new.XXXXXX")"
  # shellcheck disable=SC2064
  trap "rm -rf '$folder'" EXIT
  fetch_kernel "$folder"
  release="$(basename "$folder"/lib/modules/*)"
  unpack_kernel "$folder/boot/vmlinuz-$release" >"$folder/kernel" ||
    no_machine "the kernel $release is not packed with xz"
  mkdir -p "$folder"/first/{bin,dev,guest,host,layer,modules,proc,sys}
  cp /bin/busybox "$folder/first/bin/"
  write_init >"$folder/first/init"
  chmod +x "$folder/first/init"
  collect_modules "$folder" "$release" "$folder/first/modules"
  (cd "$folder/first" && find . | cpio --quiet -o -H newc) >"$folder/first.cpio"
  mv "$folder/kernel" "$folder/first.cpio" "$cache/"
  rm -rf "$folder"
  trap - EXIT
  cp "$script" "$cache/made_by"
}

script="$(realpath "$0")"
check_tools
if ! cmp -s "$script" "$cache/made_by"; then
  mkdir -p "$cache"
  exec {lock}>"$cache/lock"
  flock "$lock"
  cmp -s "$script" "$cache/made_by" || prepare
  exec {lock}>&-
fi
if [[ "$prepare_only" == yes ]]; then exit 0; fi

# ---- running ----

order="$(mktemp -d "${TMPDIR:-/tmp}/simm-rdma-vm.XXXXXX")"
machine="" followers=()
clean_up() {
  if [[ -n "$machine" ]]; then kill "$machine" 2>/dev/null || true; fi
  if ((${#followers[@]} > 0)); then kill "${followers[@]}" 2>/dev/null || true; fi
  rm -rf "$order"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

{
  export -p
  printf 'cd %q || exit 125\n' "$PWD"
  printf 'exec'
  printf ' %q' "$@"
  echo
} >"$order/command"
touch "$order/stdout" "$order/stderr"

# -erms: qemu emulates "rep movsb" byte by byte; without that flag the kernel copies words, which
# doubles what Soft-RoCE moves.
timeout --kill-after=5 "$seconds" qemu-system-x86_64 \
  -machine q35 -accel tcg,thread=multi,tb-size=512 -cpu max,-erms \
  -smp "$processors" -m "$memory" -nodefaults -no-user-config -no-reboot -display none -nic none \
  -serial "file:$order/console" -kernel "$cache/kernel" -initrd "$cache/first.cpio" \
  -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on" \
  -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
  -device virtio-9p-pci,fsdev=host,mount_tag=host \
  -fsdev "local,id=order,path=$order,security_model=none" \
  -device virtio-9p-pci,fsdev=order,mount_tag=order \
  </dev/null >"$order/machine" 2>&1 &
machine="$!"
tail --sleep-interval=0.1 --pid="$machine" -c +1 -f "$order/stdout" &
followers+=("$!")
tail --sleep-interval=0.1 --pid="$machine" -c +1 -f "$order/stderr" >&2 &
followers+=("$!")
outcome=0
wait "$machine" || outcome="$?"
machine=""
wait "${followers[@]}" || true
followers=()

if [[ "$kernel_log" == yes && -s "$order/kernel_log" ]]; then cat "$order/kernel_log" >&2; fi
if [[ -s "$order/exit_code" ]]; then exit "$(cat "$order/exit_code")"; fi
if ((outcome == 124 || outcome == 137)); then
  echo "vm.sh: out of time after $seconds s" >&2
  exit 124
fi
tail -n 20 "$order/machine" "$order/console" >&2 || true
no_machine "it ended ($outcome) before the command did"
