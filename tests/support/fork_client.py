"""Replaces `python`: the server beside this file runs the program, with this process's streams and signals."""

import json
import os
import signal
import socket
import sys


def main() -> None:
    server = socket.socket(socket.AF_UNIX)
    server.connect(__file__.rpartition("/")[0] + "/socket")
    mask = os.umask(0o077)
    os.umask(mask)
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "umask": mask,
    }
    content = json.dumps(request).encode()
    message = len(content).to_bytes(8, "big") + content
    sent = socket.send_fds(server, [message], [0, 1, 2])
    server.sendall(message[sent:])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    status = int(server.recv(16) or -signal.SIGKILL)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
