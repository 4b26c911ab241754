"""Where the processes of a run meet."""

from __future__ import annotations

import socket

from torch.distributed import TCPStore


class Meeting:
    """A store on a port of loopback that nobody else can have taken: it is open before the processes are told of it.

    It is ours and not the first process's, so that it outlives any of them; it is gone with this object.
    """

    def __init__(self) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1024)
            self.port = int(listening.getsockname()[1])
            self._store: TCPStore | None = TCPStore(
                "127.0.0.1",
                self.port,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=listening.detach(),  # the store closes it
            )

    def close(self) -> None:
        self._store = None
