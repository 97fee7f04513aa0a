#!/usr/bin/env python3
"""Adds exported functions to a finished WebAssembly module, for a module that exports nothing to initialise it with.

    extend.py MODULE RECIPE OUTPUT [NAMES]

The new functions are written in the recipe, one instruction per line, and may call any function of the module by its name in
the name section, or an import as `import.NAME`. Where there is no name section, NAMES is a file with lines of an address and a
name, as the DWARF sections have them (see docs/snapshots.md). What a recipe may say:

    drop NAME                     remove an export
    global NAME                   a new mutable i32
    func NAME                     a new function without parameters and results, exported as NAME
    local NAME                    one of its i32 locals, before its instructions
    call NAME | get NAME | set NAME | tee NAME | gget NAME | gset NAME | const N | load OFFSET
    split FUNCTION OFFSET BLOCK...
                                  make two of an exported function without parameters, results and loops around OFFSET: `init`,
                                  which is what comes before OFFSET, and FUNCTION, which is the rest. OFFSET and those of the
                                  BLOCKs around it count from the start of the code section's contents, as `llvm-objdump -d`
                                  shows them; what lies between is in memory and in globals
    text "..."                    the address of a copy of the text, from `malloc`, ending in a zero byte
    add | mul | eqz | drop | return | if | end
"""
import json
import sys


def leb(data, at):
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return result, at


def unsigned(value):
    out = bytearray()
    while True:
        out.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(out)


def signed(value):
    out = bytearray()
    while True:
        byte = value & 127
        value >>= 7
        if value in (0, -1) and (byte >> 6 & 1) == (value & 1):
            return bytes(out + bytes([byte]))
        out.append(byte | 128)


def name(data, at):
    length, at = leb(data, at)
    return data[at:at + length].decode(), at + length


class Module:
    def __init__(self, data):
        self.sections, self.functions, self.imports, self.ends = [], {}, 0, {}
        bodies, at = [], 8
        while at < len(data):
            kind = data[at]
            size, start = leb(data, at + 1)
            at = start + size
            self.sections.append((kind, data[start:at]))
        for kind, body in self.sections:
            if kind == 0:
                custom, at = name(body, 0)
                if custom == "name":
                    self.read_names(body, at)
                continue
            if kind not in (1, 2, 3, 6, 7, 10):
                continue
            count, at = leb(body, 0)
            if kind == 1:
                self.types = count
            elif kind == 2:
                for index in range(count):
                    _, at = name(body, at)
                    field, at = name(body, at)
                    assert body[at] == 0, "a module that imports functions only"
                    _, at = leb(body, at + 1)
                    self.functions["import." + field] = index
                self.imports = count
            elif kind == 3:
                self.count = self.imports + count
            elif kind == 6:
                self.globals = count
            elif kind == 10:
                self.bodies, self.code = {}, body
                for index in range(count):
                    size, begin = leb(body, at)
                    self.bodies[begin] = self.imports + index
                    self.ends[begin] = begin + size
                    at = begin + size

    def read_names(self, body, at):
        while at < len(body):
            kind = body[at]
            size, at = leb(body, at + 1)
            if kind == 1:
                count, inner = leb(body, at)
                for _ in range(count):
                    index, inner = leb(body, inner)
                    text, inner = name(body, inner)
                    self.functions.setdefault(text, index)
            at += size

    def read_addresses(self, lines):
        for line in lines:
            address, text = line.split()
            index = self.bodies.get(int(address, 16))
            if index is not None:
                self.functions.setdefault(text.strip('()"'), index)


SIMPLE = {"add": b"\x6a", "mul": b"\x6c", "eqz": b"\x45", "drop": b"\x1a", "return": b"\x0f", "if": b"\x04\x40", "end": b"\x0b"}


def split(module, function, offset, openers, first_global):
    """The two bodies, and how many globals they keep locals in."""
    begin = next(begin for begin in module.bodies if begin <= offset < module.ends[begin])
    groups, at = leb(module.code, begin)
    kinds = []
    for _ in range(groups):
        count, at = leb(module.code, at)
        kinds += [module.code[at]] * count
        at += 1
    assert set(kinds) <= {0x7F}, "a function with locals of type i32 only"
    declaration = module.code[begin:at]
    save = b"".join(b"\x20" + unsigned(i) + b"\x24" + unsigned(first_global + i) for i in range(len(kinds)))
    restore = b"".join(b"\x23" + unsigned(first_global + i) + b"\x21" + unsigned(i) for i in range(len(kinds)))
    blocks = b""
    for opener in openers:
        kind, ty = module.code[opener], module.code[opener + 1]
        assert kind in (2, 4) and ty in (0x40, 0x7F), "blocks and ifs"
        blocks += (b"\x41\x01" if kind == 4 else b"") + bytes([kind, ty])
    rest = module.code[offset:module.ends[begin]]
    # What follows the return is not reached, and closes the blocks.
    return declaration + module.code[at:offset] + save + b"\x0f" + rest, declaration + restore + blocks + rest, len(kinds)


def assemble(module, recipe):
    globals_, functions, drops, current = {}, [], set(), None
    for line in recipe.splitlines():
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        what, rest = words[0], words[1].strip() if len(words) > 1 else ""
        if what == "func":
            current = {"name": rest, "locals": {}, "code": bytearray()}
            functions.append(current)
        elif what == "global":
            globals_[rest] = module.globals + len(globals_)
        elif what == "drop" and current is None:
            drops.add(rest)
        elif what == "split":
            function, offset, *openers = rest.split()
            assert not globals_, "a split comes first"
            before, after, kept = split(module, function, int(offset, 16), [int(o, 16) for o in openers], module.globals)
            globals_ = {index: module.globals + index for index in range(kept)}
            functions += [{"name": "init", "body": before}, {"name": function, "body": after}]
            drops.add(function)
        elif what == "local":
            current["locals"][rest] = len(current["locals"])
        elif what == "call":
            current["code"] += b"\x10" + unsigned(module.functions[rest])
        elif what in ("get", "set", "tee"):
            operator = {"get": b"\x20", "set": b"\x21", "tee": b"\x22"}[what]
            current["code"] += operator + unsigned(current["locals"][rest])
        elif what in ("gget", "gset"):
            current["code"] += (b"\x23" if what == "gget" else b"\x24") + unsigned(globals_[rest])
        elif what == "const":
            current["code"] += b"\x41" + signed(int(rest))
        elif what == "load":
            current["code"] += b"\x28\x02" + unsigned(int(rest))
        elif what == "text":
            local = unsigned(current["locals"].setdefault("text", len(current["locals"])))
            bytes_ = json.loads(rest).encode() + b"\0"
            current["code"] += b"\x41" + signed(len(bytes_)) + b"\x10" + unsigned(module.functions["malloc"])
            current["code"] += b"\x21" + local
            for offset, byte in enumerate(bytes_):
                current["code"] += b"\x20" + local + b"\x41" + signed(byte) + b"\x3a\x00" + unsigned(offset)
            current["code"] += b"\x20" + local
        else:
            current["code"] += SIMPLE[what]
    return len(globals_), functions, drops


def extended(body, more, count):
    had, at = leb(body, 0)
    return unsigned(had + count) + body[at:] + more


def exports(body, functions, first, drops):
    count, at = leb(body, 0)
    kept = []
    for _ in range(count):
        start = at
        text, at = name(body, at)
        _, at = leb(body, at + 1)
        if text not in drops:
            kept.append(body[start:at])
    for index, function in enumerate(functions):
        text = function["name"].encode()
        kept.append(unsigned(len(text)) + text + b"\0" + unsigned(first + index))
    return unsigned(len(kept)) + b"".join(kept)


def main():
    module = Module(open(sys.argv[1], "rb").read())
    if len(sys.argv) > 4:
        module.read_addresses(open(sys.argv[4]))
    count, functions, drops = assemble(module, open(sys.argv[2]).read())
    out = bytearray(b"\0asm\1\0\0\0")
    for kind, body in module.sections:
        if kind == 1:
            body = extended(body, b"\x60\0\0", 1)
        elif kind == 3:
            body = extended(body, unsigned(module.types) * len(functions), len(functions))
        elif kind == 6:
            body = extended(body, b"\x7f\x01\x41\0\x0b" * count, count)
        elif kind == 7:
            body = exports(body, functions, module.count, drops)
        elif kind == 10:
            code = b""
            for function in functions:
                inner = function.get("body")
                if inner is None:
                    locals_ = len(function["locals"])
                    inner = b"\x01" + unsigned(locals_) + b"\x7f" if locals_ else b"\0"
                    inner += function["code"] + b"\x0b"
                code += unsigned(len(inner)) + inner
            body = extended(body, code, len(functions))
        out += bytes([kind]) + unsigned(len(body)) + body
    open(sys.argv[3], "wb").write(out)


main()
