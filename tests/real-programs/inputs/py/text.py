# Codecs, regular expressions, hashing, compression and structured text over the file given as argument.
import ast, base64, bz2, collections, csv, difflib, hashlib, html, io, json, pickle, re, string, sys, tarfile, textwrap
import unicodedata, urllib.parse, xml.etree.ElementTree as ET, zipfile, zlib

source = open(sys.argv[1], encoding="utf-8").read()
raw = source.encode()
print(len(source), len(raw))
for name in sorted(hashlib.algorithms_guaranteed):
    h = hashlib.new(name, raw)
    print(name, h.hexdigest(16) if name.startswith("shake") else h.hexdigest())
print("crc", zlib.crc32(raw), zlib.adler32(raw))
for level in (1, 6, 9):
    packed = zlib.compress(raw * 20, level)
    assert zlib.decompress(packed) == raw * 20
    print("zlib", level, len(packed), hashlib.md5(packed).hexdigest())
packed = bz2.compress(raw * 20)
assert bz2.decompress(packed) == raw * 20
print("bz2", len(packed), hashlib.md5(packed).hexdigest())
print("b64", base64.b64encode(raw)[:40], base64.b85encode(raw)[:40], base64.b32encode(raw)[-24:])
words = collections.Counter(re.findall(r"\w+", source.casefold()))
print(words.most_common(8))
print(re.sub(r"(?P<a>\b\w)(?P<b>\w*)", lambda m: m["b"] + m["a"], source.splitlines()[0]))
print([m.span() for m in re.finditer(r"(?<=\s)[A-Z]\w+(?=[.,])", source)][:10])
print(re.fullmatch(r"(a+)+", "a" * 200 ) is not None, re.split(r"[,;]\s*", "a, b;c,d"))
print(unicodedata.normalize("NFD", "Ångström ﬁ").encode("utf-8"), unicodedata.name("𝄞"), "ß".upper(), "İ".lower().encode())
print([c.encode(enc).hex() for c, enc in (("é", "latin-1"), ("日本", "shift_jis"), ("한", "euc_kr"), ("汉", "gb18030"), ("€", "cp1252"), ("𝄞", "utf-16-le"))])
rows = list(csv.reader(io.StringIO('a,"b ""q"" c",d\n1,2,"3\n4"\n')))
print(rows, json.dumps({"rows": rows, "é": [1.5, None, True, 1e400, "\u2028\x00"]}, sort_keys=True))
tree = ET.fromstring("<r a='1'><x>t&amp;u</x><y/>tail</r>")
print(ET.tostring(tree), [e.tag for e in tree.iter()], html.unescape("&lt;&eacute;&#128512;"))
data = {"k": [1, 2.5, (3, b"\x00\xff"), {4, 5}], "n": None}
print(pickle.loads(pickle.dumps(data, 5)) == data, hashlib.sha1(pickle.dumps(data["k"][:3], 4)).hexdigest(), ast.unparse(ast.parse("x = [i**2 for i in range(3) if i]")))
print(urllib.parse.quote("a b/é?=&"), urllib.parse.parse_qs("a=1&b=%C3%A9&a=2"), textwrap.fill(source[:120], 30).count("\n"), string.Template("$a-${b}").substitute(a=1, b=2))
print("\n".join(difflib.unified_diff("one\ntwo\nthree".split(), "one\n2\nthree\nfour".split(), lineterm="")))
blob = io.BytesIO()
with zipfile.ZipFile(blob, "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr(zipfile.ZipInfo("a/ü.txt", (2020, 2, 2, 2, 2, 2)), source)
print("zip", len(blob.getvalue()), zipfile.ZipFile(blob).testzip(), zipfile.ZipFile(blob).namelist())
blob = io.BytesIO()
with tarfile.open(fileobj=blob, mode="w") as t:
    info = tarfile.TarInfo("x/y.txt")
    info.size = len(raw)
    t.addfile(info, io.BytesIO(raw))
print("tar", hashlib.sha256(blob.getvalue()).hexdigest())
