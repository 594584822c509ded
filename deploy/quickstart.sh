#!/usr/bin/env bash
# From a fresh Debian 12 to a running cluster with traffic on it. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TEXT'
Usage: deploy/quickstart.sh [--small] [--keep] [--stop]

Installs the Debian packages that are missing, builds into build/, starts one manager and three data
servers on loopback, replays multi-turn conversations through them with every byte checked, prints
the cluster's status and the result, and stops what it has started.

  --small  less memory and traffic: a few seconds after the build
  --keep   leaves the cluster running and says how to use and stop it
  --stop   stops a cluster that --keep has left
TEXT
}

sessions=400
memory=64MiB
keep=0
stop=0
for argument in "$@"; do
  case "$argument" in
    --small) sessions=60 memory=16MiB ;;
    --keep) keep=1 ;;
    --stop) stop=1 ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
done

kept=build/quickstart.kept
bin=build/bin
folder=""
pids=()
kill_ours() {  # PID...: each only while it is still one of our programs
  local pid
  for pid in "$@"; do
    case "$(cat "/proc/$pid/comm" 2>/dev/null || true)" in
      simm-manager | simm-dataserver) kill "$pid" 2>/dev/null || true ;;
    esac
  done
  for pid in "$@"; do
    for _ in $(seq 100); do
      [[ -d "/proc/$pid" ]] || break
      sleep 0.1
    done
  done
}

say() { printf '\n== %s\n' "$*"; }

fail() {
  echo "quickstart: FAILED: $*" >&2
  if [[ -n "$folder" ]]; then
    for log in "$folder"/*.log; do
      if [[ -s "$log" ]]; then
        echo "--- the end of $(basename "$log"):" >&2
        tail -n 5 "$log" >&2
      fi
    done
  fi
  exit 1
}

cleanup() {
  local code="$?"
  trap - EXIT INT TERM
  if ((code == 0 && keep == 1)); then exit 0; fi
  if ((${#pids[@]} > 0)); then kill_ours "${pids[@]}"; fi
  if [[ -n "$folder" ]]; then rm -rf "$folder"; fi
  exit "$code"
}

stop_kept() {
  if [[ ! -f "$kept" ]]; then
    echo "Nothing to stop: --keep has left no cluster."
    return
  fi
  local old_folder old_pids
  { read -r old_folder && read -r -a old_pids; } <"$kept"
  kill_ours "${old_pids[@]}"
  rm -rf "$old_folder"
  rm -f "$kept"
  echo "Stopped."
}

build() {
  say "Installing what is missing and building (the first time takes minutes)"
  deploy/install_packages.sh
  if [[ ! -f build/CMakeCache.txt ]]; then
    local said
    said="$(cmake -G Ninja -S . -B build 2>&1)" || { echo "$said" && fail "cmake; see above"; }
  fi
  cmake --build build -j "$(nproc)" \
    --target simm-manager simm-dataserver simmctl simm-bench || fail "the build; see above"
}

# The first of a few bases at which all ten ports are free: base and base + 79 for the manager,
# base + 10.. + 30.. + 90.. for the data servers.
choose_ports() {
  base="$(python3 - <<'PYTHON'
import socket

def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

for base in range(30001, 60001, 500):
    ports = [base, base + 79] + [base + k + i for k in (10, 30, 90) for i in range(3)]
    if all(map(free, ports)):
        print(base)
        break
PYTHON
)"
  [[ -n "$base" ]] || fail "no free ports between 30001 and 60000"
  if ((base != 30001)); then
    echo "The usual ports (30001 and near) are taken; using $base and near."
  fi
}

start() {  # NAME PROGRAM FLAG...
  local name="$1"
  shift
  setsid "$@" >"$folder/$name.log" 2>&1 </dev/null &
  pids+=("$!")
}

start_cluster() {
  say "Starting one manager and three data servers on loopback"
  folder="$(mktemp -d "${TMPDIR:-/tmp}/simm-quickstart.XXXXXX")"
  choose_ports
  manager="127.0.0.1:$base"
  start manager "$bin/simm-manager" --listen "$manager" --http "127.0.0.1:$((base + 79))" \
    --state "$folder/state" --new-cluster
  local i
  for i in 0 1 2; do
    start "server-$i" "$bin/simm-dataserver" --manager "$manager" --name "server-$i" \
      --memory "$memory" --mean-value 64KiB --advertise 127.0.0.1 \
      --listen "127.0.0.1:$((base + 10 + i))" --data-listen "127.0.0.1:$((base + 30 + i))" \
      --http "127.0.0.1:$((base + 90 + i))"
  done
  local alive=0
  for _ in $(seq 150); do
    alive="$("$bin/simmctl" --manager "$manager" --timeout-ms 1000 --json status 2>/dev/null |
      python3 -c 'import json, sys; print(json.load(sys.stdin)["servers"]["alive"])' \
        2>/dev/null || true)"
    [[ "$alive" == 3 ]] && break
    for pid in "${pids[@]}"; do
      [[ -d "/proc/$pid" ]] || fail "a program ended at its start"
    done
    sleep 0.2
  done
  [[ "$alive" == 3 ]] || fail "only ${alive:-0} of 3 data servers are alive after 30 s"
  "$bin/simmctl" --manager "$manager" nodes
}

run_workload() {
  say "Replaying $sessions conversations: exists, get the known prefix, check it, put the rest"
  python3 bench/workloads/multi_turn.py --sessions "$sessions" --output "$folder/trace.jsonl"
  # Each run has keys of its own, so that a second one begins cold too.
  "$bin/simm-bench" trace --manager "$manager" --file "$folder/trace.jsonl" --value-size 64KiB \
    --key-prefix "quickstart-" >"$folder/result" || fail "the workload; see above"
}

explain_keep() {
  printf '%s\n%s\n' "$folder" "${pids[*]}" >"$kept"
  cat <<TEXT

The cluster is left running. Try:
  export SIMM_CLUSTER_MANAGER=$manager
  $bin/simmctl status
  echo hello | $bin/simmctl put greeting - && $bin/simmctl get greeting
  curl http://127.0.0.1:$((base + 90))/metrics
Logs are in $folder. Stop it with:
  deploy/quickstart.sh --stop
TEXT
}

main() {
  if ((stop == 1)); then
    stop_kept
    exit 0
  fi
  if ((keep == 1)) && [[ -f "$kept" ]]; then
    echo "Stopping the cluster that an earlier --keep has left."
    stop_kept
  fi
  trap cleanup EXIT
  trap 'exit 130' INT TERM
  build
  start_cluster
  run_workload
  say "The cluster now"
  sleep 2  # the manager learns the servers' counts from their heartbeats, one a second
  "$bin/simmctl" --manager "$manager" status
  "$bin/simmctl" --manager "$manager" nodes
  say "The result"
  sed '/simulated, by capacity/,$d' "$folder/result"
  echo "quickstart: every value that came back had the right bytes"
  if ((keep == 1)); then explain_keep; fi
}

main
