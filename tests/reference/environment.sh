#!/usr/bin/env bash
# Prints a Python that has requirements.txt. Made once (minutes, 6 GB), in a cache folder outside the checkout.
set -euo pipefail
cd "$(dirname "$0")"

if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo 'the reference environment needs python3 >= 3.11 with venv; install it (Debian: apt install python3-venv)' >&2
  exit 1
fi

key="$( (python3 -VV && cat requirements.txt) | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ecg-train/python"
if [[ ! -d "$cache/$key" ]]; then
  echo "making $cache/$key" >&2
  mkdir -p "$cache"
  new="$(mktemp -d "$cache/new.XXXXXX")"
  trap 'rm -rf "$new"' EXIT
  python3 -m venv "$new"
  "$new/bin/python" -m pip install --quiet --no-compile -r requirements.txt >&2
  # The name appears when everything is there; whoever was first wins.
  mv -T "$new" "$cache/$key" 2>/dev/null || [[ -d "$cache/$key" ]]
fi
echo "$cache/$key/bin/python"
