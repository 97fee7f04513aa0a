#!/usr/bin/env bash
# Builds the kernels into a directory: those in C with clang, lld, wasi-libc and clang's runtime for wasm32 (Debian 12: apt
# install clang lld wasi-libc libclang-rt-14-dev-wasm32), those in Rust with the toolchain's target wasm32-wasip1 (rustup target add
# wasm32-wasip1). What the kernels print depends neither on the compilers nor on their versions.
set -euo pipefail
[ $# = 1 ] || { echo "usage: build.sh OUT_DIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"

# What current toolchains enable by default. Contraction would change results where the target has a fused multiply-add.
c_flags=(--target=wasm32-wasi -O2 -Wall -Wextra -Werror -ffp-contract=off -msign-ext -mnontrapping-fptoint -mbulk-memory)
for source in *.c; do
    name=${source%.c}
    simd=()
    [[ $name == simd_* ]] && simd=(-msimd128)
    clang "${c_flags[@]}" "${simd[@]}" -Wl,--strip-debug -o "$out/$name.wasm" "$source"
done
for source in rust/*.rs; do
    name=$(basename "$source" .rs)
    [ "$name" = common ] && continue
    rustc --edition 2024 -O -D warnings --target wasm32-wasip1 -C strip=debuginfo -o "$out/$name.wasm" "$source"
done
