#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# export_mlp.sh - the small dense network of the row model.mlp_efficiency, in $BUILD/bench/models; made once.
set -eu
cd "$(dirname "$0")/../.."
models=${BUILD:-build}/bench/models
[ -n "$(find "$models/mlp.pt" -newer tests/bench/mlp.py 2>/dev/null)" ] && exit 0
mkdir -p "$models"
tools/setup/torch.sh --run tests/bench/mlp.py "$models/mlp.pt"
