#!/usr/bin/env bash
# Rebuilds what is checked in and made of something else, below the directory given or in place: guests from their sources, and what is
# generated from interfaces. Needs clang, lld, wasi-libc and clang's runtime for wasm32 (Debian 12: apt install clang lld wasi-libc
# libclang-rt-14-dev-wasm32), and Rust with the target wasm32-wasip1. The checked-in guests were made with Debian's clang 14.0.6 and
# rustc 1.95.0; other versions give other bytes. SANDBOXCTL names a sandboxctl that is built already.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")}")
sandboxctl=${SANDBOXCTL:+$(realpath "$SANDBOXCTL")}
cd "$(dirname "$0")"
mkdir -p "$out/guests" "$out/host-functions"

# compile SOURCE GUEST OPTION...
compile() {
    local source=$1 guest=$2
    shift 2
    clang --target=wasm32-wasi -O2 -Wall -Wextra -Werror "$@" -o "$guest" "$source"
}

interface() {
    if [ "$sandboxctl" ]; then "$sandboxctl" interface "$@"; else
        cargo run -q --manifest-path ../../Cargo.toml -p sandboxd-client --bin sandboxctl -- interface "$@"
    fi
}

cd guests
for source in *.c; do
    # One is there for its source lines; its bytes must not depend on where it is built.
    case $source in
        lines.c) debug=(-g "-fdebug-prefix-map=$PWD=/examples") ;;
        *) debug=(-Wl,--strip-debug) ;;
    esac
    compile "$source" "$out/guests/${source%.c}.wasm" "${debug[@]}"
done

cd ../host-functions
interface header kv.toml -o "$out/host-functions/kv.h"
interface rust kv.toml -o "$out/host-functions/kv.rs"
interface docs kv.toml -o "$out/host-functions/kv.md"
compile guest.c "$out/host-functions/guest_c.wasm" -Wl,--strip-debug
rustc --edition 2024 --target wasm32-wasip1 -D warnings -C opt-level=s -C lto -C panic=abort -C strip=debuginfo \
    -o "$out/host-functions/guest_rust.wasm" guest.rs

wc -c "$out"/*/*.wasm
