#!/bin/sh
# Every command of ringbench once, against a node that it starts: tests/ringbench/run.sh DIRECTORY_OF_THE_PROGRAMS
# What is looked at is what they say and write, never how fast.
set -eu
programs=$(cd "$1" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ringbench-XXXXXX")
node= run=
trap 'for process in $node $run; do kill -9 "$process"; done; rm -rf "$work"' EXIT
cd "$work"
ringbench=$programs/ringbench
at=127.0.0.1:11937
export RINGCTL_ENDPOINTS=$at

fail() {
    echo "FAILED: $1"
    exit 1
}

# CODE COMMAND...: the command must end so; what it says is in the file `said`.
ends() {
    wanted=$1
    shift
    code=0
    "$@" >said 2>&1 || code=$?
    [ "$code" = "$wanted" ] || { cat said; fail "$*: exit code $code instead of $wanted"; }
}

says() {
    grep -q -e "$1" said || { cat said; fail "does not say: $1"; }
}

start() {
    "$programs/ringcore" start --bootstrap --name n1 --data-dir data --cores 2 --no-pin --listen $at \
        --peer-listen 127.0.0.1:11938 --admin-listen off 2>node.log &
    node=$!
    "$programs/ringctl" --timeout 60s health --wait >/dev/null || { cat node.log; fail "the node does not start"; }
}

start
ends 0 "$ringbench" load --records 5000
says '5000 of 5000 records, 100 %'
[ "$("$programs/ringctl" export 2>/dev/null | wc -l)" = 5000 ] || fail "the records are not there"

ends 0 "$ringbench" run --closed --duration 1s --warmup 0ms --records 5000 --out closed
says '50 % read, 50 % update'
says 'CPU of the server'
for file in run.json report.html latency.hlog latency.hgrm; do
    [ -s "closed/$file" ] || fail "closed/$file is empty"
done
for way in --pipeline '--batch 16' '--ycsb d' '--ycsb f' '--read 2 --delete 1 --insert 1' '--no-ids --ttl 1h --level one'; do
    # shellcheck disable=SC2086
    ends 0 "$ringbench" run --closed --inflight 16 --duration 500ms --warmup 0ms --records 5000 --quiet $way
    ! grep -q failed said || { cat said; fail "$way: something failed"; }
done
ends 0 "$ringbench" run --closed --inflight 3 --connections 8 --cores 8 --duration 300ms --warmup 0ms --records 5000
says '3 requests in flight'
says '3 from 3 threads'
# An open loop may find itself too late on a busy machine, and then says so.
for arrivals in constant poisson; do
    "$ringbench" run --rate 500 --arrivals $arrivals --duration 1s --warmup 0ms --records 5000 >said 2>&1 || code=$?
    [ "${code:-0}" = 0 ] || [ "$code" = 4 ] || { cat said; fail "open loop: exit code $code"; }
    says 'lag of the generator'
done
ends 0 "$ringbench" sweep --rates 200,400 --duration 500ms --warmup 0ms --records 5000
ends 4 "$ringbench" run --closed --endpoints 127.0.0.1:11938 --duration 300ms --warmup 0ms --records 10
says 'INVALID: no request was answered well'
says 'UNIMPLEMENTED'

ends 0 "$ringbench" targets durable single table --rounds 1 --round-ms 100 --records 1000 --many-records 1000
says 'throughput, flushed / none'
says 'Put / (call + write)'

rm closed/report.html
ends 0 "$ringbench" report closed
[ -s closed/report.html ] || fail "no report was written"
ends 0 "$ringbench" compare closed closed/run.json
says 'nothing is worse'
sed -E 's/"(p50|p99)": ([0-9.]+)/"\1": 9\2/' closed/run.json >slower.json
ends 3 "$ringbench" compare closed slower.json
says 'worse by more than 10 %'
ends 1 "$ringbench" compare closed data
says 'run.json'

# Its server dies under it: a run goes on to its end, and says what became of it.
timeout 60 "$ringbench" run --closed --retries 5 --duration 3s --warmup 0ms --records 5000 >said 2>&1 &
run=$!
looks=0
until grep -q 'ops/s' said; do
    looks=$((looks + 1))
    [ "$looks" -lt 300 ] || { cat said; fail "the run tells no second"; }
    sleep 0.1
done
kill -9 "$node"
wait "$node" || node=
code=0
wait "$run" || code=$?
run=
[ "$code" = 0 ] || { cat said; fail "a run whose server dies: exit code $code instead of 0"; }
says 'connections were lost'
says 'requests had no answer when it was over'

start
kill "$node"
wait "$node" || fail "the node did not stop in order"
node=

ends 1 "$ringbench" run --closed --duration 1s
says "cannot connect to $at"
ends 2 "$ringbench" run --duration 1s
ends 0 "$ringbench" limit --duration 500ms --warmup 0ms --dir limit
ends 0 "$ringbench" verify --duration 3s --kill-every 1s --writers 8 --dir verify
says 'no acknowledged write is missing or wrong'
ends 0 "$ringbench" micro --rounds 1
says "mailbox"
ends 0 env PATH=/nowhere "$ringbench" compare --with etcd,redis --rounds 1 --round-ms 200 --records 1000 --dir peers
says 'etcd is not installed: skipped'
echo "ringbench: every command does what it says"
