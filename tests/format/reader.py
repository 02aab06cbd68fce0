#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""reader.py STORE list | all DIR

A second reader of stores, written from stasis-format(5) alone: what it has to know and
that page does not say is a fault of the page. It shares no code with the first one. It
checks all that a reader can check, mends nothing, and is in no hurry.

  list     prints the names of all checkpoints: ID, MACHINE@NAME or NAME:TAG
  all DIR  writes DIR/ID/SPACE for each space of each checkpoint, and DIR/ID/state
"""
import ctypes
import hashlib
import json
import os
import re
import sqlite3
import struct
import sys

PAGE = 4096
HEADER, ENTRY, TRAILER = 64, 60, 56
ZERO_REF = bytes(16)


class Corrupt(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Corrupt(what)


# ---- the two libraries that the page refers to ----

class Hash128(ctypes.Structure):
    _fields_ = [("low64", ctypes.c_uint64), ("high64", ctypes.c_uint64)]


xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_64bits.restype = ctypes.c_uint64
xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
xxhash.XXH3_128bits.restype = Hash128
xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
zstd = ctypes.CDLL("libzstd.so.1")
for name in ("ZSTD_decompress", "ZSTD_findFrameCompressedSize"):
    getattr(zstd, name).restype = ctypes.c_size_t
zstd.ZSTD_getFrameContentSize.restype = ctypes.c_uint64
zstd.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
zstd.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
                                 ctypes.c_size_t]


def xxh3_64(data):
    return xxhash.XXH3_64bits(data, len(data))


def one_frame(data, length):
    """The contents of exactly one frame that states that length."""
    need(zstd.ZSTD_getFrameContentSize(data, len(data)) == length, "a frame of another length")
    need(zstd.ZSTD_findFrameCompressedSize(data, len(data)) == len(data), "not one frame")
    out = ctypes.create_string_buffer(length)
    need(zstd.ZSTD_decompress(out, length, data, len(data)) == length, "a broken frame")
    return out.raw


# ---- pages ----

def same_key(page, ref):
    key = xxhash.XXH3_128bits(page, PAGE)
    return ref[:8] == struct.pack("<Q", key.low64) and \
        ref[10:] == struct.pack("<Q", key.high64)[2:]


# ---- packs ----

class Pack:
    def __init__(self, path, row):
        with open(path, "rb") as file:
            self.data = data = file.read()
        need(HEADER + TRAILER <= len(data) <= 64 << 20, "size")
        header, trailer = data[:HEADER], data[-TRAILER:]
        need(header[:8] == b"STASPACK" and trailer[48:] == b"STASPEND", "magic")
        (at, length, groups, objects, parity, reserved, parity_sum,
         check) = struct.unpack("<QQIIIIQQ", trailer[:48])
        footer = data[at:at + length]
        need(check == xxh3_64(header + footer + trailer[:40]), "checksum")
        version, self.kind, _, incompat, self.id = struct.unpack("<IIII16s", header[8:40])
        need(version == 1 and incompat == 0 and self.kind in (1, 2), "version")
        need(not any(header[40:]) and reserved == 0, "reserved")
        need(at + length + TRAILER == len(data), "the footer's place")
        need(length == ENTRY * groups + 16 * objects, "the footer's length")
        need((self.id, self.kind, len(data), groups, objects) == row, "another pack")
        ids = [footer[ENTRY * groups + 16 * i:][:16] for i in range(objects)]
        self.read_entries(footer, groups, ids)
        end = self.groups[-1][0] + self.groups[-1][1] if self.groups else HEADER
        if parity == 0:
            need(end == at and parity_sum == 0, "bytes before the footer")
            return
        need(end + TRAILER + parity == at, "bytes before the footer")
        need(data[end:end + TRAILER] == trailer, "the first trailer")
        stored = data[end + TRAILER:at]
        need(xxh3_64(stored) == parity_sum, "checksum of the parity")
        need(parity <= min(2097152, end + length) and
             parity >= min(8192, end + length), "length of the parity")
        need(stored == fold(footer, data[:end], parity), "parity")

    def read_entries(self, footer, groups, ids):
        self.groups, self.objects = [], {}
        end, first = HEADER, 0
        for n in range(groups):
            entry = struct.unpack("<QIIBBHQ32s", footer[ENTRY * n:ENTRY * (n + 1)])
            offset, length, raw, codec, reserved, count = entry[:6]
            need(offset == end and reserved == 0 and codec in (0, 1), "a group's place")
            need(1 <= raw <= 1048576 and 1 <= count <= 1024, "a group's size")
            need(length == raw if codec == 0 else length < raw, "a group's length")
            need(self.kind != 1 or raw == PAGE * count, "a group's pages")
            self.groups.append(entry + (ids[first:first + count],))
            for i, name in enumerate(ids[first:first + count]):
                need(self.kind != 1 or name != ZERO_REF, "a zero page")
                self.objects.setdefault(name, (n, i))
            end, first = end + length, first + count
        need(first == len(ids), "number of objects")

    def group(self, number):
        """Its objects, all checked."""
        offset, length, raw, codec, _, count, check, sha, ids = self.groups[number]
        stored = self.data[offset:offset + length]
        need(xxh3_64(stored) == check, "a group's checksum")
        data = stored if codec == 0 else one_frame(stored, raw)
        need(hashlib.sha256(data).digest() == sha, "a group's SHA-256")
        if self.kind == 1:
            objects = [data[PAGE * i:PAGE * (i + 1)] for i in range(count)]
            need(all(map(same_key, objects, ids)), "a page's key")
            return objects
        objects, at = [], 0
        for name in ids:
            level, present = struct.unpack_from("<BI", data, at + 3)
            size = 8 + bin(present).count("1") * (16 if level == 0 else 32)
            objects.append(data[at:at + size])
            need(hashlib.sha256(objects[-1]).digest()[:16] == name, "a node's SHA-256")
            at += size
        need(at == len(data), "bytes behind the nodes")
        return objects


def fold(footer, before, p):
    """The parity of a pack: byte i of the footer falls on i modulo p; what comes before
    the parity falls so that its end falls on the parity's end."""
    total = 0
    parts = [footer[i:i + p].ljust(p, b"\0") for i in range(0, len(footer), p)]
    while before:
        parts.append(before[-p:].rjust(p, b"\0"))
        before = before[:-p]
    for part in parts:
        total ^= int.from_bytes(part, "little")
    return total.to_bytes(p, "little")


# ---- stores ----

SUMS = {
    "pack": "id, kind, bytes, groups, objects",
    "checkpoint": "id, machine, name, created_us, state",
    "machine": "name, created_us, head, origin",
    "image": "name, tag, id, created_us",
    "verified": "seq, at_us",
}


def row_sum(values):
    sha = hashlib.sha256()
    for value in values:
        if value is None:
            kind, data = 5, b""
        elif isinstance(value, bytes):
            kind, data = 4, value
        elif isinstance(value, str):
            kind, data = 3, value.encode()
        else:
            kind, data = 1, b"%d" % value
        sha.update(struct.pack("<II", kind, len(data)) + data)
    return int.from_bytes(sha.digest()[:8], "little") >> 1

class Store:
    def __init__(self, path):
        self.db = sqlite3.connect("file:%s/catalogue.db?mode=ro" % path, uri=True)
        self.db.execute("BEGIN")  # one state of it, whatever others do
        need(self.db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (1,),
             "schema")
        for table, columns in SUMS.items():
            for row in self.db.execute("SELECT sum, %s FROM %s" % (columns, table)):
                need(row_sum(row[1:]) == row[0], "a row of the table " + table)
        self.packs = {1: [], 2: []}
        for row in self.db.execute("SELECT id, kind, bytes, groups, objects FROM pack"
                                   " WHERE condemned IS NULL"):
            try:
                pack = Pack("%s/packs/%s.pack" % (path, row[0].hex()), row)
            except Corrupt as what:
                raise Corrupt("pack %s: %s" % (row[0].hex(), what))
            self.packs[row[1]].append(pack)
        self.decoded = {}

    def find(self, kind, name):
        for pack in self.packs[kind]:
            if name not in pack.objects:
                continue
            group, number = pack.objects[name]
            key = pack.id, group
            if key not in self.decoded:
                self.decoded[key] = pack.group(group)
            return self.decoded[key][number]
        raise Corrupt("an object %s is nowhere" % name.hex())

    def checkpoints(self):
        return [row[0] for row in self.db.execute("SELECT id FROM checkpoint ORDER BY seq")]

    def names(self):
        for row in self.db.execute("SELECT id, machine, name FROM checkpoint ORDER BY seq"):
            yield row[0].hex() if row[1] is None else "%s@%s" % row[1:]
        for row in self.db.execute("SELECT name, tag FROM image ORDER BY name, tag"):
            yield "%s:%s" % row

    def manifest(self, name):
        text, = self.db.execute("SELECT manifest FROM checkpoint WHERE id = ?", (name,)).fetchone()
        text = bytes(text)
        need(hashlib.sha256(text).digest() == name, "a manifest's SHA-256")
        manifest = json.loads(text, object_pairs_hook=unique, parse_float=no_reals)
        need(canonical(manifest).encode() == text, "a manifest in another form")
        need(manifest["schema"] == 1 and manifest["incompat"] == [], "schema")
        return manifest

    def blob(self, name, size):
        data, = self.db.execute("SELECT data FROM blob WHERE digest = ?", (name,)).fetchone()
        need(len(data) == size and hashlib.sha256(data).digest() == name, "device state")
        return data

    def node(self, name, level):
        data = self.find(2, name[:16])
        need(hashlib.sha256(data).digest() == name, "another node of the same beginning")
        magic, version, found, present = struct.unpack_from("<2sBBI", data)
        need((magic, version, found) == (b"SM", 1, level), "a node's header")
        need(level == 0 or present < 1 << 16, "a node's entries")
        size = 16 if level == 0 else 32
        entries, at = {}, 8
        for i in range(32):
            if present >> i & 1:
                entries[i], at = data[at:at + size], at + size
        need(at == len(data), "a node's length")
        need(level != 0 or ZERO_REF not in entries.values(), "a zero page in a map")
        return entries

    def pages(self, root, size):
        """Number and bytes of all pages that are not zero, in order."""
        count, level = -(-size // PAGE), 0
        while 32 * 16 ** level < count:
            level += 1
        need(level <= 10, "a space's size")

        def walk(name, level, first):
            entries = self.node(name, level)
            need(entries or name == root, "an empty child")
            for i, entry in sorted(entries.items()):
                page = first + i * (32 * 16 ** (level - 1) if level > 0 else 1)
                need(page < count, "a page behind the end")
                if level == 0:
                    yield page, self.find(1, entry)
                else:
                    yield from walk(entry, level - 1, page)

        return walk(root, level, 0)


# ---- manifests ----

def unique(pairs):
    need(len(dict(pairs)) == len(pairs), "a name comes twice")
    return dict(pairs)


def no_reals(text):
    raise Corrupt("a real number: " + text)


def canonical(value):
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda item: item[0].encode())
        return "{%s}" % ",".join(canonical(k) + ":" + canonical(v) for k, v in members)
    if isinstance(value, list):
        return "[%s]" % ",".join(map(canonical, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
             "\t": "\\t"}
    return '"%s"' % re.sub(r'["\\\x00-\x1f]',
                           lambda m: short.get(m[0]) or "\\u%04X" % ord(m[0]), value)


def digest(text):
    need(re.fullmatch("sha256:[0-9a-f]{64}", text), "a digest")
    return bytes.fromhex(text[7:])


# ---- device state ----

def check_state(data):
    magic, version, count = struct.unpack_from("<8sII", data)
    need(magic == b"STASTATE" and version == 1 and count <= 4096, "the state's header")
    at, seen = 16, set()
    for _ in range(count):
        kind, instance, _, flags, length, reserved = struct.unpack_from("<HHHHII", data, at)
        need(flags in (0, 1) and reserved == 0, "a record's header")
        need((kind, instance) not in seen, "a record comes twice")
        seen.add((kind, instance))
        end = at + 16 + length
        at = -(-end // 8) * 8
        need(not any(data[end:at]), "what fills up a record")
    need(at == len(data), "bytes behind the last record")


# ---- ----

def write_space(store, path, root, size):
    with open(path, "wb") as out:
        for page, data in store.pages(root, size):
            need(any(data), "a zero page is stored")
            out.seek(page * PAGE)
            out.write(data)
        out.truncate(size)


def write_all(store, directory):
    for name in store.checkpoints():
        place = os.path.join(directory, name.hex())
        os.makedirs(place)
        manifest = store.manifest(name)
        need(manifest["kind"] in ("cold", "warm"), "kind")
        need(("state" in manifest) == (manifest["kind"] == "warm"), "kind and state")
        for space, what in manifest["spaces"].items():
            need(re.fullmatch("[a-z][a-z0-9]{0,14}", space), "a space's name")
            write_space(store, os.path.join(place, space), digest(what["root"]),
                        what["size_bytes"])
        if "state" in manifest:
            state = manifest["state"]
            data = store.blob(digest(state["digest"]), state["size_bytes"])
            check_state(data)
            with open(os.path.join(place, "state"), "wb") as out:
                out.write(data)


def main():
    if len(sys.argv) == 3 and sys.argv[2] == "list":
        for line in Store(sys.argv[1]).names():
            print(line)
    elif len(sys.argv) == 4 and sys.argv[2] == "all":
        write_all(Store(sys.argv[1]), sys.argv[3])
    else:
        sys.exit("usage: reader.py STORE list | all DIR")


if __name__ == "__main__":
    try:
        main()
    except Corrupt as what:
        sys.exit("reader.py: damaged: %s" % what)
