#!/usr/bin/env bash
# Suites and benchmarks of a device on a machine that was lent for an hour and has no network.
#
#   benches/gpu/gpu.sh build FEATURES [FOLDER]       here: everything that `run` needs, in one folder
#   benches/gpu/gpu.sh run FOLDER DEVICE [OPTION..]  there: suites, then benchmarks; all output goes to FOLDER/results/
#
# FEATURES are those of the workspace, for example `cuda` or `vulkan`; the folder is target/gpu-FEATURES by default.
# OPTIONs of run:
#   --bandwidth BYTES  bytes a second that the device's memory gives, for the roofline of decoding (an H100: 3.0e12)
#   --peak MACS        multiply-adds a second of its matrix units, for that of prompts (an H100 in bf16: 395e12)
#   --model FILE       the model to time; without it one of 2B-4T's shape is generated there
#   --quick            a tiny model and short runs, to see that all of it works
#   --no-suites        benchmarks alone
set -euo pipefail

# The suites, as test programs and the tests of each.
suite() {
  local tests=$1 device=$2
  case $tests in
    backends) echo "$device::" ;;
    moby) echo logits greedy token_by_token ;;
    batch) ;;
    training) echo devices ;;
  esac
}
readonly SUITES=(backends moby batch training)

build() {
  local features=$1 folder=${2:-target/gpu-${1//,/-}}
  cd "$(dirname "$0")/../.."
  local messages
  messages=$(cargo test --release --workspace --features "$features" --no-run --message-format json-render-diagnostics \
    --test backends --test moby --test batch --test training --bench devices)
  cargo build --release --workspace --features "$features" --bins
  rm -rf "$folder"
  mkdir -p "$folder/bin"
  # The last field of a message is the program that it is about; names of tests end in a hash.
  local program name
  while read -r program; do
    name=$(basename "$program")
    name=${name%-????????????????}
    cp "$program" "$folder/bin/$name"
    strip "$folder/bin/$name"
  done < <(grep -o '"executable":"[^"]*"' <<<"$messages" | cut -d '"' -f 4)
  local target=${CARGO_TARGET_DIR:-target}/release
  cp "$target/bitnet" "$target/generate-model" "$folder/bin/"
  strip "$folder/bin/bitnet" "$folder/bin/generate-model"
  # The files that the suites are held against.
  mkdir -p "$folder/fixtures"
  cp -r crates/fixtures/data "$folder/fixtures/"
  cp "$0" "$folder/gpu.sh"
  git rev-parse --short=12 HEAD >"$folder/commit"
  du -sh "$folder"
}

run() {
  local folder device model="" bandwidth=() peak=() quick="" suites=yes
  folder=$(cd "$1" && pwd)
  device=$2
  shift 2
  while [[ $# -gt 0 ]]; do
    case $1 in
      --bandwidth) bandwidth=(--bandwidth "$2") && shift 2 ;;
      --peak) peak=(--peak "$2") && shift 2 ;;
      --model) model=$2 && shift 2 ;;
      --quick) quick=yes && shift ;;
      --no-suites) suites="" && shift ;;
      *) echo "unknown option $1" >&2 && exit 2 ;;
    esac
  done
  export PATH="$folder/bin:$PATH" BITNET_FIXTURES="$folder/fixtures" BITNET_DEVICE=$device
  local name out failed=""
  name=$(bitnet devices | awk -v device="$device" '$1 == device { $1 = ""; print }')
  [[ -n "$name" ]] || { bitnet generate x -n 1 --device "$device" >/dev/null; exit 1; }
  out="$folder/results/$(tr -cs '[:alnum:]' '-' <<<"$name" | sed 's/^-//; s/-$//' | cut -c 1-60)-$(cat "$folder/commit")"
  mkdir -p "$out"
  {
    echo "device $device:$name"
    echo "commit $(cat "$folder/commit")"
    nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader 2>/dev/null || true
  } | tee "$out/device.txt"

  if [[ -n "$suites" ]]; then
    local program tests
    for program in "${SUITES[@]}"; do
      read -r -a tests < <(suite "$program" "$device"; echo) || true
      if "$program" "${tests[@]}" --nocapture >"$out/$program.txt" 2>&1; then
        echo "suite $program: $(grep -h '^test result' "$out/$program.txt" | tail -1)"
      else
        echo "suite $program FAILED: see $out/$program.txt"
        failed=yes
      fi
    done
  fi

  local prefill=512,2048 decode=128 depth=0,2048 batch=8,32 reps=5
  if [[ -n "$quick" ]]; then
    prefill=16 decode=4 depth=0,32 batch=8,32 reps=2
    if [[ -z "$model" ]]; then
      model="$folder/tiny.gguf"
      [[ -e "$model" ]] || generate-model --shape tiny --vocab small "$model" >"$out/generate.txt" 2>&1
    fi
  elif [[ -z "$model" ]]; then
    model="$folder/2b4t.gguf"
    [[ -e "$model" ]] || generate-model "$model" >"$out/generate.txt" 2>&1
  fi
  local bench=(bitnet bench --model "$model" --device "$device" --prefill "$prefill" --decode "$decode" --depth "$depth"
    --batch "$batch" --reps "$reps" "${bandwidth[@]}" "${peak[@]}")
  "${bench[@]}" --json >"$out/bench.json"
  "${bench[@]}" | tee "$out/bench.txt"
  # What the recorded steps give.
  BITNET_REPLAY=0 "${bench[@]}" >"$out/bench-without-replay.txt"
  grep -h '^decode' "$out/bench-without-replay.txt" | sed 's/^/without replay: /'
  devices --bench "$device" 2>&1 | tee "$out/mat-vec.txt"
  [[ -z "$failed" ]]
}

case ${1:-} in
  build) build "${@:2}" ;;
  run) run "${@:2}" ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
