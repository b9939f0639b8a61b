#!/bin/sh
# Makes the golden data directories of the current format anew: tests/golden/v1/NAME.tar.gz, and NAME.jsonl with what
# each holds. Only while a format may still change: afterwards a new format gets a directory of its own beside v1.
#
#   cargo build --profile ci --bins && tests/golden/make.sh [DIRECTORY OF THE PROGRAMS]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
programs=$(cd "${1:-$here/../../target/ci}" && pwd)
work=$(mktemp -d "$here/../../target/golden-XXXXXX")
node=
export RINGCTL_ENDPOINTS=127.0.0.1:11917
trap 'if [ -n "$node" ]; then kill -9 "$node"; fi; rm -rf "$work"' EXIT
# An expiry within the ten years that are allowed, the same for every run of a year's start.
expires=$((($(date +%Y) + 9 - 1970) * 31557600000))

start() { # NAME CORES
    "$programs/ringcore" start --bootstrap --name golden --no-pin --allow-any-fs --data-dir "$work/$1" --cores "$2" \
        --listen 127.0.0.1:11917 --peer-listen 127.0.0.1:11918 --admin-listen 127.0.0.1:11919 2>>"$work/$1.log" &
    node=$!
    "$programs/ringctl" --timeout 60s health --wait >"$work/health" || { cat "$work/$1.log" >&2; exit 1; }
}

end() { # SIGNAL
    kill "-$1" "$node"
    wait "$node" || [ "$1" = KILL ]
    node=
}

records() { # FROM TO
    seq "$1" "$2" | while read -r n; do
        case $((n % 5)) in
        0) echo "{\"key\":\"key-$n\",\"value\":\"expires $n\",\"expires_at_ms\":$expires}" ;;
        1) echo "{\"key\":\"key-$n\",\"value\":\"\"}" ;;
        *) echo "{\"key\":\"key-$n\",\"value\":\"value $n of $1 to $2\"}" ;;
        esac
    done | "$programs/ringctl" import - >"$work/imported"
}

keep() { # NAME: what it holds, and the files of the node that was killed
    "$programs/ringctl" export | LC_ALL=C sort >"$here/v1/$1.jsonl"
    end KILL
    rm -f "$work/$1/LOCK"
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work" -cf - "$1" | gzip -9n >"$here/v1/$1.tar.gz"
}

mkdir -p "$here/v1"

# A log and nothing else, cut off by a kill.
start one-core 1
records 1 200
head -c 40000 /dev/zero | tr '\0' z | "$programs/ringctl" put large -
"$programs/ringctl" del key-2 key-3 key-7 >"$work/deleted"
keep one-core

# Two layouts: the old one must still be read, with a clean end and a cut.
start two-layouts 2
records 1 100
end TERM
start two-layouts 1
records 50 150
"$programs/ringctl" del key-1 key-60 >"$work/deleted"
keep two-layouts

# All parts, and a log after them.
start parts 2
records 1 100
"$programs/ringctl" del key-4 >"$work/deleted"
end TERM
start parts 4
until [ "$(ls -d "$work"/parts/layout-* | wc -l)" = 1 ]; do sleep 0.1; done
records 90 120
"$programs/ringctl" del key-8 >"$work/deleted"
keep parts
ls -l "$here/v1"
