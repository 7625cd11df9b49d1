"""The composition root: builds every part, runs them, takes them down in order."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cahoots_vllm import __version__
from cahoots_vllm.api.handlers import Handlers
from cahoots_vllm.api.routes import build_routes
from cahoots_vllm.api.server import ApiServer
from cahoots_vllm.beginning import go_on
from cahoots_vllm.control.catalog import Catalog
from cahoots_vllm.control.event_hub import EventHub
from cahoots_vllm.control.gate import Gate
from cahoots_vllm.control.handover import Handover
from cahoots_vllm.control.log_buffer import LogBuffer
from cahoots_vllm.control.metrics import MetricsPage
from cahoots_vllm.control.operation import Caller
from cahoots_vllm.control.parts import Parts
from cahoots_vllm.control.reload import Reloader
from cahoots_vllm.control.rotation import Rotation
from cahoots_vllm.control.settings_source import SettingsSource
from cahoots_vllm.control.shared_hub import SharedHub
from cahoots_vllm.control.snapshot import StatusReader
from cahoots_vllm.control.state_file import StateFile
from cahoots_vllm.control.status import DaemonStatus
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.core.errors import CahootsError
from cahoots_vllm.core.settings import Settings
from cahoots_vllm.core.wire import GROUP
from cahoots_vllm.ending import Ending, Exit
from cahoots_vllm.gateway.metrics import GatewayMetrics
from cahoots_vllm.gateway.server import GatewayServer
from cahoots_vllm.host import cgroup, file_lock, sockets
from cahoots_vllm.host.children import Children, become_subreaper
from cahoots_vllm.host.fd_store import FdStore
from cahoots_vllm.host.gpu import NvmlReader
from cahoots_vllm.host.hub import ProcessHub
from cahoots_vllm.host.hub_answer import ProcessHubLook
from cahoots_vllm.host.journal import Journal, is_journal_stream
from cahoots_vllm.host.listeners import Listeners
from cahoots_vllm.host.notify import Notifier, watchdog_period_s
from cahoots_vllm.host.paths import Paths
from cahoots_vllm.host.watch import FileWatch
from cahoots_vllm.request_log import RequestLog
from cahoots_vllm.services import Needs, Services
from cahoots_vllm.story import Story
from cahoots_vllm.supervision import Ground, build_supervisor
from cahoots_vllm.watchdog import feed_watchdog

# Who asks where a file or a signal does.
_SELF = Caller(os.getuid(), os.getpid())
_NO_CGROUP = (
    "no cgroup is delegated to the daemon: a process of the worker that hides could outlive it; "
    "run it as the systemd service, with Delegate=yes"
)
_LOG = logging.getLogger("cahoots_vllm")


class App:
    """One daemon. `run` returns after a clean stop; an unexpected error ends it."""

    def __init__(
        self,
        load: Callable[[], Settings],
        paths: Paths,
        logs: LogBuffer,
        *,
        keeps_override: bool,
    ) -> None:
        """Bind the sockets first: what is wrong with them is said before anything starts.

        `load` reads the settings, now and at each reload. `keeps_override`: go on with the model
        that `swap-model` chose in an earlier run.
        """
        settings = self._settings = load()
        self._source = SettingsSource(load)
        self._paths = paths
        self._notifier = Notifier()
        self._cgroup = cgroup.find_delegated()
        if self._cgroup is not None:
            cgroup.leave_to_workers(self._cgroup)
        self._events = EventHub()
        self._rotation = Rotation()
        self._children = Children()
        self._hub = SharedHub(ProcessHub(self._children))
        self._state_file = StateFile(paths.state_file)
        self.store = FdStore(os.environ, self._notifier.store)
        # The longest name a worker's socket can get.
        sockets.check_path_length(paths.runtime_dir / "worker-999999999.sock")
        sockets.private_directory(paths.runtime_dir, mode=0o755 if paths.is_system else 0o700)
        self._lock = file_lock.hold(paths.runtime_dir)
        self._handover = Handover(paths.runtime_dir / "handover.json")
        self._listeners = Listeners(self.store, GROUP if paths.is_system else None)
        control = self._listeners.control(paths.control_socket, mode=0o660)
        figures = GatewayMetrics()
        try:
            self._gateway = GatewayServer(
                self._rotation,
                settings.gateway,
                self._listeners,
                (RequestLog().tell, figures.count),
            )
        except CahootsError:
            control.close()
            self._end_listening()
            raise
        has_journal = is_journal_stream(os.environ)
        # A socket of its own: when that one is full, the daemon's own entries are not held up.
        self._worker_log = WorkerLog(Journal() if has_journal else None)
        gpus = NvmlReader()
        gate = Gate(gpus, f"{paths.runtime_dir}#")
        parts = self._build_supervisor(gpus, gate, logs, keeps_override=keeps_override)
        self._gateway.speak_ollama(Catalog(self._supervisor, self._rotation))
        self._watch = FileWatch(self._watched_files)
        self._services = Services(
            Needs(
                supervisor=self._supervisor,
                source=self._source,
                paths=paths,
                gpus=gpus,
                gate=gate,
                fit=parts.fit,
                last_used=parts.last_used,
                hub=self._hub,
                look=ProcessHubLook(self._children),
                events=self._events,
                has_cgroup=self._cgroup is not None,
            )
        )
        status = StatusReader(
            supervisor=self._supervisor,
            rotation=self._rotation,
            state_file=self._state_file,
            gpus=gpus,
            source=self._source,
            watch=self._watch,
            daemon=DaemonStatus(
                pid=os.getpid(),
                since=datetime.now(UTC).isoformat(timespec="milliseconds"),
                version=__version__,
                tree_kill="cgroup" if self._cgroup is not None else "best effort",
            ),
            warnings=(_NO_CGROUP,) if paths.is_system and self._cgroup is None else (),
            slow=self._services.slow,
            standby=self._standby,
            sleepers=self._sleepers,
        )
        self._reloader = Reloader(
            self._source, self._supervisor, self._gateway.apply, self._events, self._notifier
        )
        self._exit = Exit(
            self._supervisor, self._gateway, self._rotation, self._notifier, self._children
        )
        page = MetricsPage(status, figures.registry)
        self._gateway.render_metrics = page.render
        handlers = Handlers(
            self._supervisor,
            status,
            self._events,
            logs,
            parts.learned,
            self._reloader,
            self._exit.replace,
            page,
        )
        rows = (*build_routes(handlers), *self._services.routes())
        self._api = ApiServer(rows, control)

    def _watched_files(self) -> tuple[Path, ...]:
        """Return what settings are read from now; a reload may name another `.env`."""
        paths, settings = self._paths, self._supervisor.settings
        keys = settings.gateway.api_keys_file
        key_files = (Path(keys),) if keys is not None else ()
        return (Path(settings.env_file), paths.config, *key_files, *paths.profile_dirs)

    def _build_supervisor(
        self, gpus: NvmlReader, gate: Gate, logs: LogBuffer, *, keeps_override: bool
    ) -> Parts:
        self._supervisor, parts = build_supervisor(
            Ground(
                settings=self._settings,
                paths=self._paths,
                state_file=self._state_file,
                handover=self._handover,
                store=self.store,
                cgroup=self._cgroup,
                children=self._children,
                rotation=self._rotation,
                hub=self._hub,
                gpus=gpus,
                gate=gate,
                logs=logs,
                worker_log=self._worker_log,
                events=self._events,
            ),
            keeps_override=keeps_override,
        )
        self._standby, self._sleepers = parts.standby, parts.sleepers
        # An error that ends this daemon costs no model load where systemd starts another one.
        self._supervisor.leaves_worker = self._standby.leaves_standby = self._notifier.is_heard
        return parts

    async def run(self) -> Ending:
        """Serve until told to end; the worker has ended then, or goes on for the next daemon."""
        become_subreaper()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._children.reap_orphans)
        self._events.listen(Story(self._notifier.status, self._worker_log).tell)
        await go_on(
            self._supervisor,
            self._standby,
            self._state_file,
            is_same_process=self.store.is_carried,
            cgroup_parent=self._cgroup,
            runtime_dir=self._paths.runtime_dir,
        )
        self.store.close_rest()
        async with asyncio.TaskGroup() as tasks:
            await self._api.start()
            await self._gateway.start()
            supervision = tasks.create_task(self._supervisor.run(), name="supervisor")
            running = [supervision, *self._begin(tasks)]
            self._notifier.ready()
            _LOG.info("listening at %s", " and ".join(self._settings.gateway.endpoints))
            for warning in self._settings.warnings:
                _LOG.warning("%s", warning)
            ending = await self._exit.wait()
            await self._api.leave()  # while there is a supervisor for who asks just now
            self._standby.leaves_standby = ending is not Ending.STOPPED
            for task in reversed(running):
                task.cancel()
        self._worker_log.close()
        await self._gateway.stop()
        await self._api.stop()
        if ending is Ending.STOPPED:
            self._end_listening()
            self._handover.clear()
        if ending is Ending.REPLACED:
            self._exit.hand_on_signals()  # last: until the loop ends they are still taken
        return ending

    def _begin(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Begin what runs beside the supervisor."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGHUP,
            lambda: tasks.create_task(self._reloader.notice(_SELF, is_asked=True), name="reload"),
        )
        watch, save = self._reloader.watch(self._watch, _SELF), self._reloader.save_served()
        begun = [tasks.create_task(watch, name="watch"), tasks.create_task(save, name="save")]
        begun += self._services.begin(tasks)
        begun.append(tasks.create_task(self._standby.run(), name="standby"))
        begun.append(tasks.create_task(self._sleepers.run(), name="sleepers"))
        period_s = watchdog_period_s(os.environ, os.getpid())
        if period_s is not None:
            feed = feed_watchdog(
                period_s, self._supervisor.beat, self._paths.control_socket, self._notifier.alive
            )
            begun.append(tasks.create_task(feed, name="watchdog"))
        return begun

    def _end_listening(self) -> None:
        self._listeners.close()
        self._paths.control_socket.unlink(missing_ok=True)
