#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The tour of ./demo, which checks what it shows.
set -euo pipefail

work=$(mktemp -d "${TMPDIR:-/tmp}/demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -m 700 "$work/run"
PATH=${STASIS%/*}:$PATH STASIS_HOME=$work/home XDG_RUNTIME_DIR=$work/run \
    "${BASH_SOURCE[0]%/*}/../../scripts/demo-steps" "$STASIS_APPLIANCE"
