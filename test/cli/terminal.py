"""Runs a command in a pseudo-terminal: terminal.py ROWS COLUMNS COMMAND... What it writes goes to standard output, what comes
from standard input is typed, and its end is the end."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios

rows, columns, *command = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    # The size is there before the command looks at it.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", int(rows), int(columns), 0, 0))
    os.execvp(command[0], command)

watched = [0, terminal]
while terminal in watched:
    for ready in select.select(watched, [], [])[0]:
        try:
            data = os.read(ready, 65536)
        except OSError:  # Linux says so when the command has closed its side.
            data = b""
        if data:
            os.write(1 if ready == terminal else terminal, data)
        else:
            watched.remove(ready)

_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
