#!/bin/sh
# kill -9 of a real node under load, many times: tests/campaign/kills.sh [KILLS] [SEEDS]. The short form is in the test
# `cluster`.
set -eu
cd "$(dirname "$0")/../.."
for seed in $(seq 1 "${2:-10}"); do
    RINGCORE_TEST_SEED=$seed RINGCORE_TEST_KILLS=${1:-2000} cargo test --profile ci --test cluster -- \
        --nocapture nothing_acknowledged_is_lost_or_changed_by_kills_at_random_moments
done
