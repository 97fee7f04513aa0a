#!/usr/bin/env bash
# Rebuilds the checked-in guests from their sources. Needs clang, lld, wasi-libc and clang's runtime for wasm32
# (Debian: apt install clang lld wasi-libc libclang-rt-14-dev-wasm32). Other versions give other bytes.
set -euo pipefail
cd "$(dirname "$0")/guests"
for source in *.c; do
    clang --target=wasm32-wasi -O2 -Wall -Wextra -Werror -Wl,--strip-debug -o "${source%.c}.wasm" "$source"
    echo "${source%.c}.wasm: $(wc -c <"${source%.c}.wasm") bytes"
done
