#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# export.sh - the demo's network, labels and photographs in $BUILD/demo, made once and anew when the exporter changes.
set -eu
cd "$(dirname "$0")/../.."
demo=${BUILD:-build}/demo
made=$demo/.made
if [ -e "$made" ] && [ -z "$(find tools/export tools/setup -type f -newer "$made" -not -name '*.pyc')" ]; then
	exit 0
fi
mkdir -p "$demo"
echo "exporting EfficientNet-Lite0 (ImageNet weights) to $demo/models ..."
tools/setup/torch.sh --run tools/export/efficientnet_lite0.py export "$demo"
touch "$made"
