"""Images: idle copies of the golden database on which some changes of the release stand, each made once for many proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.shadow.clone import Shadow

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Layer:
    """One change on an image: its name and the script that applies it."""

    name: str
    apply: Script


@dataclass(frozen=True)
class Images:
    """The images of one shadow. An image is named by the digest of all that it was made from, so none is ever stale."""

    shadow: Shadow
    support: Sequence[Script]

    def reset(self, layers: Sequence[Layer], owner: str, say: OnProgress = lambda _: None) -> str:
        """Make the clone in use a fresh copy of the image with ``layers``, made first where it is missing; its dsn."""
        if not self.has(layers):
            self._make(layers, owner, say)
        return self.shadow.reset(self.name(layers), owner)

    def has(self, layers: Sequence[Layer]) -> bool:
        """True when the image is there."""
        return self.name(layers) in self._existing()

    def build(self, layers: Sequence[Layer], owner: str, say: OnProgress = lambda _: None) -> str:
        """Make the clone in use one on which ``layers`` stand, from the nearest image, without keeping it; its dsn."""
        depth = next(n for n in range(len(layers), -1, -1) if n == 0 or self.has(layers[:n]))
        dsn = self.reset(layers[:depth], owner, say)
        self._apply(dsn, layers[depth:], say)
        return dsn

    def drop_others(self, wanted: Iterable[Sequence[Layer]]) -> None:
        """Drop every image that is not among ``wanted``: those of earlier scripts, or of an earlier golden copy."""
        names = {self.name(layers) for layers in wanted}
        with self.shadow.maintenance() as conn:
            for name in self._existing():
                if name not in names:
                    conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def _make(self, layers: Sequence[Layer], owner: str, say: OnProgress) -> None:
        if layers:
            dsn = self.build(layers, owner, say)
        else:
            dsn = self.shadow.reset(owner=owner)
            with connect(dsn, name="comporta/image") as conn:
                for script in self.support:
                    run_script(conn, script)
        with connect(dsn, name="comporta/image") as conn:
            conn.execute("vacuum (analyze)")
        self._keep(layers)

    def _apply(self, dsn: str, layers: Sequence[Layer], say: OnProgress) -> None:
        for layer in layers:
            say(f"  {layer.name} is applied for what stands on it")
            with connect(dsn, name="comporta/image") as conn:
                run_script(conn, layer.apply)

    def _keep(self, layers: Sequence[Layer]) -> None:
        clone, name = self.shadow.database, self.name(layers)
        standing = ", ".join(layer.name for layer in layers) or "nothing"
        with self.shadow.maintenance() as conn:
            conn.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", (clone,))
            conn.execute(sql.SQL("alter database {} rename to {}").format(*map(sql.Identifier, (clone, name))))
            conn.execute(
                sql.SQL("comment on database {} is {}").format(sql.Identifier(name), f"comporta: {standing} applied")
            )

    def _existing(self) -> list[str]:
        with self.shadow.maintenance() as conn:
            return [
                name
                for (name,) in conn.execute(
                    "select datname from pg_database where starts_with(datname, %s) order by 1", (self.prefix,)
                )
            ]

    @cached_property
    def _golden_oid(self) -> str:
        with self.shadow.maintenance() as conn:
            row = conn.execute("select oid from pg_database where datname = %s", (self.shadow.golden,)).fetchone()
        return str(row)

    @property
    def prefix(self) -> str:
        """How the name of every image begins."""
        return f"{self.shadow.database}_image_"

    def name(self, layers: Sequence[Layer]) -> str:
        """The image's database: the digest of the golden copy's identity and of every script that makes the image."""
        digests = [
            self._golden_oid,
            *(script.sha256 for script in self.support),
            *(layer.apply.sha256 for layer in layers),
        ]
        return self.prefix + hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]
