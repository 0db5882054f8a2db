"""Settings come from one typed object, built at the entry point; nothing is read at import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from comporta.errors import ConfigurationError

FURTHER_SHADOWS = ("shadow_2", "shadow_3", "shadow_4")


def project_root(start: Path | None = None) -> Path:
    """The folder that holds ``config/`` and ``sql/``: COMPORTA_HOME, else the nearest one upwards from this package."""
    if home := os.environ.get("COMPORTA_HOME"):
        return Path(home).resolve()
    here = (start or Path(__file__)).resolve()
    for folder in here.parents:
        if (folder / "sql" / "support").is_dir() and (folder / "config").is_dir():
            return folder
    raise ConfigurationError(
        f"no Comporta project above {here}: expected a folder with config/ and sql/support/",
        remedy="Set COMPORTA_HOME to the project's folder.",
    )


class Settings(BaseSettings):
    """Where things are. Each field is ``COMPORTA_<NAME>`` in the environment or in ``.comporta/env``.

    DSNs are libpq connection strings; they hold passwords and never appear in logs or reports.
    """

    model_config = SettingsConfigDict(env_prefix="COMPORTA_", extra="ignore")

    home: Path
    control_dsn: str = ""
    target_dsn: str = ""
    shadow_dsn: str = ""
    shadow_2_dsn: str = ""
    shadow_3_dsn: str = ""
    shadow_4_dsn: str = ""
    release: Path = Field(default=Path("config/release.yaml"))
    gates: Path = Field(default=Path("config/gates.yaml"))
    web_url: str = ""
    archives: Path = Field(default=Path("archives"))
    anchors: Path = Field(default=Path("anchors/ledger.jsonl"))
    anchor_copy: Path | None = None
    anchor_key: Path = Field(default=Path(".comporta/anchor-key.pem"))
    bars: Path | None = None
    bars_tz: str = ""
    bars_symbol: str = "WIN"
    bars_adjustment: Literal["none", "proportional", "difference"] = "none"

    @property
    def release_path(self) -> Path:
        """The release file, absolute."""
        return self.home / self.release

    @property
    def gates_path(self) -> Path:
        """The gates file, absolute."""
        return self.home / self.gates

    @property
    def archives_path(self) -> Path:
        """Where reports are kept, absolute."""
        return self.home / self.archives

    @property
    def anchors_path(self) -> Path:
        """The file of the ledger's anchors, absolute; the public keys are beside it."""
        return self.home / self.anchors

    @property
    def anchor_copy_path(self) -> Path | None:
        """A second copy of the anchors, a file or a folder, absolute; None when there is none."""
        return self.home / self.anchor_copy if self.anchor_copy else None

    @property
    def anchor_key_path(self) -> Path:
        """The private key that signs anchors, absolute."""
        return self.home / self.anchor_key

    @property
    def bars_path(self) -> Path | None:
        """The file of bars that the detector is backtested on, absolute; None when there is none."""
        return self.home / self.bars if self.bars else None

    def shadows(self) -> tuple[str, ...]:
        """The DSNs of all shadow servers, the first of which must be set: as many proofs run side by side."""
        further = (name for name in FURTHER_SHADOWS if getattr(self, f"{name}_dsn"))
        return tuple(self.require(name) for name in ("shadow", *further))

    def require(self, name: str) -> str:
        """Return the DSN called ``name`` (``control``, ``target`` or ``shadow``), or say how to set it."""
        dsn: str = getattr(self, f"{name}_dsn")
        if not dsn:
            raise ConfigurationError(
                f"the {name} server is not known: COMPORTA_{name.upper()}_DSN is neither in the environment "
                f"nor in {self.home / '.comporta' / 'env'}",
                remedy="Start the local system with `make run`, or set the variable to a libpq connection string.",
            )
        try:
            conninfo_to_dict(dsn)
        except ProgrammingError:
            raise ConfigurationError(
                f"COMPORTA_{name.upper()}_DSN cannot be read (its text is withheld because it may hold a password)",
                remedy="Expected libpq form, such as 'host=127.0.0.1 port=5432 dbname=gis user=comporta'.",
            ) from None  # its text quotes what it could not read
        return dsn


def load_settings(home: Path | None = None) -> Settings:
    """Read the environment first, then ``.comporta/env``; ConfigurationError names the field that is wrong."""
    root = home or project_root()
    try:
        return Settings(home=root, _env_file=root / ".comporta" / "env")  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(
            f"setting COMPORTA_{'_'.join(str(part) for part in first['loc']).upper()}: {first['msg']}",
            remedy="Correct the environment variable.",
        ) from error
