# SPDX-License-Identifier: Apache-2.0
"""A guest that connects by Python's standard library."""

import encodings.idna  # names are encoded by it, and what is not imported is left out
import socket
import sys

from wit_world import exports


class Run(exports.Run):
    def run(self):
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
                s.sendall(b"from python\n")
                print(s.makefile().readline(), end="")
        except OSError as e:
            print(type(e).__name__)
