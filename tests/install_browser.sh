#!/usr/bin/env bash
# Prints the path of a Chromium that tests can drive; installs Debian's where there is none and it may.
set -euo pipefail

find_browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome-stable google-chrome; do
    if [ -n "$name" ] && command -v "$name"; then return 0; fi
  done
  return 1
}

if find_browser; then exit 0; fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
  # Everything but the path goes to standard error.
  { apt-get update && apt-get install --yes --no-install-recommends chromium; } >&2 \
    || echo "tests/install_browser.sh: apt-get could not install chromium" >&2
else
  echo "tests/install_browser.sh: there is no Chromium; install one, or name it in CHROMIUM" >&2
fi
find_browser
