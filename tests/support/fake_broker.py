#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""fake_broker.py PATH MODE - listens like a broker, says "listens", and answers each HELLO as MODE says; for what a client makes of it.

MODE: version  a broker that speaks another protocol       hangup   closes without a word
      quota    too many sessions                           silent   never answers
      garbage  bytes that are no message                   no-fds   WELCOME without its descriptors
      type     a message that is no answer to HELLO        null-fds WELCOME with descriptors of /dev/null
"""
import errno
import os
import re
import signal
import socket
import struct
import sys

WELCOME, READY, ERROR = 64, 66, 68


def message(kind, body):
    return struct.pack("<HHIII", kind, 0, 16 + len(body), 1, 0) + body


def refusal(error, text):
    return message(ERROR, struct.pack("<iI160s", -error, 0, text))


with open(os.path.join(os.path.dirname(__file__), "../../shm/control.h"), encoding="ascii") as control:
    VERSION = int(re.search(r"INF_CTL_VERSION (\d+)u", control.read()).group(1))
WELCOME_BODY = struct.pack("<IIQQQQQ", VERSION, 1, 3, 1, 0, 1 << 20, 0x60000)
ANSWERS = {
    "version": refusal(errno.EPROTONOSUPPORT, b"the library speaks protocol 1..1, the broker 2..2: update the client library"),
    "quota": refusal(errno.EDQUOT, b"too many sessions"),
    "garbage": b"this is no message of ours, but it is long enough to be one",
    "type": message(READY, struct.pack("<II", 0, 0)),
    "no-fds": message(WELCOME, WELCOME_BODY),
    "null-fds": message(WELCOME, WELCOME_BODY),
}


def main():
    path, mode = sys.argv[1], sys.argv[2]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    print("listens", flush=True)
    kept = []
    while True:
        connection, _ = listener.accept()
        if not connection.recv(4096):  # shmctl doctor looks whether it is let in
            connection.close()
            continue
        if mode == "silent":
            kept.append(connection)
            continue
        if mode == "null-fds":
            fds = [os.open("/dev/null", os.O_RDWR) for _ in range(3)]
            socket.send_fds(connection, [ANSWERS[mode]], fds)
        elif mode != "hangup":
            connection.send(ANSWERS[mode])
        connection.close()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main()
