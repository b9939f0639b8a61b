#!/bin/sh
# Crowds beside a client that minds its own business, with a bound on that client's p99: for a machine with nothing else
# to do. The test `cluster` has the same crowds without a clock.
set -eu
cd "$(dirname "$0")/../.."
for _ in $(seq 1 "${1:-5}"); do
    RINGCORE_TEST_TIMED=1 cargo test --profile ci --test cluster -- --nocapture a_crowd_harms_nobody
done
