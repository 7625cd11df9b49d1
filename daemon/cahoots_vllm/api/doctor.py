"""The route of the doctor."""

from dataclasses import dataclass

from aiohttp import web
from pydantic import TypeAdapter

from cahoots_vllm.api.access import Access
from cahoots_vllm.api.routes import Route
from cahoots_vllm.control.doctor import Examination
from cahoots_vllm.control.examination import Doctor

_EXAMINATION = TypeAdapter(Examination)


@dataclass(frozen=True, slots=True)
class DoctorHandlers:
    """What it asks."""

    doctor: Doctor

    async def examine(self, _request: web.Request) -> web.Response:
        """Every check of this host, within 5 s."""
        found = await self.doctor.examine()
        return web.Response(body=_EXAMINATION.dump_json(found), content_type="application/json")


def routes(handlers: DoctorHandlers) -> tuple[Route, ...]:
    """Return the table's rows."""
    return (Route("GET", "/v1/doctor", Access.LOOK, handlers.examine, "Examination"),)
