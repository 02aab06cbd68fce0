#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The store beside bare loops over the same real pages, in one process:
# store.ingest.*, store.read.*, store.commit, store.map.*, store.index.*, store.gc.

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/../scripts/lib.sh"
# shellcheck source=benchmarks/lib.sh
. "$here/lib.sh"

data=$(bench_data)
work=$(mktemp -d "$STASIS_BUILD/bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

"$STASIS_BUILD/benchmarks/bench_store" "$data/memory2.raw" "$work" |
    while read -r name ours reference goal better unit; do
        figure "$name" "$ours" "$reference" "$goal" "$better" "$unit"
    done
