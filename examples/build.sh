#!/usr/bin/env bash
# Rebuilds the checked-in guests from their sources, into the directory given or in place. Needs clang, lld, wasi-libc
# and clang's runtime for wasm32 (Debian 12: apt install clang lld wasi-libc libclang-rt-14-dev-wasm32). The checked-in files were
# made with Debian's clang 14.0.6; other versions give other bytes.
set -euo pipefail
cd "$(dirname "$0")/guests"
out=${1:-.}
for source in *.c; do
    guest=$out/${source%.c}.wasm
    # One is there for its source lines; its bytes must not depend on where it is built.
    case $source in
        lines.c) debug=(-g "-fdebug-prefix-map=$PWD=/examples") ;;
        *) debug=(-Wl,--strip-debug) ;;
    esac
    clang --target=wasm32-wasi -O2 -Wall -Wextra -Werror "${debug[@]}" -o "$guest" "$source"
    echo "$guest: $(wc -c <"$guest") bytes"
done
