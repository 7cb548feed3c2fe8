#!/usr/bin/env bash
# Fifty masks over the same saved rollouts: for each a small file, and a line of what it removes and what it does to
# the predicted change of entropy. Run again, it makes what is missing.
#
#   examples/remask_offline.sh ADVANTAGED.parquet [DIR]
#
# ADVANTAGED: rows with advantages (a file or a directory). DIR: where the masks go, run/masks by default; give one of
# them to the trainer beside the rows: entropyctl update ADVANTAGED.parquet DIR/clip-v_--mu_8.5.parquet ...
set -euo pipefail

rows=${1:?the rows with advantages}
out=${2:-run/masks}
mkdir -p "$out"

settings() {
  local x
  for x in 1 2 3 4 5 6 7 8.5 10 12; do printf '%s\n' "clip-b --mu $x" "clip-v --mu $x"; done
  for x in 0.1 0.2 0.3 0.4 0.5 0.6; do printf '%s\n' "top-entropy --fraction $x" "random --fraction $x"; done
  for x in 2e-4 2e-3 2e-2; do printf '%s\n' "kl-cov --ratio $x" "clip-cov --ratio $x"; done
  for x in 0.5 0.6 0.7 0.8 0.9; do printf '%s\n' "steer --w-min $x" "steer --map exponential --w-min $x"; done
  printf '%s\n' "quadrant" "budget"
}

number() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$2"; }

printf '%-36s %10s %14s\n' mask removed 'change of H'
settings | while read -r setting; do
  name=${setting// /_}
  if [ ! -s "$out/$name.json" ]; then
    # shellcheck disable=SC2086  # the words of a setting are arguments
    entropyctl mask $setting "$rows" --only-new --quiet --json -o "$out/$name.parquet" > "$out/.$name.json"
    mv "$out/.$name.json" "$out/$name.json"
  fi
  printf '%-36s %10.4f %14.4e\n' "$setting" \
    "$(number masked_fraction "$out/$name.json")" "$(number predicted_change_after "$out/$name.json")"
done
