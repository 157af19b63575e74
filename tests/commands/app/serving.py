"""The page's server in a thread, to be stopped and started at one port."""

import socket
import threading
import time

import uvicorn

from mamoe.commands.app.server import make_app
from mamoe.commands.app.studio import Studio


class Served:
    """A server on 127.0.0.1, running from its making on."""

    def __init__(self, studio: Studio, token: str | None = None) -> None:
        self._app, self.port = make_app(studio, token), 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(self._app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()
