# SPDX-License-Identifier: Apache-2.0
"""The identity model for mosec: POST /inference answers the body.

One worker and no batching, for which a lone request would wait.
"""

from mosec import Server, Worker


class Identity(Worker):
    def deserialize(self, data):
        return data

    def forward(self, data):
        return data

    def serialize(self, data):
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Identity, num=1)
    server.run()
