"""Runs a command and prints what it used: seconds, CPU seconds, peak bytes, exit status, as JSON.

A program of its own because a process's peak memory includes that of the process that started it: this one is small.
"""
import os
import sys
import time

command = sys.argv[1:]
actions = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
start = time.perf_counter()
pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
_, status, used = os.wait4(pid, 0)
elapsed = time.perf_counter() - start
cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
print(f'{{"wall": {elapsed}, "cpu": {cpu}, "peak": {peak}, "exit": {os.waitstatus_to_exitcode(status)}}}')
