#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kernels.sh - tests/gpu/kernels.c on the software driver, or on that of $DRIVER.
set -u
cd "$(dirname "$0")/../.." || exit 1
exec "${BUILD:-build}/tests/kernels" "${DRIVER:-${BUILD:-build}/tests/libfakecuda.so}"
