#!/bin/sh
# Imports many records, exports them, restarts the node, exports again and compares; prints sizes and times.
#
#   cargo build --release && tests/campaign/transfer.sh [RECORDS] [DIRECTORY OF THE PROGRAMS]
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
records=${1:-10000000}
programs=$(cd "${2:-$here/target/release}" && pwd)
work=$(mktemp -d "$here/target/transfer-XXXXXX")
node=
export RINGCTL_ENDPOINTS=127.0.0.1:11927
trap 'if [ -n "$node" ]; then kill -9 "$node"; fi; rm -rf "$work"' EXIT

start() {
    "$programs/ringcore" start --bootstrap --name transfer --data-dir "$work/data" --listen 127.0.0.1:11927 \
        --peer-listen 127.0.0.1:11928 --admin-listen 127.0.0.1:11929 2>>"$work/log" &
    node=$!
    "$programs/ringctl" --timeout 600s health --wait >"$work/health" || { cat "$work/log" >&2; exit 1; }
}

timed() { # WHAT COMMAND...
    what=$1
    shift
    begun=$(date +%s)
    "$@"
    echo "$what: $(($(date +%s) - begun)) s"
}

sum() { # the records, whatever their order
    "$programs/ringctl" export | LC_ALL=C sort -S 1G -T "$work" | sha256sum
}

start
awk -v n="$records" 'BEGIN { for (i = 0; i < n; i++) printf "{\"key\":\"key-%012d\",\"value\":\"%0100d\"}\n", i, i * 7919 }' >"$work/records"
timed "import of $records records" "$programs/ringctl" import "$work/records"
LC_ALL=C sort -S 1G -T "$work" "$work/records" | sha256sum >"$work/put"
timed "export" sum >"$work/first.out"
echo "data directory: $(du -sh "$work/data" | cut -f1); of import: $(du -sh "$work/records" | cut -f1)"
grep -E "Vm(RSS|HWM)" "/proc/$node/status"
kill -TERM "$node"
wait "$node"
timed "start" start
timed "export" sum >"$work/second.out"
for out in first second; do
    head -n 1 "$work/$out.out" | cmp - "$work/put" && echo "$out export: equal to the import"
done
