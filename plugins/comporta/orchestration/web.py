"""Pages of ours inside the Airflow UI, for the signed-in user: the reports under ``archives/``.

No ``from __future__ import annotations`` here: FastAPI must see the dependencies themselves.
"""

from pathlib import Path

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from comporta.settings import load_settings

app = FastAPI(title="Comporta", description="Reports of the release, for the signed-in user.")
_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json"}


@app.get("/reports/{path:path}")
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
