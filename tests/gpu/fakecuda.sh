#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fakecuda.sh - the software driver itself: it finds mistakes, and finds none in right programs.
set -u
cd "$(dirname "$0")/../.." || exit 1
exec "${BUILD:-build}/tests/test_fakecuda" "${BUILD:-build}/tests/libfakecuda.so"
