"""Pages of ours inside the Airflow UI, for the signed-in user: the reports under ``archives/`` and the gates.

Every route asks for the signed-in user, the API's own description included; FastAPI's ready-made pages, which would not ask
and would load scripts from elsewhere, are off.

No ``from __future__ import annotations`` here: FastAPI must see the dependencies themselves.
"""

import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from psycopg import OperationalError

from comporta.errors import ComportaError, UnreachableServer
from comporta.gates import GateRefusal, UnknownGate
from comporta.orchestration import gates_web
from comporta.settings import load_settings

log = logging.getLogger(__name__)
app = FastAPI(title="Comporta", openapi_url=None, docs_url=None, redoc_url=None)
app.include_router(gates_web.router)
app.include_router(gates_web.api)
_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json"}
_SIGN_IN = "Sign in to Airflow, or send a token from POST /auth/token in the Authorization header."


@app.get("/reports/{path:path}", include_in_schema=False)
def read_report(path: str, user: GetUserDep) -> FileResponse:  # noqa: ARG001 - asking for the user is the guard
    """One report, HTML or JSON. Anonymous requests are refused by the dependency; nothing outside archives/ is served."""
    archives = load_settings().archives_path.resolve()
    file = (archives / path).resolve()
    if not file.is_relative_to(archives) or file.suffix not in _TYPES or not file.is_file():
        raise HTTPException(404, f"There is no report {Path(path).name}.")
    # Its scripts draw plots; the sandbox keeps them from acting as the signed-in user.
    return FileResponse(
        file, media_type=_TYPES[file.suffix], headers={"Content-Security-Policy": "sandbox allow-scripts"}
    )


@app.get("/openapi.json", include_in_schema=False)
def describe(request: Request, user: GetUserDep) -> JSONResponse:  # noqa: ARG001 - asking for the user is the guard
    """The gates API in OpenAPI's words."""
    document = get_openapi(
        title="Comporta gates",
        version="1",
        description="Questions put to people, with evidence and a policy; the same verbs as the Gates page in Airflow.",
        routes=app.routes,
        servers=[{"url": request.scope.get("root_path", "")}],
    )
    return JSONResponse(document)


@app.exception_handler(HTTPException)
def explain(request: Request, error: HTTPException) -> Response:
    """A problem in JSON; a browser that is not signed in is sent to Airflow's sign-in and comes back afterwards."""
    if error.status_code == HTTPStatus.UNAUTHORIZED and "text/html" in request.headers.get("accept", ""):
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        mounted_under = request.scope.get("app_root_path", "")
        return RedirectResponse(f"{mounted_under}/api/v2/auth/login?{urlencode({'next': here})}", status_code=303)
    if isinstance(error, gates_web.Refusal):
        return _problem(error.status_code, error.code, str(error.detail), error.remedy, **error.more)
    code, remedy = {
        401: ("anonymous", _SIGN_IN),
        403: ("forbidden", "Sign in again, or ask an Airflow administrator."),
        404: ("not_found", ""),
    }.get(error.status_code, ("refused", ""))
    return _problem(error.status_code, code, str(error.detail), remedy, headers=error.headers)


@app.exception_handler(RequestValidationError)
def explain_malformed(request: Request, error: RequestValidationError) -> Response:  # noqa: ARG001 - Starlette's signature
    """Names the first field that is not as described."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _problem(422, "malformed", f"{where}: {first['msg']}", "See /comporta/openapi.json.")


@app.exception_handler(ComportaError)
def explain_error(request: Request, error: ComportaError) -> Response:  # noqa: ARG001 - Starlette's signature
    """A refusal of the gate book keeps its code; a server that is away is no fault of the request."""
    match error:
        case GateRefusal(refusal=refusal):
            return _problem(409, refusal.code, refusal.why, refusal.remedy)
        case UnknownGate():
            return _problem(404, "unknown_gate", error.message, "List the gates again.")
        case UnreachableServer():
            return _problem(503, "unreachable", error.message, error.remedy)
        case _:
            return _problem(500, "misconfigured", error.message, error.remedy)


@app.exception_handler(OperationalError)
def explain_broken_off(request: Request, error: OperationalError) -> Response:  # noqa: ARG001 - Starlette's signature
    """A connection that is lost in the middle leaves open whether the call was carried out; the list knows."""
    log.error("the control database broke off: %s", error)
    remedy = "List the gates again: the list shows whether it was recorded."
    return _problem(503, "broken_off", "the control database broke off in the middle", remedy)


def _problem(status: int, code: str, why: str, remedy: str, *, headers: Any = None, **more: Any) -> JSONResponse:
    content = {"title": HTTPStatus(status).phrase, "status": status, "code": code, "why": why, "remedy": remedy, **more}
    return JSONResponse(content, status, headers=headers, media_type="application/problem+json")
