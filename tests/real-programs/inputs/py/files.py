# Creates, changes and removes a tree below /data and prints what the file system says at each step.
import errno, glob, os, shutil, stat, sys

base = "/data"


def show(path, *, follow=True):
    s = os.stat(path, follow_symlinks=follow)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}.get(stat.S_IFMT(s.st_mode), "?")
    print(f"{path}: {kind} size={s.st_size if kind == 'file' else '-'} links={s.st_nlink if kind == 'file' else '-'}")


def tree(top):
    for d, dirs, files in os.walk(top):
        dirs.sort()
        print("  ", d, dirs, sorted(files))


os.makedirs(base + "/a/b/c")
for i in range(25):
    with open(f"{base}/a/f{i:02}.txt", "w") as f:
        f.write("line\n" * i)
with open(base + "/a/b/ünï cøde 文.bin", "wb") as f:
    f.write(bytes(range(256)) * 300)
tree(base)
show(base + "/a/f07.txt")
show(base + "/a/b")

with open(base + "/a/b/ünï cøde 文.bin", "r+b") as f:
    f.seek(70000)
    print(f.tell(), f.read(4), f.seek(-5, 2), f.read())
    f.seek(100)
    f.write(b"patched")
    f.truncate(50000)
    print(f.seek(0, 2))
    f.seek(60000)
    f.write(b"after a hole")
show(base + "/a/b/ünï cøde 文.bin")
with open(base + "/a/b/ünï cøde 文.bin", "rb") as f:
    d = f.read()
    print(len(d), d[100:107], d[55000:55004], d[-12:])

with open(base + "/log", "a") as f, open(base + "/log", "a") as g:
    for i in range(3):
        f.write(f"f{i}\n"); f.flush()
        g.write(f"g{i}\n"); g.flush()
print(open(base + "/log").read().split())

fd = os.open(base + "/raw", os.O_RDWR | os.O_CREAT | os.O_EXCL)
print(os.write(fd, b"0123456789"), os.pread(fd, 4, 3), os.pwrite(fd, b"XY", 8), os.lseek(fd, 0, os.SEEK_CUR))
os.fsync(fd)
os.fdatasync(fd)
os.ftruncate(fd, 4)
os.lseek(fd, 0, os.SEEK_SET)
print(os.read(fd, 100), os.fstat(fd).st_size)
os.close(fd)

os.rename(base + "/a/f03.txt", base + "/a/b/c/moved.txt")
os.replace(base + "/a/f04.txt", base + "/a/f05.txt")
print(os.path.getsize(base + "/a/f05.txt"), os.path.exists(base + "/a/f04.txt"))
os.rename(base + "/a/b", base + "/renamed")
os.link(base + "/raw", base + "/raw-too")
show(base + "/raw-too")
with open(base + "/raw-too", "ab") as f:
    f.write(b"!")
print(open(base + "/raw", "rb").read())
os.utime(base + "/raw", ns=(1_000_000_000_123_456_789, 1_500_000_000_987_654_321))
s = os.stat(base + "/raw")
print(s.st_atime_ns, s.st_mtime_ns)
os.symlink("renamed/c/moved.txt", base + "/link")
print(os.readlink(base + "/link"), open(base + "/link").read().split())
show(base + "/link")
show(base + "/link", follow=False)
shutil.copytree(base + "/renamed", base + "/copy", symlinks=True)
shutil.move(base + "/copy", base + "/a/copy")
tree(base)
print(sorted(glob.glob(base + "/**/*1*.txt", recursive=True)))
with os.scandir(base) as it:
    print(sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink()) for e in it))
shutil.rmtree(base + "/a")
os.remove(base + "/link")
os.unlink(base + "/raw-too")
print(sorted(os.listdir(base)))
many = base + "/many"
os.mkdir(many)
for i in range(700):
    open(f"{many}/entry-with-a-rather-long-name-{i:04}", "w").close()
names = os.listdir(many)
print(len(names), len(set(names)), min(names), max(names))
for n in names:
    os.remove(f"{many}/{n}")
print(os.listdir(many))
os.rmdir(many)
sys.stdout.flush()
