#!/bin/sh
# Copy these sources to a cache directory outside the tree, install their npm packages there (safe to
# repeat), and print the program's path on the last line.
# The directory: $LDK_DIR, or lightning-dvm/ldk in $XDG_CACHE_HOME or ~/.cache.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${LDK_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/lightning-dvm/ldk}
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9
cp -f "$here"/*.mjs "$dir"/
if [ ! -d "$dir/node_modules" ] || ! cmp -s "$here/package.json" "$dir/.installed"; then
  cp -f "$here/package.json" "$dir/"
  (cd "$dir" && npm install --no-audit --no-fund --no-package-lock --loglevel=error) >&2
  cp -f "$here/package.json" "$dir/.installed"
fi
echo "$dir/ldk_nwc.mjs"
