"""What happens, as people read it in the journal or on a terminal, and as systemd's STATUS.

One entry a happening, with fields for programs (CAHOOTS_MODEL, CAHOOTS_PHASE, CAHOOTS_GENERATION,
CAHOOTS_CAUSE, …). From priority warning up it is the story of what went wrong, and of its end.
"""

import json
import logging
import pwd
import time
from collections.abc import Callable, Mapping

from cahoots_vllm.control.event_hub import EventType, PublishedEvent
from cahoots_vllm.control.worker_log import WorkerLog
from cahoots_vllm.core.wire import OperationState, Phase

_FAILURE_FIELDS = ("model", "cause", "evidence", "remedy", "action")
_LOG = logging.getLogger("cahoots_vllm")


class Story:
    """Listens to the event hub and writes."""

    def __init__(self, show: Callable[[str], None], worker_log: WorkerLog) -> None:
        """`show` takes the line for STATUS=; what a worker said is told before what it led to."""
        self._show = show
        self._worker_log = worker_log
        self._phase: Mapping[str, str] = {}
        self._shown = ""
        # When and which model failed, so that nothing was served: until something is again.
        self._outage: tuple[float, str] | None = None
        self._is_wish_new = False
        self._served = ""
        self._is_refusing = False

    def tell(self, event: PublishedEvent) -> None:
        """Write one event."""
        data = event.data
        match event.type:
            case EventType.PHASE | EventType.PROGRESS:
                self._tell_phase(data, is_new=event.type is EventType.PHASE)
            case EventType.RELOAD:
                self._tell_reload(data)
                self._is_wish_new |= data["error"] is None
            case EventType.DIAGNOSIS:
                if data["serving"] is None:
                    self._outage, self._is_wish_new = (time.monotonic(), str(data["model"])), False
                self._tell_failure(data)
            case EventType.OPERATION:
                _tell_operation(data)
                is_wish = data["progress"] is None or data["state"] == OperationState.ABORTED
                self._is_wish_new |= is_wish and data["kind"] != "pull"
                self._show_pull(data)
            case EventType.DEMAND:
                self._is_wish_new = True
                _LOG.info("%s", data["text"], extra={"fields": _fields(data, "model")})

    def _tell_phase(self, data: Mapping[str, object], *, is_new: bool) -> None:
        if is_new:
            self._phase = _fields(data, "model", "state", "generation")
            self._worker_log.phase(self._phase)
        fields = self._phase
        _LOG.info("%s", data["text"], extra={"fields": fields})
        self._shown = str(data["text"])
        self._show(self._shown)
        if data.get("state") == Phase.OFF:
            self._outage = None  # nobody waits for it any more
        if data.get("state") == Phase.READY:
            self._tell_end(str(data["model"]))

    def _tell_end(self, model: str) -> None:
        """Say when an outage is over; another model that was asked for since is no end of it."""
        again = " again" if model == self._served else ""
        outage, self._outage, self._served = self._outage, None, model
        if outage is None:
            return
        failed_at, failed = outage
        if model == failed or not self._is_wish_new:
            # A warning, for who reads no less: else the story had no end.
            _LOG.warning(
                "%s is served%s, %.0f s after the failure",
                model, again, time.monotonic() - failed_at, extra={"fields": self._phase},
            )  # fmt: skip

    def _show_pull(self, data: Mapping[str, object]) -> None:
        """Show how far a download is, beside what is served; in the journal it would be noise."""
        progress = data["progress"]
        if data["kind"] != "pull" or not isinstance(progress, Mapping):
            return
        is_running = data["state"] == OperationState.RUNNING
        self._show(f"{self._shown}; {progress['text']}" if is_running else self._shown)

    def _tell_failure(self, data: Mapping[str, object]) -> None:
        """Say why it failed and what is done about it, in one entry."""
        self._worker_log.flush()
        fields = _fields(data, *_FAILURE_FIELDS)
        # A model that is not even started fails beside the one that serves: that one's are not its.
        if fields["CAHOOTS_MODEL"] == self._phase.get("CAHOOTS_MODEL"):
            fields = {**self._phase, **fields}
        fields["CAHOOTS_CHANGED"] = json.dumps(data["changed"])
        _LOG.error(
            "%s: %s: %s; %s; %s",
            data["model"], data["cause"], data["evidence"], data["remedy"], data["action"],
            extra={"fields": fields},
        )  # fmt: skip

    def _tell_reload(self, data: Mapping[str, object]) -> None:
        if data["error"] is not None:
            _LOG.error("the settings cannot be used, the last good ones stay: %s", data["error"])
        else:
            level = logging.WARNING if self._is_refusing else logging.INFO  # the end, as above
            _LOG.log(level, "settings read again: %s", data["text"])
        self._is_refusing = data["error"] is not None


def _fields(data: Mapping[str, object], *names: str) -> dict[str, str]:
    keys = {"state": "phase"}
    return {
        f"CAHOOTS_{keys.get(name, name).upper()}": str(data[name])
        for name in names
        if data.get(name) is not None
    }


def _tell_operation(data: Mapping[str, object]) -> None:
    """Say who asked for a change, and how it ended."""
    what = f"operation {data['id']} ({data['kind']})"
    by, params, problem = (
        dict(part) if isinstance(part, Mapping) else {}
        for part in (data["by"], data["params"], data["problem"])
    )
    fields = {
        "CAHOOTS_OPERATION": str(data["id"]),
        "CAHOOTS_UID": str(by.get("uid")),
        "CAHOOTS_PID": str(by.get("pid")),
        **_fields(params, "model"),
    }
    if data["progress"] is None:
        asked = "".join(f", {name} {value}" for name, value in params.items())
        who = f"{_user(by.get('uid'))} (uid {by.get('uid')}), pid {by.get('pid')}"
        _LOG.info("%s asked for by %s%s", what, who, asked, extra={"fields": fields})
    elif data["state"] != OperationState.RUNNING:
        why = f": {problem.get('detail')}" if problem else ""
        # Asked for and not done is what somebody will look for.
        level = logging.WARNING if data["state"] == OperationState.FAILED else logging.INFO
        _LOG.log(level, "%s: %s%s", what, data["state"], why, extra={"fields": fields})


def _user(uid: object) -> str:
    try:
        return pwd.getpwuid(int(str(uid))).pw_name
    except (KeyError, ValueError):
        return "unknown"
