"""The agent's server: one thread for each connection, which serves its requests one after the other."""

from __future__ import annotations

import _thread
import socket
import sys
import time
from collections.abc import Callable

from . import frames
from .activity import Activity
from .archive_files import ArchiveFiles
from .archives import Archives
from .arguments import Arguments, Paths
from .carrier import Carrier
from .channel import Channel, ClosedError
from .files import Files
from .identity import IdentityHolder
from .metrics import Metrics
from .outbound import Outbound
from .processes import Processes
from .refusals import GUEST, RefusalError, from_os_error, invalid
from .search import Search
from .sessions import Sessions
from .terminals import Terminals
from .volumes import Volumes
from .watches import Watches

Handler = Callable[[Channel, Arguments], None]

_MAX_CONNECTIONS = 512
_STACK_SIZE = 512 * 1024
_RETRY_S = 0.05


class Service:
    """Accepts connections and dispatches requests to the agent's parts."""

    def __init__(
        self,
        identity: IdentityHolder,
        processes: Processes,
        terminals: Terminals,
        sessions: Sessions,
        files: Files,
        metrics: Metrics,
        activity: Activity,
        outbound: Outbound,
        carrier: Carrier,
        paths: Paths,
        volumes: Volumes,
    ) -> None:
        self._identity = identity
        self._outbound = outbound
        self._paths = paths
        self._lock = _thread.allocate_lock()
        self._channels: set[Channel] = set()
        archives, archive_files = Archives(), ArchiveFiles()
        self._handlers: dict[str, Handler] = {
            "ping": identity.ping,
            "identify": self._identify,
            "set_clock": identity.set_clock,
            "exec": processes.run,
            "start": processes.start,
            "processes": processes.list,
            "forget": processes.forget,
            "wait": processes.wait,
            "read_output": processes.read_output,
            "attach": processes.attach,
            "send_stdin": processes.send_stdin,
            "feed": processes.feed,
            "signal": processes.signal,
            "list": files.list,
            "stat": files.stat,
            "read": files.read,
            "write": files.write,
            "make_directory": files.make_directory,
            "delete": files.delete,
            "move": files.move,
            "copy": files.copy,
            "search": Search().find,
            "pack": archives.pack,
            "unpack": archives.unpack,
            "compress": archive_files.compress,
            "extract": archive_files.extract,
            "watch": Watches().watch,
            "terminal_open": terminals.open,
            "terminals": terminals.list,
            "terminal_input": terminals.input,
            "terminal_resize": terminals.resize,
            "terminal_read": terminals.read,
            "terminal_close": terminals.close,
            "session_open": sessions.open,
            "session_start": sessions.start,
            "session_wait": sessions.wait,
            "session_read": sessions.read,
            "session_input": sessions.input,
            "session_resize": sessions.resize,
            "session_interrupt": sessions.interrupt,
            "session_close": sessions.close,
            "metrics": metrics.read,
            "activity": activity.read,
            "outbound": outbound.poll,
            "refuse": outbound.refuse,
            "answer": outbound.answer,
            "carry": outbound.carry,
            "connect": carrier.connect,
            "volume_mount": volumes.mount,
            "volume_unmount": volumes.unmount,
            "volume_freeze": volumes.freeze,
            "volume_thaw": volumes.thaw,
            "pause": volumes.pause,
            "resume": volumes.resume,
        }

    def serve(self, listener: socket.socket) -> None:
        """Accept connections forever."""
        _thread.stack_size(_STACK_SIZE)
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                time.sleep(_RETRY_S)  # The peer disconnected before the accept, or no descriptors are free.
                continue
            channel = Channel(sock)
            with self._lock:
                full = len(self._channels) >= _MAX_CONNECTIONS
                if not full:
                    self._channels.add(channel)
            try:
                if full:
                    raise RuntimeError("too many connections")  # noqa: TRY301 (the same as too many threads)
                _thread.start_new_thread(self._serve_connection, (channel,))
            except RuntimeError:
                with self._lock:
                    self._channels.discard(channel)
                channel.close()

    def _serve_connection(self, channel: Channel) -> None:
        try:
            # Looks the secret up only after the proof has arrived, so that a secret replaced meanwhile is not accepted.
            if channel.authenticate(lambda: self._identity.secret):
                while not channel.retired:
                    self._serve_request(channel)
        except (ClosedError, frames.FrameError, OSError):
            return  # The peer disconnected or violated the protocol, which ends only this connection.
        finally:
            with self._lock:
                self._channels.discard(channel)
            channel.close()

    def _serve_request(self, channel: Channel) -> None:
        values = channel.request()
        name: object = values.pop("op", None)
        try:
            handler = self._handlers.get(name) if isinstance(name, str) else None
            if handler is None:
                raise invalid(f"op: the agent does not know {str(name)[:80]!r}")  # noqa: TRY301 (answered like the handlers' errors)
            handler(channel, Arguments(values, self._paths))
        except RefusalError as refusal:
            channel.send_error(refusal)
        except OSError as error:
            channel.send_error(from_os_error(error))
        except (ClosedError, frames.FrameError):
            raise
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            channel.send_error(RefusalError(GUEST, f"the agent failed at {name}: {type(error).__name__}"))
        channel.skip_body()

    def _identify(self, channel: Channel, arguments: Arguments) -> None:
        certificate = self._identity.take(arguments)
        with self._lock:
            others = [other for other in self._channels if other is not channel]
        for other in others:
            other.retire()
        self._outbound.drop()
        channel.send_result(certificate)
