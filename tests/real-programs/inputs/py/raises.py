# Ends with an exception that nobody catches: exit status 1 and a traceback on stderr.
class Broken(Exception):
    pass


def inner(depth):
    if depth == 0:
        raise Broken("the end of it: é")
    inner(depth - 1)


print("before")
try:
    [][1]
except IndexError as e:
    inner(3)
