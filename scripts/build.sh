#!/bin/sh
# Compiles src into dist. The descriptor set that reflection serves stands beside the generated
# code there too.
set -eu
cd "$(dirname "$0")/.."

rm -rf dist
node_modules/.bin/tsc -p tsconfig.build.json
cp src/gen/descriptor.binpb dist/gen/descriptor.binpb
chmod +x dist/main.js
