#!/usr/bin/env bash
# Starts a node and runs interop.py against it. Needs a built `ringcore`; makes its own Python environment.
# Usage: tests/interop/run.sh PATH_OF_RINGCORE
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=$1
work=$(cd "$here/../.." && pwd)/target/interop
mkdir -p "$work/generated"
rm -rf "$work/data"

if [ ! -x "$work/venv/bin/python" ] || ! cmp -s "$here/requirements.txt" "$work/venv/requirements.txt"; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$work/venv/requirements.txt"
fi
"$work/venv/bin/python" -m grpc_tools.protoc -I "$here" --python_out="$work/generated" \
    --grpc_python_out="$work/generated" seed.proto

port=$((20000 + RANDOM % 10000))
client=127.0.0.1:$port peer=127.0.0.1:$((port + 1)) admin=127.0.0.1:$((port + 2))
"$program" start --bootstrap --name n1 --data-dir "$work/data" --listen "$client" --peer-listen "$peer" \
    --admin-listen "$admin" --cores 2 --no-pin --allow-any-fs --log-format text 2>"$work/node.log" &
node=$!
trap 'kill "$node" 2>/dev/null; wait "$node" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    if curl -fsS "http://$admin/readyz" >/dev/null 2>&1; then break; fi
    kill -0 "$node" || { cat "$work/node.log"; exit 1; }
    sleep 0.1
done
"$work/venv/bin/python" "$here/interop.py" "$client" "$peer" "$work/generated" || { tail -20 "$work/node.log"; exit 1; }
