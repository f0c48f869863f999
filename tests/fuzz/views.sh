#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# views.sh - statistics files that hold anything, through shmctl: the same ones each time. make fuzz looks for more.
set -u
cd "$(dirname "$0")/../.." || exit 1
exec "${BUILD:-build}/tests/fuzz_views" "${FUZZ_N:-3000}"
