#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""without_io_uring.py COMMAND... - runs COMMAND where the kernel refuses io_uring to it (EPERM), as containers do: by seccomp."""
import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, AT_LEAST, ABOVE, RETURN = 0x20, 0x35, 0x25, 0x06  # of classic BPF: ld abs, jge, jgt, ret
IO_URING_SETUP, IO_URING_REGISTER = 425, 427  # the same for every processor
EPERM, ALLOW = 0x00050001, 0x7FFF0000

PROGRAM = [
    (LOAD, 0, 0, 0),  # the call's number
    (AT_LEAST, 0, 2, IO_URING_SETUP),
    (ABOVE, 1, 0, IO_URING_REGISTER),
    (RETURN, 0, 0, EPERM),
    (RETURN, 0, 0, ALLOW),
]


def main():
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in PROGRAM))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(PROGRAM), ctypes.addressof(filters)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
