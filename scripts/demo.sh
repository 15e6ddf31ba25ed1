#!/usr/bin/env bash
# The demo: a project, the servers, a task, how things stand, and a conversation of four messages.
#
#   scripts/demo.sh
#
# It runs apart from everything else: a temporary home, free ports, a database of its own. Only the model files are
# those of TALE_HOME (default ~/.tale), where they are fetched to if they are missing. It exits with 1 when any step
# fails, and stops and deletes what it started in every case.
set -euo pipefail
cd "$(dirname "$0")/.."

tale=$(command -v tale) || { echo "demo: tale is not installed here; first: pip install -e ." >&2; exit 1; }
models=${TALE_HOME:-$HOME/.tale}/models
work=$(mktemp -d "${TMPDIR:-/tmp}/tale-demo.XXXXXX")
log=$work/serve.log
server=

clean_up() {
    local status=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    if [ $status -ne 0 ]; then
        echo "demo: failed (exit $status)" >&2
        [ -s "$log" ] && { echo "demo: the last lines of the servers:" >&2; tail -n 20 "$log" >&2; }
    fi
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# step COMMAND...: show it as it would be typed, run it, fail with it.
step() {
    local word shown=
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_/.-]*) shown+=" \"$word\"" ;; *) shown+=" $word" ;; esac
    done
    printf '\n$%s\n' "$shown"
    "$@"
}

# told PATTERN... -- COMMAND...: a step whose output, shown as it comes, must hold a line for each pattern.
told() {
    local pattern patterns=()
    while [ "$1" != -- ]; do
        patterns+=("$1")
        shift
    done
    shift
    step "$@" 2>&1 | tee "$work/told"
    for pattern in "${patterns[@]}"; do
        grep -q -e "$pattern" "$work/told" || { echo "demo: the answer does not hold “$pattern”" >&2; exit 1; }
    done
}

wait_for_servers() {
    local look
    for ((look = 0; look < 240; look++)); do
        tale servers status >/dev/null 2>&1 && return 0
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.25
    done
    return 1
}

mkdir -p "$models" "$work/home"
ln -s "$(cd "$models" && pwd)" "$work/home/models"
ports=$(python3 scripts/free_ports.py)
eval "export $ports"
export TALE_HOME=$work/home
cd "$work"

step tale init myproject
cd myproject

printf '\n$ tale serve &\n'
"$tale" serve >"$log" 2>&1 &
server=$!
wait_for_servers || { echo "demo: the servers did not start" >&2; exit 1; }

step tale submit "Write hello world in Python"
step tale status
tale result "$(tale list --status completed --limit 1 --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["tasks"][0]["id"])')" | grep -q print ||
    { echo "demo: the answer holds no Python that prints" >&2; exit 1; }

step tale chat -m "Hello, how are you?"
told "I'm on it, as task 1: " "def .*fib" -- \
    tale chat --continue -m "Can you write a python function to calculate fibonacci numbers?"
told "^Your last request was task 1: “Can you write a python function" -- \
    tale chat --continue -m "What was my last request?"
told "^Task 1, “Can you write a python function.*: done, in " -- tale chat --continue -m "Check the status of my task"

printf '\nThe demo went through in %d s.\n' $SECONDS
